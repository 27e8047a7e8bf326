"""Resumable sweep of planning episodes: tasks x world models x methods x seeds.

Every finished episode is one line of the journal and one file of poses
(`episodes/<task>.<method>.<world model>.<seed>.npz`), written when it ends.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from swm_jax import prng
from swm_jax.baselines import Answerer
from swm_jax.envs import AnyScene, Env
from swm_jax.eval.config import EvalConfig
from swm_jax.eval.episodes.device_program import run_on_device
from swm_jax.eval.episodes.host_loop import EpisodeResult, run_episodes
from swm_jax.eval.journal import Episode, Journal
from swm_jax.files import replaced
from swm_jax.planning import PLANNERS, Planner
from swm_jax.worlds import load

Cell = tuple[str, str, str]  # task, method, world model


def make_planner(config: EvalConfig, method: str) -> Planner:
    """Planner of a method, with the overrides of the configuration."""
    settings = dict(config.planners.get(method, {}))
    make = functools.partial(load(config.world).make_planner, method)
    preset = PLANNERS[method]
    used = preset.used_settings(**settings)
    names = ("candidates", "iterations", "execute")
    given = {k: v for k in names if k in used and (v := getattr(config, k))}
    if preset.config.iterations == 1 and "iterations" in given:
        # A planner without refinement gets one population of the same total number of
        # candidates as the others have over all iterations.
        iterations = given.pop("iterations")
        base = make(**settings).config.candidates
        if "candidates" in given:
            base = given["candidates"] * iterations
        given["candidates"] = base
    if few := given.get("candidates"):  # subsets cannot exceed the population
        own = make(**settings).config
        used = preset.used_settings(**{**settings, **given})
        most = {"keep": few - 1, "elites": few, "carry": few, "refine": few}
        given |= {k: min(getattr(own, k), v) for k, v in most.items() if k in used}
    return make(**{**settings, **given})


def remaining(config: EvalConfig, journal: Journal) -> dict[Cell, list[int]]:
    """Seeds without an episode in the journal, by cell."""
    done = {(*e.cell, e.seed) for e in journal.episodes()}
    cells = {
        cell: [s for s in config.seeds if (*cell, s) not in done]
        for cell in config.cells()
    }
    return {cell: seeds for cell, seeds in cells.items() if seeds}


def run_sweep(
    config: EvalConfig,
    env: Env,
    answerers: Mapping[str, Answerer],
    journal: Journal,
    folder: pathlib.Path,
    begin: Callable[[str, str, int], None],
    finish: Callable[[Episode], None],
) -> None:
    """Runs the remaining episodes, all tasks of a method and world model in parallel.

    Args:
      config: of the evaluation.
      env: of the world.
      answerers: world models by name.
      journal: where finished episodes are added.
      folder: for the files of poses.
      begin: called with method, world model and number of episodes before they start.
      finish: called with every finished episode.
    """
    groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for (task, method, name), seeds in remaining(config, journal).items():
        group = groups.setdefault((method, name), [])
        group.extend((task, seed) for seed in seeds)
    for (method, name), tasks in groups.items():
        asked, planner = answerers[name], make_planner(config, method)
        begin(method, name, len(tasks))

        def on_end(result: EpisodeResult, method=method, name=name) -> None:
            episode = _episode(result, method, name)
            save_episode(folder, episode, result)
            journal.append("episode", vars(episode))
            finish(episode)

        run = run_on_device if config.on_device else run_episodes
        run(
            env,
            tasks,
            asked.model,
            planner,
            prng.key(0),
            # Random actions need no conditional goal, whose choice would query a model.
            preset="published" if method == "random" else config.goal,
            tokenizer=asked.tokenizer,
            question_length=asked.question_length,
            image_size=asked.image_size,
            max_steps=config.max_steps or None,
            parallel=min(config.episodes_parallel, len(tasks)),
            on_end=on_end,
        )


def _episode(result: EpisodeResult, method: str, world_model: str) -> Episode:
    return Episode(
        task=result.task,
        method=method,
        world_model=world_model,
        seed=int(result.seed),
        success=bool(result.success),
        steps=int(result.steps),
        seconds_per_replan=float(result.seconds_per_replan),
        candidates_per_replan=0
        if method == "random"
        else int(result.candidates_per_replan),
        detail=", ".join(result.blocks),
    )


def episode_path(folder: pathlib.Path, episode: Episode) -> pathlib.Path:
    """Path of the file with an episode's poses."""
    return folder / "episodes" / f"{'.'.join(episode.cell)}.{episode.seed}.npz"


def save_episode(folder: pathlib.Path, episode: Episode, result) -> None:
    """Writes the poses of an episode, atomically."""
    path = episode_path(folder, episode)
    with replaced(path) as temporary:
        np.savez_compressed(temporary, action=result.actions, **vars(result.scenes))


def load_episode(
    config: EvalConfig, folder: pathlib.Path, episode: Episode
) -> AnyScene | None:
    """Scene with leading axis [T + 1]; None if the file does not exist."""
    path = episode_path(folder, episode)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as data:
        poses = {name: data[name] for name in data.files if name != "action"}
    return load(config.world).scene.kind(**poses)


def load_actions(
    folder: pathlib.Path, episode: Episode
) -> Float[np.ndarray, "T A"] | None:
    """Executed actions; None if the file does not exist or is of an older version."""
    path = episode_path(folder, episode)
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as data:
        return data["action"] if "action" in data.files else None
