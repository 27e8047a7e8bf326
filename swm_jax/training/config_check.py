"""What is wrong with a config, told in one line before a machine has worked for it."""

import difflib

import ml_collections

from data_pipelines.batches.query_types import QUERY_TYPES

ON_NAN = ("stop", "skip")


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses at the start what training would stumble over only hours later.

    Raises:
      ValueError: a number, a name or a metric that cannot be.
    """
    every = ("log_every", "validate_every", "checkpoint_every")
    numbers = {name: config.get(name) for name in every}
    numbers |= {"accumulate": config.get("accumulate", 1)}
    for name, value in {**numbers, "data.images": config.data.get("images")}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"config.{name} is {value}, expected a whole number from 1 on"
            )
    on_nan = config.get("on_nan", "stop")
    if on_nan not in ON_NAN:
        raise ValueError(f"config.on_nan is '{on_nan}', expected {' or '.join(ON_NAN)}")
    known = ["validation/loss", "validation/accuracy"]
    known += [f"validation/accuracy/{name}" for name in QUERY_TYPES]
    metric = (config.get("keep_best") or {}).get("metric", known[0])
    if metric not in known:
        close = difflib.get_close_matches(metric, known, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"config.keep_best.metric is '{metric}'{hint}; known: {', '.join(known)}"
        )
