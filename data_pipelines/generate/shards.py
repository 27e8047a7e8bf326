"""Generation of data sets shard by shard, resumable with identical bytes.

A shard is a pure function of the config. `generation.json` in the folder stores the
config, and another config is an error. Physics runs batched over a shard's episodes on
either engine; frames are rendered and encoded as PNG in threads, while the next
shard's physics runs and the previous shard is written.
"""

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from data_pipelines.generate.config import make_env, resolve, upgrade, world_of
from data_pipelines.generate.play import play_episodes
from data_pipelines.schema import store as folder
from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.episode import SCHEMA_VERSION, Episode, encode_png
from data_pipelines.schema.features import Schema
from data_pipelines.schema.output_folder import claim_settings, claimed
from swm_jax.cli import Progress
from swm_jax.conditions import conditions
from swm_jax.files import local_path

CONFIG_FILE = "generation.json"
INFO_FILE = "dataset_info.json"
_RENDER_BATCH = 64  # scenes per call, a fixed shape for a single compilation


@dataclasses.dataclass
class Counts:
    """Numbers of episodes and frames made by a run, and thread-seconds by stage."""

    episodes: int = 0
    frames: int = 0
    steps: int = 0  # of the env, including those after an episode's end
    physics: float = 0.0
    rendering: float = 0.0
    png: float = 0.0
    writing: float = 0.0


def generate(config: ml_collections.ConfigDict, output: str | Path) -> Counts:
    """Generates or resumes a data set and prints progress.

    Args:
      config: see `experiments/generate_board.py`.
      output: the folder; new, or of an earlier run with the same config.

    Returns:
      Counts of this run, without episodes of earlier runs.

    Raises:
      DataError: an invalid config or folder, a damaged shard, or a full disk.
    """
    config = resolve(config)
    output = local_path(output)
    train, val = map(len, splits_of(config).values())
    counts = Counts()
    with claimed(output):
        wanted = {
            "schema_version": SCHEMA_VERSION,
            "config": config.to_dict(),
            "conditions": conditions(),
        }
        upgrade = functools.partial(_upgrade, wanted, (output / INFO_FILE).exists())
        claim_settings(output / CONFIG_FILE, wanted, upgrade)
        folder.remove_partial(output)
        shards = shards_of(config, output)
        missing = [shard for shard in shards if not shard.path.exists()]
        for shard in shards:
            if shard not in missing:
                folder.check_shard(shard.path, len(shard.numbers))
        print(
            f"{config.episodes} episodes ({train} train, {val} val) in "
            f"{len(shards)} shards, "
            f"{len(shards) - len(missing)} of them there already; {config.backend} "
            f"physics, {config.height} x {config.width} px, to {output}",
            flush=True,
        )
        if missing:
            _make_shards(config, shards, missing, counts)
        about = json.dumps(config.to_dict(), sort_keys=True)
        sizes = [len(shard.numbers) for shard in shards]
        folder.write_info(shards, sizes, schema_of(config), about)
    return counts


def schema_of(config: ml_collections.ConfigDict) -> Schema:
    """Schema of the episodes of a config."""
    domain = get_domain(world_of(config).scene.domain)
    count: Any = config.get("cubes")  # replaces axes of size None
    shape = lambda field: tuple(count if n is None else n for n in field.shape)
    assert domain.action_size is not None  # set for every world
    return Schema(
        domain=domain.name,
        encoding="png",
        height=config.height,
        width=config.width,
        action_size=domain.action_size,
        state=tuple(sorted((name, shape(f)) for name, f in domain.state.items())),
    )


def splits_of(config: ml_collections.ConfigDict) -> dict[str, range]:
    """Episodes of each split by number; the last `val_share`, at least one, are val."""
    starts = config.episodes // config.branches  # branches of one start stay together
    val = min(max(round(starts * config.val_share), 1), starts - 1) * config.branches
    train = config.episodes - val
    return {"train": range(train), "val": range(train, config.episodes)}


def shards_of(config: ml_collections.ConfigDict, output: Path) -> list[folder.Shard]:
    """Shards of a config in a folder."""
    return folder.make_shards(output, splits_of(config), config.episodes_per_shard)


def _make_shards(config, shards, missing, counts: Counts) -> None:
    """Makes the missing shards and prints progress.

    Three stages overlap: while a shard is rendered, the physics of the next one runs
    and the previous one is written. The content of a shard is independent of that.
    """
    env = make_env(config)
    start, to_do = time.perf_counter(), sum(len(shard.numbers) for shard in missing)
    already = len(shards) - len(missing)
    progress = Progress("made", to_do, "episodes", quiet=0.0)

    def finish(number: int, written: Future | None) -> None:
        if written is None:
            return
        count, seconds = written.result()
        counts.writing += seconds
        counts.episodes += count
        spent = time.perf_counter() - start
        progress(
            counts.episodes,
            f"shard {already + number}/{len(shards)}, {counts.frames} frames, "
            f"{counts.frames / spent:.0f} frames/s",
        )

    with _pool(1) as physics, _pool(os.cpu_count()) as painters, _pool(1) as writer:
        ahead = physics.submit(_simulate, config, env, missing[0].numbers, counts)
        written = None
        for number, shard in enumerate(missing):
            played = ahead.result()
            if number + 1 < len(missing):
                following = missing[number + 1].numbers
                ahead = physics.submit(_simulate, config, env, following, counts)
            episodes = _draw(config, env, shard.numbers, played, painters, counts)
            finish(number, written)
            written = writer.submit(_write, shard.path, episodes, schema_of(config))
        finish(len(missing), written)


@contextlib.contextmanager
def _pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool that an error, or Ctrl-C, leaves without waiting for its work."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _write(path: Path, episodes: list[Episode], schema) -> tuple[int, float]:
    begin = time.perf_counter()
    return folder.write_shard(path, episodes, schema), time.perf_counter() - begin


def _simulate(config, env, numbers, counts: Counts):
    """The physics of one shard's episodes."""
    begin = time.perf_counter()
    # A full shard even for a short last one: a single compilation, and the same
    # rounding for an episode in any shard.
    full = range(numbers.start, numbers.start + config.episodes_per_shard)
    played = play_episodes(env, world_of(config).policies, config.seed, full, config)
    counts.physics += time.perf_counter() - begin
    counts.steps += len(full) * config.max_steps
    return jax.tree.map(lambda x: x[: len(numbers)], played)


def _draw(config, env, numbers, played, threads, counts: Counts) -> list[Episode]:
    """Renders and encodes the frames of one shard's episodes."""
    names, form = world_of(config).policies.names, world_of(config).scene
    rows = [(i, t) for i, n in enumerate(played.length) for t in range(n + 1)]
    episode, t = np.array(rows).T
    scenes = jax.tree.map(lambda x: np.asarray(x)[episode, t], played.scene)
    starts = range(0, len(rows), _RENDER_BATCH)
    packed = list(threads.map(lambda at: _render_png(config, scenes, at), starts))
    frames = [png for pngs, _, _ in packed for png in pngs]
    counts.rendering += sum(seconds for _, seconds, _ in packed)
    counts.png += sum(seconds for _, _, seconds in packed)
    counts.frames += len(frames)
    ends = np.cumsum(played.length + 1)  # n actions, n + 1 frames
    return [
        Episode(
            image=frames[ends[i] - n - 1 : ends[i]],
            action=played.action[i, :n],
            state={
                name: getattr(played.scene, name)[i, : n + 1]
                if field.per_frame
                else getattr(played.scene, name)[i, 0]
                for name, field in form.state.items()
            },
            policy=names[played.policy[i]],
            seed=config.seed,
            episode=number,
            domain=form.domain,
            source=env.world,
            fps=1.0 / config.get("control_period", 0.1),
        )
        for i, (n, number) in enumerate(zip(played.length.tolist(), numbers))
    ]


def _render_png(config, scenes, at: int) -> tuple[list[bytes], float, float]:
    """PNG files of up to `_RENDER_BATCH` scenes from row `at` on; seconds per stage."""
    begin = time.perf_counter()
    part = jax.tree.map(lambda x: x[at : at + _RENDER_BATCH], scenes)
    count = len(jax.tree.leaves(part)[0])
    full = jax.tree.map(
        lambda x: np.pad(
            x, [(0, _RENDER_BATCH - count)] + [(0, 0)] * (x.ndim - 1), "edge"
        ),
        part,
    )
    world = world_of(config)
    images = np.asarray(
        world.render.device(
            full,
            config.height,
            config.width,
            supersample=config.supersample,
            look=world.look(config.look),
        )
    )
    rendered = time.perf_counter()
    pngs = [encode_png(image) for image in images[:count]]
    return pngs, rendered - begin, time.perf_counter() - rendered


def _upgrade(wanted: dict, finished: bool, stored: dict) -> dict:
    """Stored settings in the current form.

    Conditions are compared only where shards are to be made beside others: not in a
    finished folder, nor in one that is older than they are.
    """
    if finished or "conditions" not in stored:
        stored = {**stored, "conditions": wanted["conditions"]}
    return {**stored, "config": upgrade(stored.get("config", {}))}
