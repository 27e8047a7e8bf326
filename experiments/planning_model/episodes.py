"""Success of MPPI as shipped with a dynamics run as judge.

    python -m experiments.planning_model.episodes --run DIR --eyes DIR --judge poses \\
        [--task block_to_block] [--episodes 30] [--bound 0.04]

Episodes are those of seeds 5000, 5001, ..; without `--run` the shipped model judges.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

from experiments.planning_model.metric_world import JUDGES, load_world
from swm_jax import envs
from swm_jax.checkpoints import load_model
from swm_jax.planning import get_planner
from swm_jax.planning.closed_loop import run_episodes

FIRST_SEED = 5000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--eyes", type=Path)
    parser.add_argument("--judge", choices=JUDGES, default="poses")
    parser.add_argument("--bound", type=float, default=0.0)
    parser.add_argument("--task", default="block_to_block")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--parallel", type=int, default=10)
    parser.add_argument("--planner", default="mppi")
    parser.add_argument("--score", default="log_probability")
    options = parser.parse_args()
    if options.run is None:
        loaded = load_model(None)
        world, tokenizer, config = loaded.world_model, loaded.tokenizer, loaded.config
    else:
        world, tokenizer, config = load_world(
            options.run, options.eyes, options.judge, options.bound
        )
    env = envs.load("board", backend="mujoco", threads=1)
    seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
    began = time.time()
    results = run_episodes(
        env,
        [(options.task, seed) for seed in seeds],
        world,
        get_planner(options.planner, score=options.score),
        jax.random.key(0),
        tokenizer=tokenizer,
        question_length=config.max_question_tokens,
        image_size=(config.image_size, config.image_size),
        parallel=options.parallel,
        on_end=lambda r: print(r.seed, r.success, r.steps, flush=True),
    )
    won = [r.steps for r in results if r.success]
    print(
        f"{options.task}, judge {options.judge if options.run else 'shipped'}: "
        f"{len(won)}/{len(results)}, median {np.median(won) if won else np.nan:.0f} "
        f"steps, {time.time() - began:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
