"""Small data sets in our schema, without physics."""

from pathlib import Path

import numpy as np

from data_pipelines.schema import store as folder
from data_pipelines.schema.episode import Episode, encode_png
from data_pipelines.schema.features import Schema
from swm_jax.worlds.board.geometry import X_BOUNDS, Y_BOUNDS
from swm_jax.worlds.board.scene import BLOCK_SETS
from swm_jax.worlds.cube.scene import CUBES


def picture(number: int, t: int, size: int = 16) -> np.ndarray:
    """The first two sixteenths of the rows tell episode and frame."""
    image = np.full((size, size, 3), 90, np.uint8)
    rows = size // 16
    image[:rows], image[rows : 2 * rows] = number, t
    return image


def board_episode(number: int, steps: int = 24, policy="random", size=16) -> Episode:
    """The peg drags some blocks about."""
    rng = np.random.default_rng(number)
    low, high = (np.array(v) for v in zip(X_BOUNDS, Y_BOUNDS))
    path = rng.uniform(low, high, (9, 2)) + np.cumsum(
        rng.normal(0, 0.012, (steps + 1, 9, 2)), 0
    )
    path[:, 1] = path[:, 0] + rng.normal(0, 0.03, 2)
    pose = np.concatenate([path[:, :8], np.zeros((steps + 1, 8, 1))], -1)
    move = np.clip(np.diff(path[:, 8], axis=0), -0.1, 0.1)
    return Episode(
        image=[encode_png(picture(number, t, size)) for t in range(steps + 1)],
        action=move.astype(np.float32),
        state={
            "block_pose": pose.astype(np.float32),
            "peg": path[:, 8].astype(np.float32),
            "block_id": np.array(BLOCK_SETS["standard"], np.int32),
        },
        policy=policy,
        seed=0,
        episode=number,
    )


def cube_episode(number: int, steps: int = 24, cubes: int = 3, size=16) -> Episode:
    """The gripper visits cubes, closes, and carries one over another."""
    rng = np.random.default_rng(number)
    pose = np.zeros((steps + 1, cubes, 7))
    pose[..., :2] = rng.uniform((0.32, -0.2), (0.5, 0.2), (cubes, 2))
    pose[..., 2], pose[..., 3] = 0.02, 1.0
    held, under = rng.permutation(cubes)[:2]
    gripper = np.zeros((steps + 1, 6))
    start = rng.uniform((0.3, -0.2, 0.15), (0.5, 0.2, 0.3))
    third = steps // 3
    for t in range(steps + 1):
        if t < third:
            place = start + (pose[0, held, :3] - start) * t / third
        else:
            goal = pose[0, under, :3] + (0, 0, 0.04)
            share = min((t - third) / third, 1.0)
            place = pose[0, held, :3] + (goal - pose[0, held, :3]) * share
            pose[t:, held, :3] = place
        gripper[t, :3] = place
        gripper[t, 4:] = 0.02 if third <= t < steps - 4 else 0.04
    action = rng.uniform(-1, 1, (steps, 5)).astype(np.float32)
    return Episode(
        image=[encode_png(picture(100 + number, t, size)) for t in range(steps + 1)],
        action=action,
        state={
            "block_pose": pose.astype(np.float32),
            "gripper": gripper.astype(np.float32),
            "block_id": np.array(CUBES[:cubes], np.int32),
        },
        policy="noisy",
        seed=0,
        episode=number,
        domain="cube",
        source="tests",
    )


def plain_episode(number: int, steps: int = 24, width: int = 3, labels=None) -> Episode:
    """Nothing but frames and actions."""
    extra = {} if labels is None else {"labels": labels}
    move = np.random.default_rng(number).normal(size=(steps, width))
    return Episode(
        image=[encode_png(picture(number, t)) for t in range(steps + 1)],
        action=move.astype(np.float32),
        state={},
        policy="human",
        seed=0,
        episode=number,
        domain="other",
        source="tests",
        instruction="tidy up",
        **extra,
    )


def write(directory: Path, train, val, name="data") -> Path:
    """A folder with these episodes, four to a shard."""
    directory.mkdir(parents=True)
    shards = folder.make_shards(directory, {"train": train, "val": val}, 4, name)
    schema = Schema.of(train[0])
    for shard in shards:
        folder.write_shard(shard.path, shard.numbers, schema)
    counts = [len(shard.numbers) for shard in shards]
    folder.write_info(shards, counts, schema, "made by a test", name)
    return directory
