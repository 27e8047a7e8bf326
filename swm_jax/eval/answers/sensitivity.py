"""Action sensitivity: correlation of predicted and true values of action chunks.

For many chunks in one scene, the world model's values are compared with those of the
simulator. A model that ignores the actions gives all chunks the same value, even if its
answers are accurate on average. The measure is Spearman's rank correlation, since
planners only rank candidates.

Axes: S scenes, N candidates, H actions of a chunk.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import stats

from swm_jax import baselines, prng, worlds
from swm_jax.arrays import Array
from swm_jax.baselines import Answerer
from swm_jax.envs import AnyScene, Env
from swm_jax.eval import statistics
from swm_jax.planning import Planner, PlannerConfig, chunk_value, desired_scores
from swm_jax.planning.controller import Controller
from swm_jax.planning.goals.question_batch import goal_batch
from swm_jax.planning.noise import coloured_noise, strokes

FIRST_SEED = 1_950_000_000
BATCH = 10  # scenes per call


def measure(
    env: Env,
    answerer: Answerer,
    planner: Planner,
    tasks: Sequence[str],
    scenes: int,
    candidates: int,
    goal: str,
    say: Callable[[int], None] | None = None,
) -> dict:
    """The `action_sensitivity` section of results.json.

    Args:
      env: of the scenes.
      answerer: the model to evaluate.
      planner: its horizons and its score define the values.
      tasks: names of tasks.
      scenes: per task.
      candidates: chunks per scene.
      goal: preset of the questions.
      say: called with the number of scenes done after every batch.
    """
    truth = baselines.load("simulator", env)
    room = worlds.load(env.world).most_questions(tasks, goal)
    per_task, examples, done = {}, [], 0
    for task in tasks:
        rho, favourite, pairs = [], [], []
        for begin in range(0, scenes, BATCH):
            seeds = FIRST_SEED + np.arange(begin, min(begin + BATCH, scenes))
            starts, goals = zip(*(_start(env, task, int(s), goal) for s in seeds))
            scene = jax.tree.map(lambda *x: np.stack(x), *starts)
            key = prng.key(int(seeds[0]))
            chunks = draw_candidates(key, len(seeds), candidates, planner.config)
            aims = Controller(planner, truth.model).aims(truth.observe(scene), goals)
            true, predicted = (
                value(
                    each,
                    scene,
                    aims,
                    chunks,
                    planner.config,
                    room,
                )
                for each in (truth, answerer)
            )
            for t, p in zip(true, predicted):
                if np.ptp(t) == 0:
                    continue  # all chunks have the same true value: no ranking
                # A model that gives all chunks one value ranks none: 0, not NaN.
                rho.append(float(np.nan_to_num(statistics.spearman(p, t))))
                favourite.append(
                    (stats.rankdata(t)[p.argmax()] - 1) / max(len(t) - 1, 1)
                )
                pairs.append((p, t))
            done += len(seeds)
            if say:
                say(done)
        if not rho:
            continue
        typical = int(np.argmin(np.abs(np.array(rho) - np.mean(rho))))
        p, t = pairs[typical]
        examples.append({"task": task, "predicted": p.tolist(), "true": t.tolist()})
        per_task[task] = {
            **_summary(rho),
            "favourite_percentile": float(np.mean(favourite)),
            "rho": rho,
        }
    every = [x for row in per_task.values() for x in row["rho"]]
    return {
        **_summary(every),
        "tasks": list(tasks),
        "scenes": len(every),
        "candidates": candidates,
        "world_model": answerer.name,
        "score": planner.config.score,
        "per_task": per_task,
        "examples": examples,
    }


def _summary(rho: list[float]) -> dict:
    return {
        "mean": float(np.mean(rho)) if rho else float("nan"),
        "interval95": list(statistics.bootstrap_interval(np.array(rho))),
        "median": float(np.median(rho)) if rho else float("nan"),
        "share_positive": float(np.mean(np.array(rho) > 0)) if rho else float("nan"),
    }


def _start(env: Env, name: str, seed: int, preset: str) -> tuple[AnyScene, object]:
    """Scene after 0, 10, 20 or 30 expert steps from a task's start, and the goal."""
    world = worlds.load(env.world)
    task = world.make_task(name, seed, env)
    key = prng.key(seed)
    state = task.reset(env, key)
    act = world.policies.expert
    for t in range(seed % 4 * 10):
        action = act(env, env.scene(state), task, seed, prng.fold_in(key, t))
        moved = env.step(state, action)
        if bool(task.success(env.scene(moved))):
            break
        state = moved
    scene = jax.tree.map(np.asarray, env.scene(state))
    return scene, world.goal(task, preset)


def draw_candidates(
    key: jax.Array, scenes: int, candidates: int, config: PlannerConfig
) -> Float[Array, "S N H A"]:
    """Half straight strokes, half coloured noise, as planners' initial candidates."""
    stroke, noise = prng.split(key)
    half = candidates // 2
    tail = (config.horizon, config.action_size)
    straight = strokes(stroke, (scenes, half, *tail), config.action_limit)
    shape = (scenes, candidates - half, *tail)
    wild = config.init_std * coloured_noise(noise, shape, config.noise_exponent)
    chunks = jnp.concatenate([straight, wild], 1)
    return jnp.clip(chunks, -config.action_limit, config.action_limit)


def value(
    answerer: Answerer,
    scene: AnyScene,
    aims: Sequence,
    chunks: Float[Array, "S N H A"],
    config: PlannerConfig,
    count: int | None = None,
) -> Float[np.ndarray, "S N"]:
    """Values that a planner with the model `answerer` assigns to each chunk.

    Args:
      answerer: the model.
      scene: S scenes.
      aims: S goals.
      chunks: N candidates per scene.
      config: of the planner.
      count: padded number of questions, at least that of the largest goal.
    """
    words = answerer.tokenizer, answerer.question_length
    questions, goal = goal_batch(aims, *words, count)
    observation = answerer.observe(scene)
    found = _value(answerer.model, observation, questions, goal, chunks, config)
    return np.asarray(found)


@functools.partial(jax.jit, static_argnames="config")
def _value(model, observation, questions, goal, chunks, config: PlannerConfig):
    context = model.encode(observation, questions)
    horizons = range(config.sub_chunk, config.horizon + 1, config.sub_chunk)
    scores = desired_scores(
        model, context, chunks, goal.answers, tuple(horizons), config.score,
        config.normalise, config.margin_scale,
    )  # fmt: skip
    return chunk_value(scores, goal.weights)[0]
