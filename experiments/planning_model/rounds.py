"""Planner and model meet: branches from what a planner does with a model.

    python -m experiments.planning_model.rounds --run RUN --eyes EYES --output DIR \\
        --first 0 --shards 5

Block to block with any two blocks, on fresh starts, MPPI with the run's own judge. At
every replan the state becomes a start whose chunks are the ones believed most of the
last population, others of it, and a few of the first; the C engine says what they do.
A shard holds `EPISODES`
episodes of `REPLANS` replans, in the form of `branches`.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.planning_model.branches import (
    CHUNKS,
    STARTS,
    draw,
    planner_chunks,
    play,
    shard_path,
    write_shard,
)
from experiments.planning_model.metric_world import load_world
from swm_jax import envs
from swm_jax.envs import BLOCK_NAMES
from swm_jax.envs.board_tasks import make_task
from swm_jax.models import Observation
from swm_jax.planning import get_planner
from swm_jax.planning.controller import Controller
from swm_jax.questions.goals import goal_for_task

REPLANS = 8
EPISODES = STARTS // REPLANS
ROUND_SEED = 10_000_000  # of the first episode; evaluation's seeds are far below
FOREMOST, OTHERS = 8, 5  # of the last population; the rest are of the first


def start_episodes(env, number: int):
    """States, goals of `EPISODES` episodes about random pairs."""
    states, goals = [], []
    for i in range(EPISODES):
        seed = ROUND_SEED + number * EPISODES + i
        pair = np.random.default_rng(seed).permutation(8)[:2]
        names = [BLOCK_NAMES[env.block_ids[slot]] for slot in pair]
        task = make_task("block_to_block", names, seed=seed)
        states.append(task.reset(env, jax.random.key(seed)))
        goals.append(goal_for_task("block_to_block", task.names, "shaped"))
    return jax.tree.map(lambda *x: np.stack(x), *states), goals


def choose_chunks(rng, key, candidates, values):
    """`CHUNKS` chunks per scene and what was believed of them."""
    order = np.argsort(-values, 1)
    rest = rng.permuted(order[:, FOREMOST:], axis=1)[:, :OTHERS]
    rows = np.concatenate([order[:, :FOREMOST], rest], 1)
    last = np.take_along_axis(candidates, rows[..., None, None], 1)
    fresh = CHUNKS - FOREMOST - OTHERS
    first = np.asarray(planner_chunks(key, fresh * len(values)))
    first = first.reshape(len(values), fresh, *first.shape[1:])
    believed = np.take_along_axis(values, rows, 1)
    believed = np.pad(believed, ((0, 0), (0, fresh)), constant_values=np.nan)
    return np.concatenate([last, first], 1), believed


def make_shard(env, controller: Controller, number: int) -> dict[str, np.ndarray]:
    """The arrays of a shard."""
    states, goals = start_episodes(env, number)
    planner = controller.planner
    plans = jax.tree.map(np.asarray, planner.init_state(EPISODES))
    rng = np.random.default_rng([ROUND_SEED, number])
    parts = []
    for turn in range(REPLANS):
        key = jax.random.fold_in(jax.random.key(ROUND_SEED + number), turn)
        scene = env.scene(states)
        image = draw(jax.tree.map(jnp.asarray, scene))
        seen = Observation(image=image)
        plan, plans, info = controller.replan(seen, goals, plans, key)
        candidates, values = np.asarray(info.candidates), np.asarray(info.values)
        chunks, _ = choose_chunks(rng, key, candidates, values)
        still = env.state_from_scene(scene)
        parts.append(play(env, still, chunks) | {"image": image})
        for t in range(planner.config.execute):
            states = env.step_batch(states, np.asarray(plan)[:, t])
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--eyes", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=3)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    world, tokenizer, config = load_world(options.run, options.eyes, "poses")
    env = envs.load("board", backend="mujoco", threads=1)
    planner = get_planner("mppi", iterations=options.iterations)
    controller = Controller(planner, world, tokenizer, config.max_question_tokens)
    for number in range(options.first, options.first + options.shards):
        path = shard_path(options.output, number)
        if path.exists():
            continue
        began = time.time()
        arrays = make_shard(env, controller, number)
        write_shard(path, arrays)
        far = np.linalg.norm(arrays["moved"][:, :, -1, :, :2].astype(float), axis=-1)
        print(
            f"round shard {number}: {time.time() - began:.1f} s, blocks moved over "
            f"4 cm per chunk {(far > 0.04).sum(-1).mean():.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
