"""Generation of a data set: `python -m data_pipelines.generate`.

    python -m data_pipelines.generate --config experiments/generate_board.py \\
        --output data/board [--episodes N] [--seed S]

`config.world` names the world. A shard is a pure function of the config, so an
interrupted run resumes when it is started again, and ends with the same bytes as an
uninterrupted one; see `generate.shards`.
"""

import time
from pathlib import Path

from absl import flags

from data_pipelines.generate.shards import generate
from swm_jax.cli import (
    GOES_ON,
    define_config,
    define_path,
    error_line,
    no_arguments,
    run_command,
)


def main(argv: list[str]) -> None:
    """Generates the data set and prints counts, times and its folder."""
    no_arguments(argv)
    config = flags.FLAGS.config
    if flags.FLAGS.episodes is not None:
        config.episodes = flags.FLAGS.episodes
    if flags.FLAGS.seed is not None:
        config.seed = flags.FLAGS.seed
    start = time.perf_counter()
    with error_line(OSError, ValueError, where=flags.FLAGS.output):
        counts = generate(config, flags.FLAGS.output)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in Path(flags.FLAGS.output).iterdir())
    if counts.frames:
        print(
            f"made {counts.episodes} episodes, {counts.frames} frames in {seconds:.0f} "
            f"s; thread-seconds: physics {counts.physics:.1f}, rendering "
            f"{counts.rendering:.1f}, PNG {counts.png:.1f}, writing "
            f"{counts.writing:.1f}"
        )
    print(f"the data set is in {flags.FLAGS.output} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    define_config(None, "Data config file.")
    define_path("output", None, "Folder of the data set.")
    flags.DEFINE_integer("episodes", None, "Overrides config.episodes.")
    flags.DEFINE_integer("seed", None, "Overrides config.seed.")
    flags.mark_flags_as_required(["config", "output"])
    run_command(main, stopped=GOES_ON)
