"""Timing of several programs in alternation."""

import importlib.util
import os
import time

import jax


def machine() -> str:
    """Description of the machine in one line: device, cores, load, version."""
    return (
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, jax {jax.__version__}: on a busy machine only "
        "ratios of one run count"
    )


def side_by_side(*calls, turns: int = 7, seconds: float = 300.0) -> list[float]:
    """Shortest time of each call in seconds, which is least affected by other load.

    Calls alternate, so that all have the same load.

    Args:
      *calls: functions without arguments, whose results are waited for.
      turns: of every call, after a warm-up.
      seconds: time limit after which no further turn starts.
    """
    began, spent = time.perf_counter(), [[] for _ in calls]
    for call in calls:
        jax.block_until_ready(call())
    for turn in range(turns):
        if turn and time.perf_counter() - began > seconds:
            break
        for call, times in zip(calls, spent):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - start)
    return [min(times) for times in spent]


def installed(*packages: str) -> bool:
    """Whether all packages are installed; prints the missing ones."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    return not missing
