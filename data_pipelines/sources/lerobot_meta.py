"""Metadata of a LeRobot data set, versions 2.0, 2.1 and 3.0.

    2.x  meta/info.json, episodes.jsonl, tasks.jsonl
    3.0  meta/info.json, tasks.parquet, episodes/chunk-000/file-000.parquet

`info.json` has the path templates, the frame rate, the splits and the features. In 3.0
a row of the table of episodes says in which files the episode lies, and its start time
in each video. What is wrong with one episode alone is found when it is read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.raw import UNCOVERED
from data_pipelines.sources.tables import (
    Fields,
    cells,
    json_fields,
    json_lines,
    parquet,
    shown,
)

VERSIONS = ("v2.0", "v2.1", "v3.0")
_NEW = "v3.0"
# Two episodes share a frame of a video if they overlap by more than this, in frames.
_OVERLAP = 0.9


class VideoPart(NamedTuple):
    """A video file and the time in it at which an episode starts, seconds."""

    path: Path
    start: float


class Metadata:
    """What `meta/` says.

    Attributes:
      path: the folder.
      version, fps: of the data set.
      features: name -> dtype, shape and the like, as stored.
      episodes: number -> its fields.
      splits: name -> numbers, see `raw.Source`.

    Raises:
      DataError: metadata that are missing, damaged or of another version.
    """

    def __init__(self, path: Path, skipped: list[str] | None):
        self.path, self._skipped = path, skipped
        self._info = info = json_fields(path / "meta" / "info.json")
        self.version = info.text("codebase_version")
        if self.version not in VERSIONS:
            raise DataError(
                f"{path} is LeRobot version {self.version}, this code reads "
                f"{', '.join(VERSIONS)}"
            )
        self._new = self.version == _NEW
        self.fps = info.number("fps")
        if self.fps <= 0:
            raise DataError(f"{info.where}: fps is {self.fps:g}, expected above 0")
        info.text("data_path")
        self.features = info.mapping("features")
        name = "tasks.parquet" if self._new else "tasks.jsonl"
        self._tasks_file = path / "meta" / name
        rows = (_task_rows if self._new else json_lines)(self._tasks_file)
        self._tasks, self._has_tasks = self._read_tasks(rows), bool(rows)
        self.episodes = self._read_episodes(info.whole("total_episodes"))
        self.splits = self._read_splits()
        self._parts: dict[str, dict[Path, list[tuple[float, int]]]] = {}

    def data_file(self, number: int) -> Path:
        """The parquet file with an episode's rows; raises a DataError."""
        if self._new:
            return self._filled("data_path", **self._indices(number, "data"))
        return self._filled("data_path", **self._chunk(number))

    def video(self, number: int, camera: str) -> VideoPart:
        """Where an episode's frames are; raises a DataError."""
        if not self._new:
            fields = self._chunk(number)
            return VideoPart(
                self._filled("video_path", video_key=camera, **fields), 0.0
            )
        part = self._video_part(number, camera)
        self._check_overlap(number, camera, part)
        return part

    def length(self, number: int) -> int:
        """Number of an episode's rows; raises a DataError."""
        return self.episodes[number].whole("length")

    def instruction(self, number: int, column: Sequence[Any] | None) -> str:
        """Words of an episode's task; "" where the data set has no tasks.

        Args:
          number: of the episode.
          column: task_index of its rows; None if they have none.

        Raises:
          DataError: neither the table of tasks nor the episode has the words.
        """
        index = column[0] if column else None
        if isinstance(index, (int, float)) and index in self._tasks:
            return self._tasks[int(index)]
        told = self.episodes[number].values.get("tasks")
        words = [told] if isinstance(told, str) else told
        if isinstance(words, Sequence) and words and isinstance(words[0], str):
            return words[0]
        if not self._has_tasks:
            return ""
        if column is None and len(self._tasks) == 1:
            return next(iter(self._tasks.values()))
        which = (
            "its rows have no task_index"
            if column is None
            else (
                f"task_index {shown(index)} of its rows has no words in "
                f"{self._tasks_file}"
            )
        )
        raise DataError(
            f"{self.episodes[number].where} lacks 'tasks', and {which}: its "
            "instruction is unknown"
        )

    def _chunk(self, number: int) -> dict[str, int]:
        size = 1000
        if self._info.values.get("chunks_size") is not None:
            size = self._info.whole("chunks_size", least=1)
        return {"episode_chunk": number // size, "episode_index": number}

    def _indices(self, number: int, part: str) -> dict[str, int]:
        names = ("chunk_index", "file_index")
        about = self.episodes[number]
        return {name: about.whole(f"{part}/{name}") for name in names}

    def _video_part(self, number: int, camera: str) -> VideoPart:
        part = f"videos/{camera}"
        fields = self._indices(number, part)
        path = self._filled("video_path", video_key=camera, **fields)
        start = self.episodes[number].number(f"{part}/from_timestamp")
        if start < 0:
            raise DataError(
                f"{self.episodes[number].where}: {part}/from_timestamp is {start:g}, "
                "expected at least 0"
            )
        return VideoPart(path, start)

    def _check_overlap(self, number: int, camera: str, part: VideoPart) -> None:
        """Raises a DataError if another episode has frames of this one's part.

        A start that is off by a whole frame fits the times of the frames, but not the
        episodes beside it.
        """
        if camera not in self._parts:
            self._parts[camera] = self._all_parts(camera)
        end = part.start + self.length(number) / self.fps
        for start, other in self._parts[camera].get(part.path, []):
            stop = start + self.length(other) / self.fps
            shared = (min(end, stop) - max(part.start, start)) * self.fps
            if other == number or shared <= _OVERLAP:
                continue
            if self._agrees(number, camera) and not self._agrees(other, camera):
                continue  # the other one's times contradict themselves
            raise DataError(
                f"{self.episodes[number].where}: its frames of {camera} lie at "
                f"{part.start:g} to {end:g} s of {part.path}, where episode {other} "
                f"has its own ({start:g} to {stop:g} s): a from_timestamp is wrong"
            )

    def _all_parts(self, camera: str) -> dict[Path, list[tuple[float, int]]]:
        """Starts of all episodes by video file; damaged ones are left out."""
        found: dict[Path, list[tuple[float, int]]] = {}
        for number in self.episodes:
            try:
                part = self._video_part(number, camera)
                self.length(number)
            except DataError:
                continue
            found.setdefault(part.path, []).append((part.start, number))
        return found

    def _agrees(self, number: int, camera: str) -> bool:
        about = self.episodes[number]
        try:
            start = about.number(f"videos/{camera}/from_timestamp")
            end = about.number(f"videos/{camera}/to_timestamp")
        except DataError:
            return True
        return abs((end - start) * self.fps - self.length(number)) <= _OVERLAP

    def _filled(self, template: str, **fields: Any) -> Path:
        """Path of a file from a template of info.json."""
        text = self._info.text(template)
        try:
            path = Path(text.format(**fields))
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise DataError(
                f"{self._info.where}: {template} is {shown(text)}, expected "
                f"placeholders of {', '.join(fields)}"
            ) from error
        if path.is_absolute() or ".." in path.parts:
            raise DataError(
                f"{self._info.where}: {template} leads to {path}, out of the folder"
            )
        return self.path / path

    def _read_tasks(self, rows: Sequence[Any]) -> dict[int, str]:
        """Words by index; a damaged row is told by the episode that needs it."""
        tasks: dict[int, str] = {}
        for i, row in enumerate(rows, 1):
            try:
                fields = Fields(row, f"{self._tasks_file} task {i}")
                index, words = fields.whole("task_index"), fields.text("task")
            except DataError:
                continue
            if tasks.setdefault(index, words) != words:
                raise DataError(
                    f"{self._tasks_file} has two tasks of index {index}: "
                    f"{shown(tasks[index])} and {shown(words)}"
                )
        return tasks

    def _read_episodes(self, total: int) -> dict[int, Fields]:
        meta = self.path / "meta"
        rows: list[tuple[str, Any]] = []
        if not self._new:
            path = meta / "episodes.jsonl"
            rows = [
                (f"{path} line {i}", row) for i, row in enumerate(json_lines(path), 1)
            ]
        else:
            files = sorted((meta / "episodes").glob("chunk-*/file-*.parquet"))
            if not files:
                raise DataError(f"{meta / 'episodes'} holds no chunk-*/file-*.parquet")
            for file in files:
                table = parquet(file, lambda name: not name.startswith("stats/"))
                columns = {n: cells(table, n, str(file)) for n in table.column_names}
                rows += [
                    (f"{file} row {i}", {n: column[i] for n, column in columns.items()})
                    for i in range(table.num_rows)
                ]
        episodes: dict[int, Fields] = {}
        twice = set()
        for where, row in rows:
            try:
                fields = Fields(row, where)
                number = fields.whole("episode_index")
                fields.where = f"{where.rsplit(' ', 2)[0]} episode {number}"
                if number in episodes:
                    twice.add(number)
                    raise DataError(f"{fields.where} is listed twice")
            except DataError as error:
                self._tell(error)
                continue
            episodes[number] = fields
        for number in twice:  # which of them is right, nobody knows
            del episodes[number]
        if len(rows) != total:
            self._tell(
                DataError(f"{meta} lists {len(rows)} episodes, info.json says {total}")
            )
        return episodes

    def _read_splits(self) -> dict[str, list[int]]:
        """ "0:50" means episodes 0 to 49."""
        numbers = sorted(self.episodes)
        if not self._info.values.get("splits"):
            return {"train": numbers}
        result: dict[str, list[int]] = {}
        home: dict[int, str] = {}
        for name, span in self._info.mapping("splits").items():
            try:
                first, last = (int(x) for x in str(span).split(":"))
            except ValueError as error:
                raise DataError(
                    f"split '{name}' of {self.path} is {shown(span)}, expected "
                    "FIRST:LAST"
                ) from error
            result[name] = [n for n in numbers if first <= n < last]
            for n in result[name]:
                if home.setdefault(n, name) != name:
                    raise DataError(
                        f"{self._info.where}: episode {n} is in the splits "
                        f"'{home[n]}' and '{name}'"
                    )
        left = [n for n in numbers if n not in home]
        return {**result, UNCOVERED: left} if left else result

    def _tell(self, error: DataError) -> None:
        if self._skipped is None:
            raise error
        self._skipped.append(str(error))


def _task_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of tasks.parquet, whose words pandas stores as a column of any name."""
    table = parquet(path)
    names = table.column_names
    words = [name for name in names if name != "task_index"]
    words.sort(key=lambda name: (name != "task", not name.startswith("__index")))
    if not words or "task_index" not in names:
        raise DataError(
            f"{path} has the columns {', '.join(names) or 'none'}, expected task_index "
            "and the words"
        )
    columns = (cells(table, name, str(path)) for name in ("task_index", words[0]))
    return [{"task_index": index, "task": text} for index, text in zip(*columns)]
