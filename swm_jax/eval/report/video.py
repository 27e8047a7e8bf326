"""Frames to a file: mp4 with imageio-ffmpeg where it is installed, else gif.

The film of a task is the swm's first success, or its first episode; without a
swm that of the next best world model.
"""

import io
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from swm_jax.eval.journal import Episode
from swm_jax.files import replaced

FPS = 10  # control steps per second: real time
HOLD = 12  # extra frames at the end
GIF_WIDTH = 720


def choose(episodes: Sequence[Episode], task: str, order: Sequence[str]):
    """The episode worth a film: of the first world model in `order` that has one.

    A success before a failure, a longer success before one that was there at once.
    """
    for world_model in order:
        found = [e for e in episodes if e.task == task and e.world_model == world_model]
        if found:
            return max(found, key=lambda e: (e.success, min(e.steps, 40), -e.seed))
    return None


def has_ffmpeg() -> bool:
    """Whether mp4 can be written."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


def write_video(stem: pathlib.Path, frames: Sequence[Image.Image]) -> pathlib.Path:
    """Writes `stem`.mp4 or `stem`.gif, under its name once complete; returns which."""
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
