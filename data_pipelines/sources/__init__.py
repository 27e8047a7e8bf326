"""Readers of other people's data sets, and which of them fits a folder or file."""

from pathlib import Path
from typing import Any

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.raw import RawEpisode, Source

KINDS = ("lerobot", "language_table", "ogbench")

__all__ = ["KINDS", "RawEpisode", "Source", "open_source", "recognise"]


def recognise(path: Path) -> str:
    """One of `KINDS`.

    Raises:
      DataError: nothing there, or nothing known; says what would be.
    """
    if not path.exists():
        raise DataError(f"no data at {path}")
    if path.is_file() and path.suffix == ".npz":
        return "ogbench"
    if (path / "meta" / "info.json").exists():
        return "lerobot"
    if path.is_dir() and any(path.glob("*.tfrecord-*-of-*")):
        return "language_table"
    features = path / "features.json"
    if features.exists() and '"steps"' in features.read_text():
        return "language_table"
    raise DataError(
        f"{path} is no data set that can be converted: expected meta/info.json "
        "(LeRobot), NAME-SPLIT.tfrecord-* or RLDS array_record files "
        "(Language-Table), or an .npz file (OGBench)"
    )


def open_source(
    path: Path,
    *,
    camera: str | None = None,
    skipped: list[str] | None = None,
    **options: Any,
) -> Source:
    """Opens a data set of any known kind.

    Args:
      path: its folder or file.
      camera: for kinds with several.
      skipped: damaged parts are told here; None raises.
      **options: of the kind alone.

    Raises:
      DataError: unknown, damaged or incomplete data, or an option that does not fit.
    """
    kind = recognise(path)
    if camera is not None and kind != "lerobot":
        raise DataError(f"{path} ({kind}) has one camera only, got '{camera}'")
    if kind == "lerobot":
        try:
            from data_pipelines.sources.lerobot import LeRobot
        except ImportError as error:
            raise DataError(
                "LeRobot data need pyarrow: pip install 'swm_jax[lerobot]'"
            ) from error
        return LeRobot(path, camera, **options)
    if kind == "language_table":
        from data_pipelines.sources.rlds import LanguageTable

        return LanguageTable(path, skipped, **options)
    from data_pipelines.sources.ogbench_npz import OGBenchFile

    return OGBenchFile(path, **options)
