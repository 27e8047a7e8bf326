"""Reader of OGBench's published data files, `visual-cube-*.npz`, by trajectory.

    observations  uint8[n, h, w, 3], pictures of all trajectories one after the other
    actions       float32[n, 5], in -1..1
    terminals     1 at the last step of each trajectory
    qpos          float[n, nq], joint positions (arm, gripper, cubes); in some files

With `qpos` and the package `ogbench` installed, poses are computed by forward
kinematics in OGBench's model and the episodes are of domain `cube`; otherwise they are
of domain `other`, which needs a labeller.

Axis: n steps of the file.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.npz_rows import NpzRows, RowReader
from data_pipelines.sources.raw import RawEpisode, SourceKind

_NAME = re.compile(r"(visual-)?cube-(single|double|triple|quadruple)-(play|noisy)")
_NEEDED = ("observations", "actions", "terminals")
_EXPECTED = {  # kinds of dtype, number of axes, the same in words
    "observations": (
        "u",
        4,
        "pictures uint8[n, h, w, 3]: take a visual-* data set",
    ),
    "actions": ("f", 2, "float32[n, width]"),
    "terminals": ("biuf", 1, "number[n]"),
    "qpos": ("f", 2, "float[n, joints]"),
}


class OGBenchFile:
    """One npz file, or a `NAME.npz` and its `NAME-val.npz`.

    Attributes:
      name, domain, fps, splits: see `raw.Source`.
    """

    fps = 20.0  # control steps per second of OGBench's env

    def __init__(self, path: Path, use_qpos: bool | None = None):
        """Opens a file and, if there is one in the folder, its validation file.

        Args:
          path: of the training file.
          use_qpos: whether to compute poses; None where file and package allow it.

        Raises:
          DataError: a missing or damaged file, or observations that are not images.
        """
        self.name = f"OGBench {path.stem}"
        found = _NAME.search(path.stem)
        self._policy = found[3] if found else "play"
        self._cubes = found[2] if found else ""
        self._files, self.splits, first = {}, {}, 0
        beside = path.with_name(f"{path.stem}-val.npz")
        for split, file in (("train", path), ("val", beside)):
            if split == "val" and not file.exists():
                continue
            content = _open(file)
            steps = len(content["terminals"])
            terminals = content["terminals"].rows(0, steps)
            if not np.isfinite(terminals).all():
                raise DataError(f"{file}: terminals is not finite, expected 0 or 1")
            ends = np.flatnonzero(terminals) + 1
            if not len(ends) or ends[-1] != steps:
                raise DataError(
                    f"{file} does not end with a terminal step: it is cut off"
                )
            starts = [0, *ends[:-1]]
            for i, span in enumerate(zip(starts, ends)):
                self._files[first + i] = (file, content, span)
            self.splits[split] = range(first, first + len(ends))
            first += len(ends)
        has_qpos = all("qpos" in content for _, content, _ in self._files.values())
        if use_qpos is None:
            use_qpos = bool(has_qpos and self._cubes and _installed())
        if use_qpos and not has_qpos:
            raise DataError(f"{path} has no qpos: poses cannot be found")
        self.domain = "cube" if use_qpos else "other"
        self._scenes = None

    def read(self, number: int) -> RawEpisode:
        """One trajectory; raises a DataError if it has fewer than two steps."""
        file, content, (start, end) = self._files[number]
        if end - start < 2:
            raise DataError(f"{file} trajectory {number} has {end - start} steps")
        state: Mapping[str, np.ndarray] = {}
        if self.domain == "cube":
            state = self._poses(content["qpos"].rows(start, end))
        actions = content["actions"].rows(start, end)
        return RawEpisode(
            frames=content["observations"].rows(start, end),
            action=np.clip(actions, -1, 1).astype(np.float32),
            state=state,
            instruction="",
            policy=self._policy,
        )

    def _poses(self, qpos: np.ndarray) -> Mapping[str, np.ndarray]:
        from swm_jax.worlds.ogbench.env import VARIANTS, SceneReader

        if self._scenes is None:
            self._scenes = SceneReader(VARIANTS.index(self._cubes) + 1)
        scene = self._scenes(qpos)
        return {
            "block_pose": np.asarray(scene.block_pose),
            "gripper": np.asarray(scene.gripper),
            "block_id": np.asarray(scene.block_id[0]),
        }


def _installed() -> bool:
    from swm_jax.worlds.ogbench.env import available

    return available()


def _open(file: Path) -> dict[str, RowReader]:
    """The arrays of a file, with their headers checked."""
    archive = NpzRows(file)
    missing = [key for key in _NEEDED if key not in archive.names]
    if missing:
        raise DataError(
            f"{file} has no '{missing[0]}', it has {', '.join(archive.names) or 'none'}"
        )
    names = [key for key in (*_NEEDED, "qpos") if key in archive.names]
    content = {key: archive[key] for key in names}
    steps = len(content["terminals"])
    for key, value in content.items():
        if len(value) != steps:
            raise DataError(f"{file}: {key} has {len(value)} steps, terminals {steps}")
    for key, value in content.items():
        kinds, axes, words = _EXPECTED[key]
        fits = value.dtype.kind in kinds and len(value.shape) == axes
        if key == "observations":
            fits = fits and value.dtype == np.uint8 and value.shape[-1] == 3
        if not fits or 0 in value.shape:
            raise DataError(
                f"{file} has {key} {value.dtype}{list(value.shape)}, expected {words}"
            )
    return content


KIND = SourceKind(
    name="ogbench",
    title="OGBench",
    layout="an .npz file",
    matches=lambda path: path.is_file() and path.suffix == ".npz",
    open=lambda path, camera, skipped, **options: OGBenchFile(path, **options),
)
