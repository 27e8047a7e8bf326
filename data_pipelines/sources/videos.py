"""Frames of a part of a video, decoded by the ffmpeg binary of imageio-ffmpeg.

It decodes the codecs of robot data sets (H.264, HEVC, AV1). Frames stream through a
pipe, so that a long recording needs the memory of one frame. ffmpeg decodes from the
key frame before the part, drops frames earlier than half a frame before its start, and
reports the time of every frame that it gives. A frame at another time than its step
shows another moment, which is damage.
"""

import queue
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_pipelines.schema.episode import DataError
from swm_jax.files import pointer_hint

TIME_TOLERANCE = 0.2  # of a frame's duration, between stored and expected times
_FPS_TOLERANCE = 0.01  # relative
# Lines that ffmpeg and its filter `showinfo` print; times are in units of a time base.
_RATE = re.compile(r"Video: .*?([\d.]+)(k?) fps")
_CLOCK = re.compile(r"config in time_base: (\d+)/(\d+)")
_FRAME = re.compile(r"\bn: *\d+ pts: *(-?\d+|NOPTS) .*\bfmt:(\w+) .*\bs:(\d+)x(\d+)")
_PROBLEM = re.compile(r"\[(?:error|fatal)\] (.*)")


class _Frame(NamedTuple):
    """What ffmpeg says of a frame; `time` is in seconds, None if it has none."""

    time: float | None
    pixels: str
    height: int
    width: int


def read_video(path: Path, count: int, fps: float, start: float = 0.0) -> "VideoFrames":
    """`count` frames from `start` seconds on, decoded when they are iterated over.

    Args:
      path: the file.
      count: number of frames.
      fps: frames per second that the file must have.
      start: time of the first, seconds.

    Raises:
      DataError: a missing file, or no imageio-ffmpeg.
    """
    if not path.is_file():
        raise DataError(f"video {path} is missing")
    if hint := pointer_hint(path):
        raise DataError(f"video {path} {hint}")
    return VideoFrames(path, count, fps, start, _ffmpeg())


class VideoFrames:
    """Frames of a part of a video; iterating decodes them. See `read_video`."""

    def __init__(self, path: Path, count: int, fps: float, start: float, ffmpeg: str):
        self._path, self._count, self._fps, self._start = path, count, fps, start
        self._ffmpeg = ffmpeg

    def __len__(self) -> int:
        """Number of frames."""
        return self._count

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Decodes frame by frame.

        Raises:
          DataError: an unreadable or damaged file, another frame rate, more than 8 bits
            per channel, too few frames, or a frame at another time than expected.
        """
        process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout and process.stderr
        log = _Log(process.stderr)
        given = 0
        try:
            while given < self._count and (about := log.next_frame()):
                self._check(about, given, log.fps)
                size = (about.height, about.width, 3)
                data = process.stdout.read(int(np.prod(size)))
                if len(data) < np.prod(size):
                    break
                yield np.frombuffer(data, np.uint8).reshape(size)
                given += 1
        finally:
            process.kill()
            log.close()
            process.stdout.close()
            process.wait()
        if given < self._count:
            raise self._too_few(given, log)

    def _command(self) -> list[str]:
        # Half a frame early, so that rounding of time stamps cannot skip the first.
        first = self._start - 0.5 / self._fps
        seek, trim = [], ""
        if first > 0:
            # Times are the file's own, also where it does not begin at 0. Decoding
            # begins at a key frame, and the filter drops what is before the part.
            seek = ["-seek_timestamp", "1", "-noaccurate_seek", "-ss", f"{first:.6f}"]
            trim = f"trim=start={first:.6f},"
        return [
            *(self._ffmpeg, "-nostdin", "-loglevel", "level+info", "-copyts"),
            *("-xerror", *seek, "-i", f"file:{self._path}", "-map", "0:v:0"),
            *("-vf", f"{trim}showinfo=checksum=0", "-fps_mode", "passthrough"),
            *("-frames:v", str(self._count), "-f", "rawvideo", "-pix_fmt", "rgb24"),
            "pipe:1",
        ]

    def _check(self, frame: _Frame, t: int, fps: float) -> None:
        if frame.pixels.endswith(("le", "be")):  # 8 bits have no order of bytes
            raise DataError(
                f"video {self._path} has pixels {frame.pixels}, expected 8 bits per "
                "channel: re-encode colours with `ffmpeg -pix_fmt yuv420p`; depth is "
                "no picture"
            )
        expected = self._start + t / self._fps
        if frame.time is None:
            raise DataError(f"video {self._path}: frame {t} has no time")
        if abs(frame.time - expected) * self._fps <= TIME_TOLERANCE:
            return
        # Wrong from the second frame on: the whole file has another rate.
        if t == 1 and fps and abs(fps - self._fps) > _FPS_TOLERANCE * self._fps:
            raise DataError(
                f"video {self._path} has {fps:g} frames per second, expected "
                f"{self._fps:g}"
            )
        raise DataError(
            f"video {self._path}: the frame of step {t} is at {frame.time:.3f} s, "
            f"expected {expected:.3f} s ({self._start:g} s + {t} / {self._fps:g}): it "
            "shows another moment"
        )

    def _too_few(self, given: int, log: "_Log") -> DataError:
        if log.problems or not log.began:
            reason = log.problems[-1] if log.problems else "it holds no frame"
            return DataError(f"video {self._path} cannot be decoded ({reason})")
        return DataError(
            f"video {self._path} has {given} frames from {self._start:g} s on, "
            f"expected {self._count}"
        )


class _Log:
    """What ffmpeg prints while it decodes, read in a thread.

    The line of a frame is printed before its pixels are written, so that whoever reads
    line, pixels, line, ... never waits for both.

    Attributes:
      fps: of the video; 0 if it is not told.
      began: whether decoding began.
      problems: errors, in words.
    """

    def __init__(self, stream: IO[bytes]):
        self.fps, self.began, self.problems = 0.0, False, list[str]()
        self._stream, self._unit = stream, 0.0
        self._frames: queue.SimpleQueue[_Frame | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next_frame(self) -> _Frame | None:
        """The next frame; None after the last."""
        return self._frames.get()

    def close(self) -> None:
        """Waits until everything is read; the process must have ended."""
        self._thread.join()
        self._stream.close()

    def _read(self) -> None:
        try:
            for raw in self._stream:
                self._take(raw.decode("utf-8", "replace"))
        finally:
            self._frames.put(None)

    def _take(self, line: str) -> None:
        if found := _FRAME.search(line):
            time, pixels, width, height = found.groups()
            seconds = None if time == "NOPTS" else int(time) * self._unit
            self._frames.put(_Frame(seconds, pixels, int(height), int(width)))
        elif found := _CLOCK.search(line):
            self._unit, self.began = int(found[1]) / int(found[2]), True
        elif not self.began and (found := _RATE.search(line)):
            self.fps = float(found[1]) * (1000 if found[2] else 1)
        elif found := _PROBLEM.search(line):
            self.problems.append(found[1].strip())


def _ffmpeg() -> str:
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:  # RuntimeError: no binary was found
        raise DataError(
            "videos need imageio-ffmpeg: pip install 'swm_jax[lerobot]'"
        ) from error
