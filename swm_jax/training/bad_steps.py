"""On-device sums of metrics between logs, and detection of non-finite steps.

The host fetches numbers every few steps only, so that no step waits. The device keeps
the exact step numbers with a non-finite loss or gradient, and their batches are
described in `bad_batches/step_<n>.json`, for inspection and reconstruction.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.training.sharding import replicated
from swm_jax.training.step import StepMetrics

REMEMBERED = 8  # bad steps stored per interval; further ones are only counted
GIVE_UP = 20  # consecutive skipped steps after which the run stops


class Tally(struct.PyTreeNode):
    """Sums over the steps since the last log.

    Attributes:
      sums: the trainable's (`Measures.sums`), over good steps.
      bad: int32[], number of steps with a scalar that is not finite.
      bad_steps: int32[REMEMBERED], the first of them.
      bad_values: float32[REMEMBERED, M], their M scalars.
      in_a_row: int32[], consecutive bad steps up to now; not reset by a log.
      names: of the scalars.
    """

    sums: Any
    bad: Int[Array, ""]
    bad_steps: Int[Array, " n"]
    bad_values: Float[Array, "n M"]
    in_a_row: Int[Array, ""]
    names: tuple[str, ...] = struct.field(pytree_node=False)

    @classmethod
    def empty(cls, metrics: StepMetrics) -> "Tally":
        """An empty tally with the shapes of `metrics`."""
        return cls(
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), metrics.sums),
            np.zeros((), np.int32),
            np.zeros(REMEMBERED, np.int32),
            np.zeros((REMEMBERED, len(metrics.names)), np.float32),
            np.zeros((), np.int32),
            metrics.names,
        )


def make_counter(mesh: Mesh) -> Callable[[Tally, StepMetrics, int, bool], Tally]:
    """Jitted (tally, metrics, step, anew) -> tally; with `anew` sums restart at 0."""

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def count(tally, metrics, step, anew):
        kept = jax.tree.map(lambda x: jnp.where(anew, 0, x), (tally.sums, tally.bad))
        before, bad = kept
        values = metrics.values()
        good = jnp.isfinite(values).all()
        sums = jax.tree.map(
            lambda old, new: old + jnp.where(good, new, 0), before, metrics.sums
        )
        # Out-of-range indices are dropped: good steps, and bad ones beyond REMEMBERED.
        place = jnp.where(good, REMEMBERED, bad)
        return Tally(
            sums=sums,
            bad=bad + jnp.where(good, 0, 1),
            bad_steps=tally.bad_steps.at[place].set(step, mode="drop"),
            bad_values=tally.bad_values.at[place].set(values, mode="drop"),
            in_a_row=jnp.where(good, 0, tally.in_a_row + 1),
            names=tally.names,
        )

    return lambda tally, metrics, step, anew: count(
        tally, metrics, np.int32(step), np.bool_(anew)
    )


def bad_steps(tally: Tally) -> list[dict[str, Any]]:
    """Step and scalars (as text: JSON has no NaN) of the bad steps; blocks."""
    count = min(int(tally.bad), REMEMBERED)
    if not count:
        return []
    steps, values = np.asarray(tally.bad_steps), np.asarray(tally.bad_values)
    return [
        {"step": int(step), **dict(zip(tally.names, map(str, row)))}
        for step, row in zip(steps[:count], values[:count])
    ]


def what_is_bad(found: dict[str, Any]) -> str:
    """The non-finite scalars of an entry of `bad_steps`: "gradient_norm nan"."""
    wrong = {k: v for k, v in found.items() if not np.isfinite(float(v))}
    return ", ".join(f"{name} {value}" for name, value in wrong.items())


def write_bad_batch(
    workdir: epath.PathLike, found: dict[str, Any], examples: dict[str, Any]
) -> epath.Path:
    """Writes the description of a bad step's batch.

    Args:
      workdir: the run's folder.
      found: an entry of `bad_steps`.
      examples: result of `Inputs.examples` for that step.

    Returns:
      The file.
    """
    folder = epath.Path(workdir) / "bad_batches"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{found['step']}.json"
    path.write_text(json.dumps(found | examples, indent=2) + "\n")
    return path
