"""Generation of episodes in OGBench's env: `python -m data_pipelines.generate_ogbench`.

    MUJOCO_GL=egl python -m data_pipelines.generate_ogbench \\
        --config experiments/generate_ogbench.py --output data/ogbench

Resumes when it is run again. Needs `pip install 'swm_jax[ogbench]'`.
"""

import dataclasses

import ml_collections
from absl import flags, logging

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.convert import Converted, Settings, convert_source
from data_pipelines.sources.ogbench_play import OGBenchPlay, PlaySettings
from swm_jax.cli import (
    GOES_ON,
    define_config,
    define_path,
    error_line,
    no_arguments,
    run_command,
)
from swm_jax.records import Count, Share, parse


@dataclasses.dataclass(frozen=True)
class _Generation(PlaySettings):
    """`PlaySettings`, and how the episodes are stored."""

    name: str = ""
    val_share: Share = 0.1
    episodes_per_shard: Count = 10


def generate(config: ml_collections.ConfigDict, output: str) -> Converted:
    """Simulates and stores `config.episodes` episodes.

    Args:
      config: see `experiments/generate_ogbench.py`.
      output: the folder; new, or of an earlier run with the same config.

    Raises:
      DataError: a missing package, no OpenGL, an invalid config, or a full disk.
    """
    try:
        parsed = dataclasses.asdict(parse(_Generation, config))
    except ValueError as error:
        raise DataError(str(error)) from error
    parsed.pop("name")
    share, shard = parsed.pop("val_share"), parsed.pop("episodes_per_shard")
    settings = Settings(
        size=None, max_steps=0, val_share=share, episodes_per_shard=shard
    )
    settings.check()
    source = OGBenchPlay(PlaySettings(**parsed))
    return convert_source(source, output, settings, {"play": parsed})


def main(argv: list[str]) -> None:
    """Generates the episodes and prints their number."""
    no_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    with error_line(OSError, ValueError, where=_OUTPUT.value):
        made = generate(_CONFIG.value, _OUTPUT.value)
    print(f"{made.episodes} episodes are in {_OUTPUT.value}")


if __name__ == "__main__":  # flags of commands imported together would clash
    _CONFIG = define_config(None, "Data config file.")
    _OUTPUT = define_path("output", None, "Folder of the data set.", required=True)
    flags.mark_flag_as_required("config")
    run_command(main, stopped=GOES_ON)
