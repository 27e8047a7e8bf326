"""Decoding of video files by the ffmpeg binary of imageio-ffmpeg.

It decodes the codecs of robot data sets (H.264, HEVC, AV1). Seeking by time is exact:
ffmpeg decodes from the preceding key frame and drops earlier frames.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipelines.schema.episode import DataError

_FPS_TOLERANCE = 0.01  # relative


def read_video(
    path: Path,
    count: int,
    fps: float,
    start: float = 0.0,
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """`count` frames from `start` seconds on.

    Args:
      path: the file.
      count: number of frames.
      fps: frames per second that the file must have.
      start: time of the first, seconds.

    Raises:
      DataError: a missing or unreadable file, another frame rate, or fewer than
        `count` frames.
    """
    if not path.is_file():
        raise DataError(f"video {path} is missing")
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise DataError(
            "videos need imageio-ffmpeg: pip install 'swm_jax[lerobot]'"
        ) from error
    # Half a frame early, so that rounding of time stamps cannot skip the first frame.
    seek = ["-ss", f"{start - 0.5 / fps:.6f}"] if start > 0 else []
    output = ["-fps_mode", "passthrough", "-frames:v", str(count)]
    reader = imageio_ffmpeg.read_frames(
        str(path), input_params=seek, output_params=output
    )
    try:
        about = next(reader)
        seen = about["fps"]
        if seen and abs(seen - fps) > _FPS_TOLERANCE * fps:
            raise DataError(
                f"video {path} has {seen:g} frames per second, expected {fps:g}"
            )
        width, height = about["size"]
        frames = [
            np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader
        ]
    except (OSError, RuntimeError, StopIteration, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip().splitlines() or ["it holds no frame"])[-1]
        raise DataError(f"video {path} cannot be decoded ({reason})") from error
    finally:
        reader.close()
    if len(frames) < count:
        raise DataError(
            f"video {path} has {len(frames)} frames from {start:g} s on, expected "
            f"{count}"
        )
    return frames[:count]
