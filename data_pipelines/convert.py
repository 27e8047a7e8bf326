"""Conversion of public data sets to our schema: `python -m data_pipelines.convert`.

    python -m data_pipelines.convert downloads/language_table_sim/0.0.1 data/table
    python -m data_pipelines.convert downloads/so100_pick data/pick \\
        --camera observation.images.top --size 224x224
    python -m data_pipelines.convert downloads/visual-cube-double-play-v0.npz data/og

The format of SRC is detected (`sources`). Episodes are written shard by shard, and a
shard is a function of SRC and the settings, so that an interrupted conversion resumes
when it is run again. With `--on_damage=skip` damaged episodes are left out, counted
and listed in `progress.json`; by default the first one ends the conversion with a line
that names it. Where SRC has no splits, every `1 / val_share`-th episode goes to val;
episodes that its splits do not cover are listed. Features of LeRobot data sets with
names of their own are chosen with `--camera`, `--action` and `--state`.
"""

from typing import Any

from absl import app, flags, logging

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.convert import Settings, convert
from data_pipelines.sources.splits import listed
from swm_jax.cli import GOES_ON, error_line, run_command


def _parse_size(text: str) -> tuple[int, int] | None:
    if text == "keep":
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise DataError(f"--size is '{text}', expected HEIGHTxWIDTH such as 224x224")
    return int(parts[0]), int(parts[1])


def main(argv: list[Any]) -> None:
    """Converts SRC to DST and prints the numbers of episodes stored and skipped."""
    if len(argv) != 3:
        raise app.UsageError("usage: python -m data_pipelines.convert SRC DST")
    logging.set_verbosity(logging.WARNING)
    with error_line(OSError, ValueError, where=argv[2]):
        settings = Settings(
            size=_parse_size(_SIZE.value),
            encoding=_ENCODING.value,
            camera=_CAMERA.value,
            action=_ACTION.value,
            state=_STATE.value,
            val_share=_VAL_SHARE.value,
            max_episodes=_MAX_EPISODES.value,
            max_steps=_MAX_STEPS.value,
            on_damage=_ON_DAMAGE.value,
            take_uncovered=_TAKE_UNCOVERED.value,
        )
        made = convert(argv[1], argv[2], settings)
    for line in made.skipped:
        print(f"skipped {line}")
    if made.uncovered:
        print(f"left out, in no split of {argv[1]}: {listed(made.uncovered)}")
    print(
        f"{made.episodes} episodes are in {argv[2]}, {len(made.skipped)} were skipped; "
        f"look at them: python -m data_pipelines.describe {argv[2]}"
    )


if __name__ == "__main__":  # flags of commands imported together would clash
    _SIZE = flags.DEFINE_string("size", "224x224", "HEIGHTxWIDTH of frames, or 'keep'.")
    _ENCODING = flags.DEFINE_string("encoding", "", "png or jpeg.")
    _CAMERA = flags.DEFINE_string("camera", None, "Feature with the pictures.")
    _ACTION = flags.DEFINE_string("action", None, "Feature with the actions.")
    _STATE = flags.DEFINE_string("state", None, "Feature with the states.")
    _VAL_SHARE = flags.DEFINE_float("val_share", 0.1, "Share of the episodes.")
    _MAX_EPISODES = flags.DEFINE_integer("max_episodes", 0, "Only the first; 0: all.")
    _MAX_STEPS = flags.DEFINE_integer(
        "max_steps", 256, "Longer ones are cut; 0: never."
    )
    _ON_DAMAGE = flags.DEFINE_string("on_damage", "raise", "raise or skip.")
    _TAKE_UNCOVERED = flags.DEFINE_boolean(
        "take_uncovered", False, "Episodes that no split of SRC covers go to train."
    )
    run_command(main, stopped=GOES_ON)
