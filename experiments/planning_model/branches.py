"""Many chunks per start: pictures, chunks and what they do, as arrays on disk.

    python -m experiments.planning_model.branches --output DIR --shards 40 [--first 0]

A shard is a function of its number: `STARTS` starts with one picture each and `CHUNKS`
chunks from each, played by the C engine. Half of the starts are the board's own (resets
and crowded scenes); the other half come from there by a part of one more chunk, so that
the peg stands where pushes leave it. Chunks are those a planner proposes (coloured
noise, strokes) and pushes aimed at blocks, with an offset that makes near misses.

Axes: S starts, N chunks, H steps, K = 8 blocks.
"""

import argparse
import functools
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from data_pipelines.board_episodes import _starts
from swm_jax import envs
from swm_jax.envs import BoardEnv, Scene
from swm_jax.envs.board_geometry import PEG_BOX
from swm_jax.envs.render import render
from swm_jax.planning.noise import coloured_noise, strokes

STARTS, CHUNKS, HORIZON, SIZE = 256, 16, 16, 96
LIMIT = 0.03  # metres per step and axis
NEAR_SHARE = 0.5
AIMED = 10  # of the chunks; the others are the planner's
DATA_SEED = 31  # of the training shards; evaluation draws from task seeds


def planner_chunks(key: Key[Array, ""], count: int) -> Float[Array, "n H 2"]:
    """What MPPI as shipped draws first: red noise, and two-fifths strokes."""
    bold, fine = jax.random.split(key)
    lines = round(0.4 * count)
    noise = 0.02 * coloured_noise(fine, (count - lines, HORIZON, 2), 2.0)
    return jnp.concatenate([noise, strokes(bold, (lines, HORIZON, 2), LIMIT)])


def aimed_chunk(key: Key[Array, ""], scene: Scene) -> Float[Array, "H 2"]:
    """To a point beside a near block, then past or through its middle.

    The first leg is left out half of the time; the line of the push misses the block's
    middle by up to 5 cm, so that some pushes turn the block and some just miss it.
    """
    keys = jax.random.split(key, 9)
    offset = scene.block_pose[:, :2] - scene.peg
    distance = jnp.linalg.norm(offset, axis=-1)
    block = jax.random.categorical(keys[0], -distance / 0.08)
    place = scene.block_pose[block, :2]
    angle = jax.random.uniform(keys[1], maxval=2 * jnp.pi)
    radius = jax.random.uniform(keys[2], minval=0.04, maxval=0.08)
    stand = place + radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    direct = jax.random.uniform(keys[3]) < 0.5
    stand = jnp.where(direct, scene.peg, jnp.clip(stand, *PEG_BOX))
    through = place - stand
    through = through / jnp.maximum(jnp.linalg.norm(through), 1e-6)
    across = jnp.stack([-through[1], through[0]])
    miss = jax.random.uniform(keys[4], minval=-0.05, maxval=0.05)
    far = jax.random.uniform(keys[5], minval=-0.02, maxval=0.12)
    end = place + miss * across + far * through
    pace = jax.random.uniform(keys[6], minval=0.008, maxval=0.03)
    fast = jax.random.uniform(keys[7], minval=0.015, maxval=0.03)

    def act(carry, _):
        peg, arrived = carry
        way = jnp.where(arrived, end, stand) - peg
        length = jnp.maximum(jnp.linalg.norm(way), 1e-6)
        step = way / length * jnp.minimum(jnp.where(arrived, pace, fast), length)
        peg = peg + step
        return (peg, arrived | (jnp.linalg.norm(stand - peg) < 0.004)), step

    _, steps = jax.lax.scan(act, (scene.peg, direct), None, HORIZON)
    stir = jax.random.uniform(keys[8], minval=0.0, maxval=0.006)
    steps += stir * coloured_noise(keys[8], (HORIZON, 2), 1.0)
    return jnp.clip(steps, -LIMIT, LIMIT)


@functools.partial(jax.jit, static_argnums=2)
def propose(key, scene: Scene, aimed: int = AIMED) -> Float[Array, "S N H 2"]:
    """`CHUNKS` chunks for every start."""

    def one(key, scene):
        first, *keys = jax.random.split(key, aimed + 1)
        chunks = [jax.vmap(aimed_chunk, (0, None))(jnp.stack(keys), scene)]
        return jnp.concatenate(chunks + [planner_chunks(first, CHUNKS - aimed)])

    starts = scene.peg.shape[0]
    return jax.vmap(one)(jax.random.split(key, starts), scene)


def make_starts(env: BoardEnv, key: Key[Array, ""]):
    """`STARTS` states at rest, half of them after a part of a chunk."""
    keys = jax.random.split(key, STARTS)
    states = _starts(env, keys, NEAR_SHARE)
    scene = env.scene(states)
    on_device = jax.tree.map(jnp.asarray, scene)
    chunk = np.asarray(propose(jax.random.fold_in(key, 1), on_device))[:, 0]
    path = env.rollout_batch(states, chunk)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    stop = rng.integers(1, HORIZON + 1, STARTS)
    stop = np.where(rng.random(STARTS) < 0.5, stop, 0)
    pick = lambda x: np.asarray(x)[np.arange(STARTS), stop]
    return env.state_from_scene(jax.tree.map(pick, path))


def play(env: BoardEnv, states, chunks) -> dict[str, np.ndarray]:
    """Displacements of blocks and peg after every step of every chunk."""
    starts, count = chunks.shape[:2]
    worlds = jax.tree.map(lambda x: np.repeat(x, count, 0), states)
    path = env.rollout_batch(worlds, chunks.reshape(-1, *chunks.shape[2:]))
    split = lambda x: np.asarray(x).reshape(starts, count, HORIZON + 1, *x.shape[2:])
    pose, peg = split(path.block_pose), split(path.peg)
    return {
        "pose": pose[:, 0, 0],
        "peg": peg[:, 0, 0],
        "chunk": chunks.astype(np.float32),
        "moved": (pose[:, :, 1:] - pose[:, :, :1]).astype(np.float16),
        "peg_moved": (peg[:, :, 1:] - peg[:, :, :1]).astype(np.float16),
    }


def draw(scene: Scene) -> np.ndarray:
    """Pictures as episodes show them."""
    return np.asarray(render(scene, SIZE, SIZE, supersample=2))


def make_shard(env: BoardEnv, number: int) -> dict[str, np.ndarray]:
    """The arrays of a shard."""
    key = jax.random.fold_in(jax.random.key(DATA_SEED), number)
    states = make_starts(env, key)
    scene = jax.tree.map(jnp.asarray, env.scene(states))
    chunks = np.asarray(propose(jax.random.fold_in(key, 2), scene))
    return play(env, states, chunks) | {"image": draw(scene)}


def write_shard(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """One `.npz`, under a temporary name first."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"branches-{number:05d}.npz"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    env = envs.load("board", backend="mujoco", threads=1)
    for number in range(options.first, options.first + options.shards):
        path = shard_path(options.output, number)
        if path.exists():
            continue
        began = time.time()
        arrays = make_shard(env, number)
        write_shard(path, arrays)
        far = np.linalg.norm(arrays["moved"][:, :, -1, :, :2].astype(float), axis=-1)
        print(
            f"shard {number}: {time.time() - began:.1f} s, blocks moved over 4 cm "
            f"per chunk {(far > 0.04).sum(-1).mean():.3f}, over 5 mm "
            f"{(far > 0.005).sum(-1).mean():.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
