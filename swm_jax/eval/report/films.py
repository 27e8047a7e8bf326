"""Film and filmstrip of one episode per task, from the poses stored by the sweep.

The episode is a success of the semantic world model (swm) if there is one, else one of
its failures; without a swm, one of the next world model. The file is an mp4 if
imageio-ffmpeg is installed, else a gif.
"""

import io
import pathlib
import warnings
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from swm_jax import baselines, worlds
from swm_jax.cli import Progress
from swm_jax.eval.config import EvalConfig
from swm_jax.eval.episodes.cells import load_actions, load_episode, make_planner
from swm_jax.eval.journal import Episode
from swm_jax.eval.report import film
from swm_jax.eval.report.page import display
from swm_jax.eval.world_models import Learned
from swm_jax.files import replaced
from swm_jax.planning.controller import Controller

LONGEST = 120  # frames of a film
FPS = 10  # control steps per second: real time
HOLD = 12  # extra frames at the end
GIF_WIDTH = 720


def shoot(
    config: EvalConfig,
    env,
    learned: Learned | None,
    episodes: Sequence[Episode],
    folder: pathlib.Path,
) -> dict[str, dict]:
    """Films by task for `build.render`; writes a video file per task."""
    if not config.video:
        return {}
    reel = {}
    progress = Progress("films", len(config.tasks), "tasks")
    order = ("swm", *baselines.baselines())
    for i, task in enumerate(config.tasks):
        episode = choose(episodes, task, order)
        scenes = load_episode(config, folder, episode) if episode else None
        if episode is not None and scenes is not None:
            reel[task] = _film(config, env, learned, episode, scenes, folder)
        progress(i + 1, task)
    return reel


def _film(config, env, learned, episode: Episode, scenes, folder) -> dict:
    keep = np.arange(min(scenes.batch_shape[0], LONGEST + 1))
    scenes = jax.tree.map(lambda x: np.asarray(x)[keep], scenes)
    truth = baselines.load("simulator", env)
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
    path = write_video(folder / f"{episode.task}", frames)
    end = "solved" if episode.success else "not solved"
    return {
        "caption": f"{title} · {who} · {end} after {episode.steps} steps",
        "frames": filmstrip(pictures),
        "video": path,
    }


def choose(episodes: Sequence[Episode], task: str, order: Sequence[str]):
    """Episode to film, of the first world model in `order` that has one.

    Successes come before failures, and longer successes before very short ones.
    """
    for world_model in order:
        found = [e for e in episodes if e.task == task and e.world_model == world_model]
        if found:
            return max(found, key=lambda e: (e.success, min(e.steps, 40), -e.seed))
    return None


def has_ffmpeg() -> bool:
    """Whether imageio-ffmpeg is available, for mp4."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


def write_video(stem: pathlib.Path, frames: Sequence[Image.Image]) -> pathlib.Path:
    """Writes `stem`.mp4 or `stem`.gif atomically and returns its path."""
    frames = [*frames, *[frames[-1]] * HOLD]
    path = stem.with_suffix(".mp4" if has_ffmpeg() else ".gif")
    with replaced(path) as temporary:
        (_mp4 if path.suffix == ".mp4" else _gif)(temporary, frames)
    return path


def _mp4(path: pathlib.Path, frames: Sequence[Image.Image]) -> None:
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(
        str(path),
        frames[0].size,
        fps=FPS,
        codec="libx264",
        output_params=["-crf", "26", "-preset", "veryfast", "-movflags", "+faststart"],
        macro_block_size=16,
        ffmpeg_log_level="error",
    )
    with warnings.catch_warnings():  # ffmpeg is a program of its own: forking is safe
        warnings.filterwarnings("ignore", message=r"os\.fork", category=RuntimeWarning)
        writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _gif(path: pathlib.Path, frames: Sequence[Image.Image]) -> None:
    height = frames[0].height * GIF_WIDTH // frames[0].width
    small = [
        f.resize((GIF_WIDTH, height), Image.Resampling.LANCZOS).quantize(96)
        for f in frames
    ]
    small[0].save(
        path, save_all=True, append_images=small[1:], duration=1000 // FPS, loop=0
    )


def filmstrip(pictures: np.ndarray, count: int = 6) -> list[tuple[str, bytes]]:
    """`count` frames spread over an episode, as (caption, small JPEG)."""
    index = np.unique(np.linspace(0, len(pictures) - 1, count).round().astype(int))
    strip = []
    for t in index:
        buffer = io.BytesIO()
        small = Image.fromarray(pictures[t]).resize(
            (320, 180), Image.Resampling.LANCZOS
        )
        small.save(buffer, "JPEG", quality=82)
        strip.append((f"step {t}", buffer.getvalue()))
    return strip
