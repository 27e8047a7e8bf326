"""A film and a filmstrip per task, from the poses the sweep has kept."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from swm_jax import worlds
from swm_jax.cli import Progress
from swm_jax.eval.config import EvalConfig
from swm_jax.eval.episodes.cells import load_actions, load_episode, make_planner
from swm_jax.eval.journal import Episode
from swm_jax.eval.report import film, video
from swm_jax.eval.report.page import display
from swm_jax.eval.world_models import Learned, privileged
from swm_jax.planning.controller import Controller

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
        scenes = load_episode(config, folder, episode) if episode else None
        if scenes is not None:
            reel[task] = _film(config, env, learned, episode, scenes, folder)
        progress(i + 1, task)
    return reel


def _film(config, env, learned, episode: Episode, scenes, folder) -> dict:
    keep = np.arange(min(scenes.batch_shape[0], LONGEST + 1))
    scenes = jax.tree.map(lambda x: np.asarray(x)[keep], scenes)
    truth = privileged("simulator", env)
    answerer = learned.answerer if episode.world_model == "swm" else truth
    names = tuple(episode.detail.split(", "))
    world = worlds.load(config.world)
    goal = world.goals.make(episode.task, names, config.goal)
    method = next((m for m in config.methods if m != "random"), "mppi")
    aims = Controller(make_planner(config, method), truth.model).aims(
        truth.observe(scenes), [goal] * len(keep)
    )
    told = load_actions(folder, episode)
    room = world.most_questions(config.tasks, config.goal)
    said = film.listen(answerer, world.language, scenes, aims, told, room=room)
    pictures = film.large_pictures(config.world, scenes)
    seen = None
    if answerer.image_size is not None:
        seen = np.asarray(answerer.observe(scenes).image)
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
