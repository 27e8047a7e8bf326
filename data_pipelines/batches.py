"""Training batches from stored episodes: source, SAQA sampling, tokens, devices.

    stream = make_train_iterator("data/board", config.data, tokenizer, model_config,
                                 seed=0, start_step=1000)
    batch = next(stream)               # numpy TrainBatch of step 1000
    batch = to_devices(batch, mesh)

The stream is a pure function of (seed, step): grain maps step numbers to batches,
with random access, so a resume is "start at this step" whatever the number of
threads or hosts was. Hosts take slices of the same global batch. The episodes lie
decoded in memory (28 kB a frame at 96 px) and threads share them; every wording of
every question is tokenised once.

Axes: B images, Q questions, R queries, T question tokens, L answer tokens, H actions.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.arrays import EpisodeArrays, stack_episodes
from data_pipelines.domains import get_domain
from data_pipelines.episodes import DataError
from data_pipelines.labelled import LabelSampler
from data_pipelines.load import first_episode, load_episodes
from data_pipelines.mixture import Source, choose, counts, join, parse_sources
from data_pipelines.normalise import action_entries
from data_pipelines.pretraining import QUERY_TYPES as RENDERED_TYPES
from data_pipelines.question_tokens import AnswerTokens, QuestionTokens
from data_pipelines.saqa import SaqaBatch, SaqaConfig, SaqaSampler
from data_pipelines.saqa_pools import Horizons
from swm_jax.models import (
    ActionScale,
    ModelConfig,
    PlaceTargets,
    Tokenizer,
    TrainBatch,
)
from swm_jax.questions import predicates

LABELLED_TYPE = len(RENDERED_TYPES)  # query type of a question in free words
_ENDLESS = 2**40  # steps
_SPLIT_SEED = {"train": 0, "val": 1}  # a split draws a stream of its own


def make_train_iterator(
    data_dir: Any,
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    *,
    seed: int,
    start_step: int = 0,
    split: str = "train",
    host: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """Endless numpy `TrainBatch`es, the first of them that of `start_step`.

    Args:
      data_dir: a folder in our schema, or sources with weights (`mixture`).
      config: `images` B, `questions` Q and `queries` R; optional `answer_eos` (train
        the token behind the answer too; L = 2), `threads` (1) and `prefetch` (4
        batches made ahead), `frames` ("memory", "compressed" or "disk"), `actions`
        ("raw" or "quantile", see `normalise`) and `on_damage` ("raise" or "skip").
      tokenizer: of the model.
      model_config: its sizes.
      seed: with the step it decides everything.
      start_step: where to begin, or to resume.
      split: "train" or "val".
      host: (index, count) of this process; it gets its slice of the B images.

    Returns:
      A grain iterator; `get_state`/`set_state` are Orbax-checkpointable.

    Raises:
      DataError: what `load_episodes` raises, or sizes that cannot work.
    """
    sources = parse_sources(data_dir)
    loaded = load_sources(sources, config, split, model_config.image_size)
    scales = action_scales(sources, loaded, config, model_config, split)
    batch_at = make_batch_function(
        loaded,
        config,
        tokenizer,
        model_config,
        seed=seed,
        split=split,
        host=host,
        weights=[source.weight for source in sources],
        scales=scales,
    )
    steps = grain.MapDataset.range(_ENDLESS).map(batch_at)
    options = grain.ReadOptions(
        num_threads=config.get("threads", 1),
        prefetch_buffer_size=config.get("prefetch", 4),
    )
    stream = iter(steps.to_iter_dataset(options))
    stream.set_state({"next_index": start_step})
    return stream


def load_sources(
    sources: Sequence[Source],
    config: ml_collections.ConfigDict,
    split: str,
    image_size: int,
) -> list[EpisodeArrays]:
    """The episodes of every source, those of one folder read once.

    Frames of a mixture are brought to the model's size, as they share a batch; those
    of one source are left to the model.
    """
    on_damage = config.get("on_damage", "raise")
    if on_damage not in ("raise", "skip"):
        raise DataError(
            f"config.data.on_damage is '{on_damage}', expected 'raise' or 'skip'"
        )
    skipped = [] if on_damage == "skip" else None
    many = len({source.dir for source in sources}) > 1
    folders = {}
    for source in sources:
        if source.dir not in folders:
            folders[source.dir] = load_episodes(
                source.dir,
                split,
                frames=config.get("frames", "memory"),
                size=(image_size, image_size) if many else None,
                skipped=skipped,
            )
    if skipped:
        print(
            f"skipped {len(skipped)} damaged {split} episodes, the first: {skipped[0]}",
            file=sys.stderr,
            flush=True,
        )
    return [choose(folders[source.dir], source, split) for source in sources]


def action_scales(
    sources: Sequence[Source],
    loaded: Sequence[EpisodeArrays],
    config: ml_collections.ConfigDict,
    model_config: ModelConfig,
    split: str,
) -> dict[str, ActionScale]:
    """domain -> scale, always that of the training episodes."""
    kind = config.get("actions", "raw")
    if split == "train" or kind == "raw":
        entries = action_entries(loaded, kind)
    else:
        entries = stored_action_entries(sources, kind)
    width = model_config.action_size
    try:
        return {
            domain: ActionScale.make(entry, entry["size"], width)
            for domain, entry in entries.items()
        }
    except ValueError as error:
        raise DataError(str(error)) from error


def stored_action_entries(data_dir: Any, kind: str) -> dict[str, dict[str, Any]]:
    """What the checkpoint's metadata say of actions; reads no more than that needs."""
    sources = parse_sources(data_dir)
    folders = {}
    for folder in {source.dir: None for source in sources}:
        if kind == "raw":  # no statistics: any episode tells domain and width
            folders[folder] = stack_episodes([first_episode(folder)], None)
        else:
            folders[folder] = load_episodes(folder, "train", frames="disk", skipped=[])
    if kind == "raw":
        return action_entries(list(folders.values()), kind)
    return action_entries(
        [choose(folders[source.dir], source, "train") for source in sources], kind
    )


def make_batch_function(
    loaded: EpisodeArrays | Sequence[EpisodeArrays],
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    *,
    seed: int,
    split: str = "train",
    host: tuple[int, int] = (0, 1),
    weights: Sequence[float] = (1.0,),
    scales: Mapping[str, ActionScale] | None = None,
) -> Callable[[int], TrainBatch]:
    """step -> this host's part of the step's batch; see `make_train_iterator`."""
    index, hosts = host
    if config.images % hosts:
        raise DataError(
            f"a batch of {config.images} images does not divide over {hosts} hosts"
        )
    if config.queries < config.questions:
        raise DataError(
            f"{config.queries} queries cannot cover {config.questions} questions"
        )
    if isinstance(loaded, EpisodeArrays):
        loaded = [loaded]
    scales = scales or {}
    members = [
        make_member(
            episodes,
            config,
            tokenizer,
            model_config,
            scales.get(episodes.domain),
            split,
        )
        for episodes in loaded
    ]
    size = config.images // hosts
    mine = np.arange(index * size, (index + 1) * size)
    stream_seed = 2 * seed + _SPLIT_SEED[split]

    def batch_at(step: int) -> TrainBatch:
        step = int(step)
        if len(members) == 1:
            return members[0](stream_seed, step, config.images, mine)
        given, order = counts(weights, stream_seed, step, config.images)
        wanted, before, parts, rows = order[mine], 0, [], []
        for member, count in zip(members, given):
            here = np.flatnonzero((wanted >= before) & (wanted < before + count))
            if len(here):
                parts.append(member(stream_seed, step, count, wanted[here] - before))
                rows.append(here)
            before += count
        return join(parts, np.argsort(np.concatenate(rows)))

    return batch_at


def make_member(
    episodes: EpisodeArrays,
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    model_config: ModelConfig,
    scale: ActionScale | None,
    split: str,
) -> Callable[[int, int, int, Any], TrainBatch]:
    """(seed, step, images, rows) -> those rows of a source's batch of a step."""
    longest = int(episodes.length.max())
    horizon, name = model_config.max_horizon, f"{len(episodes)} {split} episodes"
    if longest < horizon:
        raise DataError(
            f"the longest of {name} has {longest} actions, "
            f"the model looks {horizon} ahead: too little data"
        )
    eos = config.get("answer_eos", False)
    scaled = (lambda actions: actions) if scale is None else scale
    shape = config.questions, config.queries
    if get_domain(episodes.domain).scene is None:
        labelled = LabelSampler(
            episodes,
            tokenizer,
            model_config.max_question_tokens,
            horizon,
            other_type=LABELLED_TYPE,
            eos=eos,
        )

        def of_labels(seed, step, images, rows):
            drawn = labelled.draw(seed, step, images, *shape)
            drawn = jax.tree.map(lambda x: x[rows], drawn)
            actions = episodes.chunk(drawn.episode, drawn.t, horizon)
            return labelled.batch(drawn, config.questions, scaled(actions))

        return of_labels
    try:
        sampler = SaqaSampler(episodes, saqa_config(horizon))
        # Measures its weights now, before threads share the sampler.
        sampler.balance(*shape)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    blocks = np.unique(episodes.block_id)
    longest = model_config.max_question_tokens
    words = QuestionTokens.make(tokenizer, blocks, longest, episodes.domain)
    answers = AnswerTokens.make(tokenizer, eos)

    def of_scenes(seed, step, images, rows):
        drawn = sampler.sample_batch(seed, step, images, *shape)
        drawn = jax.tree.map(lambda x: x[rows], drawn)
        drawn = drawn.replace(actions=scaled(drawn.actions))
        return to_train_batch(drawn, episodes, words, answers)

    return of_scenes


def saqa_config(max_horizon: int) -> SaqaConfig:
    """The sampler's settings for a model that looks this many steps ahead."""
    if max_horizon == Horizons().longest:
        return SaqaConfig()
    ends = sorted({0, *(max(1, max_horizon // k) for k in (4, 2, 1))})
    return SaqaConfig(
        horizons=Horizons(
            longest=max_horizon,
            ends=tuple(ends),
            shares=(0.2, *[0.8 / (len(ends) - 1)] * (len(ends) - 1)),
            planner=tuple(sorted({max(1, max_horizon // 2), max_horizon})),
        )
    )


def to_train_batch(
    drawn: SaqaBatch,
    episodes: EpisodeArrays,
    words: QuestionTokens,
    answers: AnswerTokens,
) -> TrainBatch:
    """Adds pixels and tokens to what the sampler drew."""
    tokens, mask = words(drawn.type_id, drawn.args, drawn.phrasing)
    answer_tokens, answer_mask = answers(drawn.query_answer, drawn.query_valid)
    places = None
    if episodes.domain == "board":
        args = np.take_along_axis(drawn.args, drawn.query_question[..., None], 1)
        later = drawn.t[:, None] + drawn.query_horizon
        scene = episodes.scene(drawn.episode[:, None], later)
        place, has = predicates.places(drawn.query_type, args, scene)
        places = PlaceTargets(mask=has & drawn.query_valid[..., None], place=place)
    return TrainBatch(
        image=episodes.image(drawn.episode, drawn.t),
        actions=drawn.actions,
        question_tokens=tokens,
        question_mask=mask,
        query_question=drawn.query_question,
        query_horizon=drawn.query_horizon,
        answer_tokens=answer_tokens,
        answer_mask=answer_mask,
        query_type=drawn.query_type,
        places=places,
    )


def to_devices(batch: TrainBatch, mesh: Mesh, axis: str = "data") -> TrainBatch:
    """This host's part of a batch as part of one global array on the mesh.

    Args:
      batch: numpy, this host's slice (all of it on a single host).
      mesh: its `axis` splits the images.

    Raises:
      DataError: the images do not divide over this host's share of the axis.
    """
    share = mesh.shape[axis] // jax.process_count()
    if len(batch.image) % max(share, 1):
        raise DataError(
            f"{len(batch.image)} images on this host do not divide over its {share} "
            f"devices along '{axis}'"
        )
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )
