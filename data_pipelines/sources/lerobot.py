"""Reader of LeRobot data sets, versions 2.0, 2.1 and 3.0, with pyarrow alone.

    2.x  data/chunk-000/episode_000000.parquet      one file per episode
         videos/chunk-000/KEY/episode_000000.mp4
         meta/info.json, episodes.jsonl, tasks.jsonl
    3.0  data/chunk-000/file-000.parquet            many episodes per file
         videos/KEY/chunk-000/file-000.mp4
         meta/info.json, tasks.parquet, episodes/chunk-000/file-000.parquet

`meta/info.json` has the path templates, the frame rate and the features. A row of a
parquet file is a step: `action`, `observation.state`, `timestamp`, `task_index`,
`episode_index`, and frames of dtype `image`; those of dtype `video` are in video
files. In 3.0 the table of episodes has an episode's start time within its video.

Axis: N steps of an episode.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.raw import RawEpisode, SourceKind
from data_pipelines.sources.videos import read_video
from swm_jax.choices import first_line

VERSIONS = ("v2.0", "v2.1", "v3.0")
_TIME_TOLERANCE = 0.2  # of a frame's duration, between stored and expected times


class LeRobot:
    """A LeRobot folder.

    Attributes:
      name, domain, fps, splits: see `raw.Source`.
      camera: name of the feature with the frames.
    """

    domain = "other"

    def __init__(self, path: Path, camera: str | None = None):
        """Reads the metadata.

        Args:
          path: the folder.
          camera: name of a feature with frames; None if there is only one.

        Raises:
          DataError: metadata that are missing, damaged or of another version, an
            unknown camera, or None where there are several.
        """
        self.path = path
        info = _json(path / "meta" / "info.json")
        version = info.get("codebase_version")
        if version not in VERSIONS:
            raise DataError(
                f"{path} is LeRobot version {version}, this code reads "
                f"{', '.join(VERSIONS)}"
            )
        self.name = f"LeRobot {version}"
        self._new = version == "v3.0"
        for field in ("fps", "data_path", "features", "total_episodes"):
            if info.get(field) is None:
                raise DataError(f"{path / 'meta' / 'info.json'} lacks '{field}'")
        self.fps, self._info = float(info["fps"]), info
        self._features: Mapping[str, Any] = info["features"]
        if "action" not in self._features:
            raise DataError(
                f"{path} has no feature 'action': there is nothing to learn"
            )
        self.camera = self._choose_camera(camera)
        self._tasks = self._read_tasks()
        self._episodes = self._read_episodes()
        self.splits = self._read_splits(info.get("splits"))

    def read(self, number: int) -> RawEpisode:
        """One episode; raises a DataError that names the damaged or missing part."""
        about = self._episodes[number]
        rows = self._rows(number, about)
        steps, name = rows.num_rows, f"{self.path} episode {number}"
        if steps != int(about["length"]):
            raise DataError(
                f"{name} has {steps} rows, its metadata say {about['length']}"
            )
        if steps < 2:
            raise DataError(f"{name} has {steps} steps, expected at least 2")
        self._check_times(rows, name)
        state = {}
        if "observation.state" in rows.column_names:
            state["proprio"] = self._numbers(rows, "observation.state", name)
        return RawEpisode(
            frames=self._pictures(number, about, rows, name),
            action=self._numbers(rows, "action", name),
            state=state,
            instruction=self._instruction(rows, about),
            policy="human",
        )

    def _choose_camera(self, camera: str | None) -> str:
        cameras = [
            key
            for key, feature in self._features.items()
            if feature.get("dtype") in ("video", "image")
        ]
        known = ", ".join(cameras) or "none"
        if camera is None and len(cameras) == 1:
            return cameras[0]
        if camera is None:
            raise DataError(f"{self.path}: choose a --camera of {known}")
        if camera not in cameras:
            raise DataError(f"{self.path} has no camera '{camera}', it has {known}")
        return camera

    def _read_tasks(self) -> dict[int, str]:
        meta = self.path / "meta"
        if not self._new:
            rows = _jsonl(meta / "tasks.jsonl")
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        table = _parquet(meta / "tasks.parquet")
        # pandas stores the words as the index, in a column such as __index_level_0__
        words = [c for c in table.column_names if c != "task_index"]
        if not words or "task_index" not in table.column_names:
            raise DataError(
                f"{meta / 'tasks.parquet'} has columns {table.column_names}"
            )
        index = table["task_index"].to_pylist()
        return dict(zip(index, map(str, table[words[0]].to_pylist())))

    def _read_episodes(self) -> dict[int, dict[str, Any]]:
        meta = self.path / "meta"
        if not self._new:
            rows = _jsonl(meta / "episodes.jsonl")
        else:
            files = sorted((meta / "episodes").glob("chunk-*/file-*.parquet"))
            if not files:
                raise DataError(f"{meta / 'episodes'} holds no chunk-*/file-*.parquet")
            rows: list[dict[str, Any]] = []
            for file in files:
                table = _parquet(file)
                keep = [c for c in table.column_names if not c.startswith("stats/")]
                rows += table.select(keep).to_pylist()
        episodes = {int(row["episode_index"]): row for row in rows}
        if len(episodes) != int(self._info["total_episodes"]):
            raise DataError(
                f"{meta} lists {len(episodes)} episodes, info.json says "
                f"{self._info['total_episodes']}"
            )
        return episodes

    def _read_splits(self, splits: Mapping[str, str] | None) -> dict[str, list[int]]:
        """ "0:50" means episodes 0 to 49."""
        numbers = sorted(self._episodes)
        result = {}
        for name, span in (splits or {}).items():
            try:
                first, last = (int(x) for x in str(span).split(":"))
            except ValueError as error:
                raise DataError(
                    f"split '{name}' of {self.path} is '{span}', expected FIRST:LAST"
                ) from error
            result[name] = [n for n in numbers if first <= n < last]
        return result or {"train": numbers}

    def _rows(self, number: int, about: Mapping[str, Any]) -> Any:
        if not self._new:
            chunk = number // int(self._info.get("chunks_size", 1000))
            path = self._info["data_path"].format(
                episode_chunk=chunk, episode_index=number
            )
            return _parquet(self.path / path)
        path = self._info["data_path"].format(
            chunk_index=int(about["data/chunk_index"]),
            file_index=int(about["data/file_index"]),
        )
        table = self._file(self.path / path)
        mine = _pyarrow().compute.equal(table["episode_index"], number)
        return table.filter(mine)

    @functools.lru_cache(maxsize=2)  # noqa: B019  (neighbours share a file)
    def _file(self, path: Path) -> Any:
        return _parquet(path)

    def _check_times(self, rows: Any, name: str) -> None:
        if "timestamp" not in rows.column_names:
            return
        times = np.asarray(rows["timestamp"].to_pylist(), np.float64)
        steps = np.diff(times) * self.fps
        if len(steps) and np.abs(steps - 1).max() > _TIME_TOLERANCE:
            worst = steps[np.abs(steps - 1).argmax()] / self.fps
            raise DataError(
                f"{name}: two frames are {worst:.3f} s apart, expected "
                f"{1 / self.fps:.3f} s at {self.fps:g} frames per second"
            )

    def _numbers(self, rows: Any, key: str, name: str) -> np.ndarray:
        shape = self._features.get(key, {}).get("shape") or [1]
        width = int(np.prod(shape))
        try:
            values = np.array(rows[key].to_pylist(), np.float32)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{name}: {key} cannot be read ({error})") from error
        values = values.reshape(len(values), -1)
        if values.shape[1] != width:
            raise DataError(
                f"{name}: {key} has {values.shape[1]} numbers, info.json says {width}"
            )
        return values

    def _pictures(self, number, about, rows, name):
        if self._features[self.camera]["dtype"] == "image":
            files = rows[self.camera].to_pylist()
            return [_picture(self.path, file, name) for file in files]
        fields: dict[str, Any] = {"video_key": self.camera}
        start = 0.0
        if self._new:
            prefix = f"videos/{self.camera}/"
            fields["chunk_index"] = int(about[prefix + "chunk_index"])
            fields["file_index"] = int(about[prefix + "file_index"])
            start = float(about[prefix + "from_timestamp"])
        else:
            chunks = int(self._info.get("chunks_size", 1000))
            fields |= {"episode_chunk": number // chunks, "episode_index": number}
        path = self.path / self._info["video_path"].format(**fields)
        return read_video(path, rows.num_rows, self.fps, start)

    def _instruction(self, rows: Any, about: Mapping[str, Any]) -> str:
        if "task_index" in rows.column_names and self._tasks:
            return self._tasks.get(int(rows["task_index"][0].as_py()), "")
        return str((about.get("tasks") or [""])[0])


def _picture(root: Path, file: Any, name: str) -> bytes:
    """An `image` feature's cell: bytes, or the path of a file."""
    if isinstance(file, Mapping):
        if file.get("bytes"):
            return file["bytes"]
        path = root / str(file.get("path"))
        if path.is_file():
            return path.read_bytes()
        raise DataError(f"{name}: picture {path} is missing")
    return bytes(file)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error})") from error


def _jsonl(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error})") from error


def _parquet(path: Path) -> Any:
    pyarrow = _pyarrow()
    try:
        return pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is damaged ({first_line(error)})") from error


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "LeRobot data need pyarrow: pip install 'swm_jax[lerobot]'"
        ) from error
    return pyarrow


KIND = SourceKind(
    name="lerobot",
    title="LeRobot",
    layout="meta/info.json",
    matches=lambda path: (path / "meta" / "info.json").exists(),
    open=lambda path, camera, skipped, **options: LeRobot(path, camera, **options),
    cameras=True,
)
