"""Cache of simulated episodes as one file of poses, without frames.

`saqa.device_batches` draws from it and renders images when a batch is drawn, so a data
set is a few numbers per frame, and thousands of episodes are simulated in the time that
an accelerator needs to compile. The episodes equal those of
`data_pipelines.generate.shards` with the same config.
"""

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from data_pipelines.generate import shards as generate
from data_pipelines.generate.config import make_env, resolve, upgrade, world_of
from data_pipelines.generate.play import play_episodes
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.episode import DataError
from data_pipelines.schema.output_folder import first_difference, write_whole
from swm_jax.files import local_path

_ARRAYS = ("length", "action", "policy")  # and those of a scene
_PICTURES = ("name", "look", "height", "width", "supersample")


def simulated_episodes(
    config: ml_collections.ConfigDict, path: str | Path, split: str
) -> EpisodeArrays:
    """Episodes of a split, read from `path` or simulated and written there.

    Args:
      config: as for `generate.shards`; `episodes_per_shard` episodes are simulated at
        a time, and fields of frames and looks are ignored.
      path: an .npz file, written if it does not exist.
      split: "train" or "val".

    Raises:
      DataError: an invalid config, or a file that is damaged or of another config.
    """
    config = resolve(config)
    world = world_of(config)
    path = local_path(path)
    if not path.exists():
        made: dict[str, Any] = _simulate(config) | {"about": json.dumps(_about(config))}
        write_whole(path, lambda file: np.savez(file, **made))
    about, arrays = read(path)
    about = upgrade(about)
    difference = first_difference(about, _about(config))
    if difference:
        field, old, new = difference
        raise DataError(
            f"{path} holds episodes of another config: {field} is {old!r} there, "
            f"{new!r} here; remove it or name another file"
        )
    train = len(generate.splits_of(config)["train"])
    rows = slice(0, train) if split == "train" else slice(train, None)
    cut = {name: value[rows] for name, value in arrays.items()}
    count = len(cut["length"])
    return EpisodeArrays(
        frames=None,
        first=np.zeros(count, np.int64),
        length=cut["length"],
        action=cut["action"],
        state={name: cut[name] for name in world.scene.state},
        policy=cut["policy"],
        policies=world.policies.names,
        domain=world.scene.domain,
        episode=np.arange(config.episodes)[rows],
    )


def _simulate(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """Simulates all episodes, `episodes_per_shard` at a time, and prints progress."""
    env, world = make_env(config), world_of(config)
    begin, parts = time.perf_counter(), []
    size = config.episodes_per_shard
    for first in range(0, config.episodes, size):
        numbers = range(first, first + size)
        played = play_episodes(env, world.policies, config.seed, numbers, config)
        parts.append(
            {
                "length": played.length,
                "action": played.action,
                "policy": played.policy,
                **{
                    name: getattr(played.scene, name)
                    if field.per_frame
                    else getattr(played.scene, name)[:, 0]
                    for name, field in world.scene.state.items()
                },
            }
        )
        spent = time.perf_counter() - begin
        done = min(first + size, config.episodes)
        print(
            f"simulated {done}/{config.episodes} episodes on {config.backend}, "
            f"{done * config.max_steps / spent:.0f} control steps/s",
            flush=True,
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: value[: config.episodes] for name, value in joined.items()}


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Config and arrays of a file of poses.

    Raises:
      DataError: a damaged file, or one of another format.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        missing = [name for name in (*_ARRAYS, "about") if name not in arrays]
        if missing:
            raise KeyError(missing[0])
        return json.loads(str(arrays.pop("about"))), arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is damaged or no file of simulated episodes ({error}); remove it "
            "to simulate them again"
        ) from error


def _about(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Fields of the config that determine the poses: all but frames and names."""
    kept = {k: v for k, v in config.to_dict().items() if k not in _PICTURES}
    return json.loads(json.dumps(kept))
