"""Reader of LeRobot data sets, versions 2.0, 2.1 and 3.0, with pyarrow alone.

    2.x  data/chunk-000/episode_000000.parquet      one file per episode
         videos/chunk-000/KEY/episode_000000.mp4
    3.0  data/chunk-000/file-000.parquet            many episodes per file
         videos/KEY/chunk-000/file-000.mp4

Beside them is `meta/` (`lerobot_meta`). A row of a parquet file is a step: actions,
states, `timestamp`, `task_index`, `episode_index`, and frames of dtype `image`; those
of dtype `video` are in video files. LeRobot calls its features `action` and
`observation.state`; data sets of others have names of their own, which are chosen.

Axis: N steps of an episode.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.lerobot_meta import VERSIONS, Metadata
from data_pipelines.sources.raw import Pictures, RawEpisode, SourceKind
from data_pipelines.sources.tables import cells, numbers, parquet, pyarrow, shown
from data_pipelines.sources.videos import TIME_TOLERANCE, read_video
from swm_jax.choices import did_you_mean, first_line

__all__ = ["KIND", "VERSIONS", "LeRobot"]

_ACTION, _STATE = "action", "observation.state"
_CAMERA_TYPES = ("video", "image")
# Columns of every LeRobot set that are neither actions nor states.
_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class LeRobot:
    """A LeRobot folder.

    Attributes:
      name, domain, fps, splits, notes: see `raw.Source`.
      camera, action: names of the features with the frames and the actions.
      state: that with the states; None if there is none.
    """

    domain = "other"

    def __init__(
        self,
        path: Path,
        camera: str | None = None,
        skipped: list[str] | None = None,
        action: str | None = None,
        state: str | None = None,
    ):
        """Reads the metadata.

        Args:
          path: the folder.
          camera: name of a feature with frames; None if there is only one.
          skipped: list to which a line is added per damaged episode of the metadata;
            None raises.
          action, state: names of features; None takes LeRobot's own. A data set without
            states may lack the latter.

        Raises:
          DataError: metadata that are missing, damaged or of another version, an
            unknown feature, or None where there are several.
        """
        self.path, self.notes = path, list[str]()
        self._meta = Metadata(path, skipped)
        self.name = f"LeRobot {self._meta.version}"
        self.fps, self.splits = self._meta.fps, self._meta.splits
        self.action = self._choose_numbers("action", action, _ACTION)
        self.state = self._choose_state(state)
        self.camera = self._choose_camera(camera)
        self._file: tuple[Path, Any] | None = None  # neighbours share a file

    def read(self, number: int) -> RawEpisode:
        """One episode; raises a DataError that names the damaged or missing part."""
        name = f"{self.path} episode {number}"
        length = self._meta.length(number)
        rows = self._rows(number, name)
        if rows.num_rows != length:
            raise DataError(
                f"{name} has {rows.num_rows} rows, its metadata say {length}"
            )
        if length < 2:
            raise DataError(f"{name} has {length} steps, expected at least 2")
        self._check_order(rows, name)
        state = {}
        if self.state is not None:
            state["proprio"] = self._numbers(rows, self.state, name)
        return RawEpisode(
            frames=self._pictures(number, rows, name),
            action=self._numbers(rows, self.action, name),
            state=state,
            instruction=self._instruction(number, rows, name),
            policy="human",
        )

    def _feature(self, name: str) -> Mapping[str, Any]:
        feature = self._meta.features.get(name)
        return feature if isinstance(feature, Mapping) else {}

    def _choose_numbers(self, flag: str, name: str | None, usual: str) -> str:
        """The feature of a flag, or LeRobot's own; an error lists what would do."""
        if (name or usual) in self._meta.features:
            return name or usual
        hint = did_you_mean(name, self._meta.features) if name else ""
        fitting = self._vectors(flag)
        choice = f"choose --{flag} of {', '.join(fitting)}"
        raise DataError(
            f"{self.path} has no feature '{name or usual}'{hint}: "
            + (choice if fitting else "there is none of numbers in a row")
        )

    def _choose_state(self, name: str | None) -> str | None:
        if name is not None or _STATE in self._meta.features:
            return self._choose_numbers("state", name, _STATE)
        others = [x for x in self._vectors("state") if not x.startswith(self.action)]
        if others:
            self.notes.append(
                f"no feature '{_STATE}', so no states are stored; --state takes one of "
                f"{', '.join(others)}"
            )
        return None

    def _vectors(self, flag: str) -> list[str]:
        """Features of numbers in a row, as "NAME (WIDTH)", likely ones first."""
        found = []
        for name in self._meta.features:
            shape: Any = self._feature(name).get("shape")
            dtype = str(self._feature(name).get("dtype"))
            row = isinstance(shape, list) and len(shape) == 1
            if row and dtype.startswith(("float", "int")) and name not in _BOOKKEEPING:
                found.append((flag not in name, f"{name} ({shape[0]})"))
        return [text for _, text in sorted(found)]

    def _choose_camera(self, camera: str | None) -> str:
        types = {name: self._feature(name).get("dtype") for name in self._meta.features}
        cameras = [name for name, dtype in types.items() if dtype in _CAMERA_TYPES]
        colours = [name for name in cameras if not self._is_depth(name)]
        known = ", ".join(colours) or "none"
        if camera is None and len(colours) == 1:
            return colours[0]
        if camera is None:
            raise DataError(f"{self.path}: choose a --camera of {known}")
        if camera not in cameras:
            raise DataError(f"{self.path} has no camera '{camera}', it has {known}")
        if self._is_depth(camera):
            raise DataError(
                f"{self.path}: camera '{camera}' measures depth, expected colours of 8 "
                f"bits per channel, as of {known}"
            )
        return camera

    def _is_depth(self, camera: str) -> bool:
        feature = self._feature(camera)
        for part in (feature, feature.get("info"), feature.get("video_info")):
            if isinstance(part, Mapping) and (
                part.get("is_depth_map") or part.get("video.is_depth_map")
            ):
                return True
        return False

    def _rows(self, number: int, name: str) -> Any:
        path = self._meta.data_file(number)
        if self._file is None or self._file[0] != path:
            self._file = None  # frees the file before, as tables may be large
            columns = {*_BOOKKEEPING, self.action, self.state, self.camera}
            self._file = path, parquet(path, columns.__contains__)
        table = self._file[1]
        if self._meta.version != VERSIONS[-1]:
            return table
        arrow = pyarrow()
        try:
            mine = arrow.compute.equal(table["episode_index"], number)
            return table.filter(mine)
        except (KeyError, arrow.ArrowException) as error:
            raise DataError(
                f"{path}: the rows of {name} cannot be told by episode_index "
                f"({first_line(error)})"
            ) from error

    def _check_order(self, rows: Any, name: str) -> None:
        """Steps must be in order, and in videos at the times of their frames."""
        if "frame_index" in rows.column_names:
            index = numbers(rows, "frame_index", name)
            if index.ndim != 1 or (np.diff(index) <= 0).any():
                raise DataError(f"{name}: frame_index does not rise from row to row")
        if "timestamp" not in rows.column_names:
            return
        times = numbers(rows, "timestamp", name).reshape(rows.num_rows, -1)
        if times.shape[1] != 1:
            raise DataError(f"{name}: timestamp has {times.shape[1]} numbers a row")
        times = times[:, 0] * self.fps
        off = np.abs(np.diff(times) - 1)
        if off.max() > TIME_TOLERANCE:
            worst = np.diff(times)[off.argmax()] / self.fps
            raise DataError(
                f"{name}: two frames are {worst:.3f} s apart, expected "
                f"{1 / self.fps:.3f} s at {self.fps:g} frames per second"
            )
        # Small differences add up, and step 0 of a video is taken to be at 0 s.
        first = 0.0 if self._is_video() else times[0]
        off = np.abs(times - first - np.arange(len(times)))
        if off.max() > TIME_TOLERANCE:
            t = int((off > TIME_TOLERANCE).argmax())
            raise DataError(
                f"{name}: step {t} is at {times[t] / self.fps:.3f} s, expected "
                f"{(first + t) / self.fps:.3f} s at {self.fps:g} frames per second"
            )

    def _numbers(self, rows: Any, key: str, name: str) -> np.ndarray:
        shape: Any = self._feature(key).get("shape")
        sizes: list[Any] = shape if isinstance(shape, list) else [None]
        if not all(isinstance(n, int) and n > 0 for n in sizes):
            raise DataError(
                f"{self.path}: feature '{key}' has shape {shown(shape)} in info.json, "
                "expected its sizes"
            )
        width = math.prod(sizes)
        values = numbers(rows, key, name, np.float32)
        values = values.reshape(len(values), int(np.prod(values.shape[1:])))
        if values.shape[1] != width:
            raise DataError(
                f"{name}: {key} has {values.shape[1]} numbers, info.json says {width}"
            )
        return values

    def _is_video(self) -> bool:
        return self._feature(self.camera)["dtype"] == "video"

    def _pictures(self, number: int, rows: Any, name: str) -> Pictures:
        if not self._is_video():
            files = cells(rows, self.camera, name)
            return [_picture(self.path, file, name) for file in files]
        part = self._meta.video(number, self.camera)
        return read_video(part.path, rows.num_rows, self.fps, part.start)

    def _instruction(self, number: int, rows: Any, name: str) -> str:
        column = None
        if "task_index" in rows.column_names:
            column = cells(rows, "task_index", name)
        return self._meta.instruction(number, column)


def _picture(root: Path, cell: Any, name: str) -> bytes:
    """An `image` feature's cell: bytes, or the path of a file."""
    path = cell
    if isinstance(cell, Mapping):
        if isinstance(cell.get("bytes"), bytes) and cell["bytes"]:
            return cell["bytes"]
        path = cell.get("path")
    if isinstance(cell, bytes) and cell:
        return cell
    if not isinstance(path, str):
        raise DataError(f"{name}: a frame is {shown(cell)}, expected a picture")
    try:
        return (root / path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: picture {root / path} is missing") from error


KIND = SourceKind(
    name="lerobot",
    title="LeRobot",
    layout="meta/info.json",
    matches=lambda path: (path / "meta" / "info.json").exists(),
    open=lambda path, camera, skipped, **options: LeRobot(
        path, camera, skipped, **options
    ),
    chosen=("camera", "action", "state"),
)
