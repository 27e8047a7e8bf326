"""A film and a filmstrip per task, from the poses the sweep has kept."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from swm_jax import worlds
from swm_jax.cli import Progress
from swm_jax.eval.config import EvalConfig
from swm_jax.eval.episodes.cells import load_actions, load_episode, make_planner
from swm_jax.eval.episodes.goal_sizes import room
from swm_jax.eval.journal import Episode
from swm_jax.eval.report import film, video
from swm_jax.eval.report.page import display
from swm_jax.eval.world_models import Learned, privileged
from swm_jax.planning.controller import Controller
from swm_jax.questions import goal_for_task

LONGEST = 120  # frames of a film


def shoot(
    config: EvalConfig,
    env,
    learned: Learned | None,
    episodes: Sequence[Episode],
    folder: pathlib.Path,
) -> dict[str, dict]:
    """What `report.render` takes as films; writes a video file per task."""
    if not config.video:
        return {}
    reel = {}
    progress = Progress("films", len(config.tasks), "tasks")
    order = ("swm", "simulator", "random")
    for i, task in enumerate(config.tasks):
        episode = video.choose(episodes, task, order)
        scenes = load_episode(folder, episode) if episode else None
        if scenes is not None:
            reel[task] = _film(config, env, learned, episode, scenes, folder)
        progress(i + 1, task)
    return reel


def _film(config, env, learned, episode: Episode, scenes, folder) -> dict:
    keep = np.arange(min(scenes.batch_shape[0], LONGEST + 1))
    scenes = jax.tree.map(lambda x: np.asarray(x)[keep], scenes)
    truth = privileged("simulator", env)
    world = learned.world if episode.world_model == "swm" else truth
    names = tuple(episode.detail.split(", "))
    goal = goal_for_task(episode.task, names, config.goal, domain=config.env)
    method = next((m for m in config.methods if m != "random"), "mppi")
    aims = Controller(make_planner(config, method), truth.model).aims(
        truth.observe(scenes), [goal] * len(keep)
    )
    told = load_actions(folder, episode)
    language = worlds.language(env.domain)
    count = room(config.tasks, config.goal, config.env)
    said = film.listen(world, language, scenes, aims, told, room=count)
    pictures = film.large_pictures(scenes)
    seen = None
    if world.image_size is not None:
        seen = np.asarray(world.observe(scenes).image)
    title = f"{display(episode.task)}: {episode.detail}"
    who = f"{display(episode.world_model)}, seed {episode.seed}"
    frames = film.compose(f"{title}  ·  {who}", pictures, seen, said, episode.success)
    path = video.write_video(folder / f"{episode.task}", frames)
    end = "solved" if episode.success else "not solved"
    return {
        "caption": f"{title} · {who} · {end} after {episode.steps} steps",
        "frames": video.filmstrip(pictures),
        "video": path,
    }
