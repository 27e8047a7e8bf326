"""One evaluation, from a configuration to results.json, films and report.html.

Every part is stored in the journal when it finishes, and skipped when the same
evaluation is started again.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator

from swm_jax import baselines, worlds
from swm_jax.checkpoints import shipped_checkpoint
from swm_jax.choices import first_line
from swm_jax.cli import Progress, clock, table
from swm_jax.envs import Env
from swm_jax.eval import journal as results
from swm_jax.eval.answers import accuracy as qa
from swm_jax.eval.answers import sensitivity
from swm_jax.eval.answers.held_out import SEED, held_out_episodes, stored_episodes
from swm_jax.eval.answers.numeric import examine_numbers
from swm_jax.eval.answers.queries import ask_horizons, draw_queries
from swm_jax.eval.config import EvalConfig, UserError, format_seeds
from swm_jax.eval.episodes.cells import make_planner, remaining, run_sweep
from swm_jax.eval.journal import Journal
from swm_jax.eval.report import build as report
from swm_jax.eval.report import films
from swm_jax.eval.world_models import Learned, load_learned
from swm_jax.files import write_whole
from swm_jax.locks import locked
from swm_jax.training.monitoring.metrics import read_metrics


def evaluate(config: EvalConfig, folder: pathlib.Path, restart: bool = False) -> dict:
    """Runs the missing parts of an evaluation and writes results and report.

    Args:
      config: of the evaluation.
      folder: for the output; created if missing.
      restart: ignore earlier results in the folder.

    Returns:
      The content of results.json.

    Raises:
      UserError: an invalid checkpoint, planner, output folder or data folder, or an
        output folder that another evaluation is writing to.
    """
    began = time.monotonic()
    env = _ready(config)
    learned = load_learned(config, env) if "swm" in config.world_models else None
    with _claimed(folder):
        return _evaluate(config, folder, restart, env, learned, began)


def _ready(config: EvalConfig) -> Env:
    """The env; raises a UserError for what the episodes could not be played with."""
    for method in config.methods:
        try:
            make_planner(config, method)
        except ValueError as error:
            raise UserError(f"--methods {method}: {error}") from None
    try:
        return worlds.load_env(config.world)
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"--world {config.world}: {first_line(error)}") from error


@contextlib.contextmanager
def _claimed(folder: pathlib.Path) -> Iterator[None]:
    """Makes the output folder and locks it against a second evaluation."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write to --output {folder}: {reason}") from None
        yield


def _evaluate(config, folder, restart, env, learned, began) -> dict:
    journal = Journal(folder, config, learned.identity if learned else "", restart)
    print(plan_text(config, folder, learned, journal), flush=True)
    answers = journal.find("qa")
    if learned and answers is None:
        answers = _examine_answers(config, env, learned)
        journal.append("qa", answers)
    numbers = journal.find("numbers")
    if numbers and not {*config.numbers} <= {*numbers["per_type"]}:
        numbers = None
    if learned and config.numbers and numbers is None:
        numbers = _examine_numbers(config, env, learned)
        journal.append("numbers", numbers)
    moved = journal.find("action_sensitivity")
    if moved and not {*config.tasks} <= {*moved["tasks"]}:
        moved = None
    if learned and moved is None:
        moved = _examine_actions(config, env, learned)
        journal.append("action_sensitivity", moved)
    _sweep(config, env, learned, journal, folder)
    cells = config.cells()
    episodes = [
        e for e in journal.episodes() if e.cell in cells and e.seed in config.seeds
    ]
    found = results.check(
        results.to_json(
            {
                "schema": results.SCHEMA,
                "qa": answers,
                **({"numbers": numbers} if config.numbers else {}),
                "planning": results.summarise(episodes, cells),
                "action_sensitivity": moved,
                "model": learned and {**learned.facts, "identity": learned.identity},
                "config": dataclasses.asdict(config),
                "versions": results.versions(),
                "machine": results.machine(),
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    )
    results.write_json(folder / "results.json", found)
    reel = films.shoot(config, env, learned, episodes, folder)
    page = report.render(found, reel, _training_log(config) if learned else [])
    write_whole(folder / "report.html", page)
    print(closing_text(found, folder, time.monotonic() - began), flush=True)
    return found


def _training_log(config: EvalConfig) -> list[dict]:
    """Metrics log of a run; `checkpoint` is its workdir or one of its step folders."""
    path = pathlib.Path(config.checkpoint or shipped_checkpoint())
    logs = (read_metrics(each) for each in (path, path.parent.parent))
    return next(filter(None, logs), [])


def _examine_answers(config: EvalConfig, env, learned: Learned) -> dict:
    queries, source = _queries(config, env, learned)
    progress = Progress("answers", len(queries.episode), "scenes")
    logits = qa.answer(learned.answerer, queries, progress)
    return qa.examine(queries, logits, source)


def _examine_numbers(config: EvalConfig, env, learned: Learned) -> dict:
    try:
        queries, source = _queries(config, env, learned, config.numbers)
        progress = Progress("numbers", len(queries.episode), "scenes")
        logits = qa.answer(learned.answerer, queries, progress)
        return examine_numbers(queries, logits, source)
    except ValueError as error:
        raise UserError(f"--numbers {','.join(config.numbers)}: {error}") from None


def _queries(config: EvalConfig, env, learned: Learned, types=None):
    """Questions about held-out episodes, and the origin of the episodes as text."""
    if config.data_dir:
        held = stored_episodes(config.data_dir, config.qa_episodes, config.world)
        source = f"held-out split of {config.data_dir}"
    else:
        held = held_out_episodes(env, config.qa_episodes)
        source = f"made on the fly, data set seed {SEED}"
    horizons = ask_horizons(learned.max_horizon)
    language = worlds.load(config.world).language
    limit = config.qa_queries
    return draw_queries(held, language, horizons, limit, types=types), source


def _examine_actions(config: EvalConfig, env, learned: Learned) -> dict:
    method = next((m for m in config.methods if m != "random"), "mppi")
    total = config.sensitivity_scenes * len(config.tasks)
    return sensitivity.measure(
        env,
        learned.answerer,
        make_planner(config, method),
        config.tasks,
        config.sensitivity_scenes,
        config.sensitivity_candidates,
        config.goal,
        Progress("action sensitivity", total, "scenes"),
    )


def _sweep(config, env, learned, journal: Journal, folder: pathlib.Path) -> None:
    left = remaining(config, journal)
    total, done, now = sum(map(len, left.values())), 0, ""
    if not total:
        return
    progress = Progress("planning", total, "episodes")
    if config.on_device:
        env = worlds.load_env(config.world, backend="mjx")
    named = {*config.world_models, "random"} - {"swm"}
    askable = {name: baselines.load(name, env) for name in named}
    if learned:
        askable["swm"] = learned.answerer

    def begin(method, world_model, count):
        nonlocal now
        now = world_model if method == "random" else f"{method}, {world_model}"
        progress(done, now)

    def finish(episode):
        nonlocal done
        done += 1
        progress(done, now)

    run_sweep(config, env, askable, journal, folder, begin, finish)


def plan_text(
    config: EvalConfig, folder: pathlib.Path, learned: Learned | None, journal: Journal
) -> str:
    """Summary of the evaluation before it starts, a few lines."""
    cells = config.cells()
    total = len(cells) * len(config.seeds)
    left = sum(map(len, remaining(config, journal).values()))
    kept = f", {total - left} of them already in {folder}" if left < total else ""
    lines = [
        f"Evaluation, preset {config.preset}: {total} episodes{kept}",
        f"  tasks         {', '.join(config.tasks)}",
        f"  world models  {', '.join(config.world_models)}",
        f"  methods       {', '.join(config.methods)} "
        f"({', '.join(_budget(config, m) for m in config.methods)})",
        f"  seeds         {format_seeds(config.seeds)}, goal questions {config.goal}",
    ]
    if learned:
        f = learned.facts
        step = f"step {f['step']}, " if f["step"] is not None else ""
        lines.append(
            f"  model         {f['variant']}, {f['parameters'] / 1e6:.1f} M "
            f"parameters, {step}{f['name']}"
        )
    lines.append(f"  output        {folder}")
    return "\n".join(lines)


def _budget(config: EvalConfig, method: str) -> str:
    if method == "random":
        return "asks nobody"
    return f"{make_planner(config, method).config.candidates_per_replan} a replan"


def closing_text(found: dict, folder: pathlib.Path, seconds: float) -> str:
    """Summary of the results: a table, and the paths of the output files."""
    rows = [
        (
            r["task"],
            r["world_model"],
            r["method"],
            f"{r['successes']}/{r['episodes']}",
            f"{100 * r['rate']:.0f} %",
            f"{100 * r['interval95'][0]:.0f}..{100 * r['interval95'][1]:.0f} %",
            f"{r['seconds_per_replan']:.3f}",
            str(r["candidates_per_replan"]),
        )
        for r in found["planning"]
    ]
    head = ("task", "world model", "method", "success", "rate", "95 % interval",
            "s/replan", "candidates")  # fmt: skip
    lines = ["", table(head, rows, numeric=3), ""]
    if found["qa"]:
        q = found["qa"]
        lines.append(
            f"  answers: balanced accuracy {q['balanced_accuracy']:.3f} "
            f"(question and horizon alone {q['question_horizon_only']:.3f}, "
            f"no action {q['no_action']:.3f})"
        )
    if found["action_sensitivity"] and found["action_sensitivity"]["mean"] is not None:
        s = found["action_sensitivity"]
        lines.append(f"  action sensitivity: rank correlation {s['mean']:.3f}")
    lines += [
        f"  {clock(seconds)} in all",
        f"  figures  {folder / 'results.json'}",
        f"  report   {folder / 'report.html'}",
    ]
    return "\n".join(lines)
