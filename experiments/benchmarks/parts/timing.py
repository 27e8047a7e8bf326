"""Times of several programs, taken side by side."""

import importlib.util
import os
import time

import jax


def machine() -> str:
    """What a measurement was taken on, in one line."""
    return (
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, jax {jax.__version__}: on a busy machine only "
        "ratios of one run count"
    )


def side_by_side(*calls, turns: int = 7, seconds: float = 300.0) -> list[float]:
    """Shortest seconds of each call, the one that other processes disturbed least.

    Turns are taken, so that all calls see the same load.

    Args:
      *calls: without arguments; what they return is waited for.
      turns: of every call, after one that is not counted.
      seconds: no turn begins after these, but for the first.
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
    """Whether all of some packages are there; says which are not."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    return not missing
