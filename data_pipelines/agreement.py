"""Agreement of a labeller with exact answers: `python -m data_pipelines.agreement DIR`.

    python -m data_pipelines.agreement data/board --labeller=vqa --tuples=400

Draws balanced questions from a data set with exact answers, has the labeller answer
them from the same frames, and prints the rate of agreement: over all, by type of
question, by answer, and above several thresholds of the labeller's confidence.
Answers are balanced, so guessing agrees half of the time.

Axis: n tuples.
"""

import dataclasses

import numpy as np
from absl import app, flags, logging
from jaxtyping import Bool, Float, Int

from data_pipelines.label.labellers import Labeller, load_labeller
from data_pipelines.saqa.batch import SaqaConfig
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.episode import DataError
from data_pipelines.schema.read import load_episodes
from swm_jax import worlds
from swm_jax.cli import define_path, error_line, run_command
from swm_jax.questions import YES_NO

_STARTS = 32  # per batch drawn
_THRESHOLDS = (0.0, 0.6, 0.8, 0.9, 0.95)
_POOL = 4000  # starts looked at


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A labeller's answers to n tuples compared with the exact ones.

    Attributes:
      truth: int[n], 1 for yes.
      right: bool[n], whether the labeller gave that answer.
      confidence: float32[n], the labeller's own, in 0..1.
      type_id: int[n].
    """

    truth: Int[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    type_id: Int[np.ndarray, " n"]


def measure(
    episodes: EpisodeArrays, labeller: Labeller, tuples: int, seed: int = 0
) -> Agreement:
    """Agreement on `tuples` balanced questions drawn from the episodes.

    Raises:
      DataError: a domain without predicates.
    """
    if get_domain(episodes.domain).scene is None:
        raise DataError(
            f"domain '{episodes.domain}' has no exact answers to compare with"
        )
    types = tuple(
        kind.name
        for kind in worlds.language(episodes.domain).select()
        if labeller.sees_change or not kind.about_change
    )
    sampler = SaqaSampler(episodes, SaqaConfig(types=types, pool_starts=_POOL))
    rows, step = [], 0
    while len(rows) < tuples:
        batch = sampler.sample_batch(seed, step, _STARTS, 4, 4)
        asked, step = batch.questions(), step + 1
        for b, r in np.argwhere(batch.query_valid):
            question = asked[b][batch.query_question[b, r]]
            place = batch.episode[b], batch.t[b], batch.query_horizon[b, r]
            truth = batch.query_answer[b, r]
            rows.append((*map(int, place), question.text, int(truth), question.type_id))
    episode, t, horizon, text, truth, kind = zip(*rows[:tuples])
    answers, sure = labeller(
        episodes, np.array(episode), np.array(t), np.array(horizon), text
    )
    truth = np.array(truth)
    right = np.array([YES_NO.answers[y] == said for y, said in zip(truth, answers)])
    return Agreement(truth, right, np.asarray(sure), np.array(kind))


def table(agreement: Agreement) -> str:
    """Table in plain text: rate of agreement by group, +- one standard error."""

    def line(name: str, rows: np.ndarray) -> str:
        count, rate = len(rows), agreement.right[rows].mean() if len(rows) else np.nan
        error = np.sqrt(rate * (1 - rate) / max(count, 1))
        return f"{name:26}{count:7}{100 * rate:9.1f} % +- {100 * error:.1f}"

    every = np.arange(len(agreement.truth))
    lines = [f"{'':26}{'tuples':>7}{'agree':>9}", line("all", every)]
    for i, answer in enumerate(YES_NO.answers):
        lines.append(line(f"truth is {answer}", every[agreement.truth == i]))
    for i in np.unique(agreement.type_id):
        name = worlds.question_types()[int(i)].name
        lines.append(line(name, every[agreement.type_id == i]))
    for least in _THRESHOLDS[1:]:
        kept = every[agreement.confidence >= least]
        lines.append(line(f"confidence >= {least:g}", kept))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Prints the agreement on the folder named on the command line."""
    if len(argv) != 2:
        raise app.UsageError("usage: python -m data_pipelines.agreement DIR")
    logging.set_verbosity(logging.WARNING)
    with error_line(ValueError):
        labeller = load_labeller(_LABELLER.value, _CHECKPOINT.value)
        episodes = load_episodes(argv[1], _SPLIT.value, frames="compressed")
        found = measure(episodes, labeller, _TUPLES.value, _SEED.value)
    print(f"{labeller.name} beside the predicates on {argv[1]}, split {_SPLIT.value}")
    print(table(found))


if __name__ == "__main__":  # flags of commands imported together would clash
    _LABELLER = flags.DEFINE_string(
        "labeller", "vqa", "predicates, vqa, module:function."
    )
    _CHECKPOINT = define_path("checkpoint", None, "Of the model; None: shipped.")
    _TUPLES = flags.DEFINE_integer("tuples", 400, "How many to ask.")
    _SPLIT = flags.DEFINE_string("split", "val", "Of the data set.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of the draw.")
    run_command(main)
