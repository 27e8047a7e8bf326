"""What happened since the last look, summed on the device, so that no step waits.

The host looks every few steps only; which step had a loss or gradient that is no
number is remembered exactly all the same. The batch of such a step is written down in
`bad_batches/step_<n>.json`: what was in it, and how to build it again.
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

REMEMBERED = 8  # bad steps that are told one by one; further ones are counted
GIVE_UP = 20  # steps skipped one after the other: they will not get better


class Tally(struct.PyTreeNode):
    """Sums over the steps since the last look.

    Attributes:
      sums: the trainable's, of the good steps.
      bad: int32[], steps with a loss or gradient norm that is not finite.
      bad_steps: int32[REMEMBERED], the first of them.
      bad_values: float32[REMEMBERED, M], their scalars.
      in_a_row: int32[], bad steps since the last good one, however long ago.
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
        """Nothing yet, of steps with such metrics; looks at their shapes only."""
        return cls(
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), metrics.sums),
            np.zeros((), np.int32),
            np.zeros(REMEMBERED, np.int32),
            np.zeros((REMEMBERED, len(metrics.names)), np.float32),
            np.zeros((), np.int32),
            metrics.names,
        )


def make_counter(mesh: Mesh) -> Callable[[Tally, StepMetrics, int, bool], Tally]:
    """A jitted (tally, metrics, step, anew) -> tally; `anew` forgets what it holds."""

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def count(tally, metrics, step, anew):
        kept = jax.tree.map(lambda x: jnp.where(anew, 0, x), (tally.sums, tally.bad))
        before, bad = kept
        values = metrics.values()
        good = jnp.isfinite(values).all()
        sums = jax.tree.map(
            lambda old, new: old + jnp.where(good, new, 0), before, metrics.sums
        )
        place = jnp.where(good, REMEMBERED, bad)  # out of range: dropped
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
    """Step and scalars, as text, of the bad steps; waits for the device."""
    count = min(int(tally.bad), REMEMBERED)
    if not count:
        return []
    steps, values = np.asarray(tally.bad_steps), np.asarray(tally.bad_values)
    return [
        {"step": int(step), **dict(zip(tally.names, map(str, row)))}
        for step, row in zip(steps[:count], values[:count])
    ]


def what_is_bad(found: dict[str, Any]) -> str:
    """Such as "gradient_norm nan", for an entry of `bad_steps`."""
    wrong = {k: v for k, v in found.items() if not np.isfinite(float(v))}
    return ", ".join(f"{name} {value}" for name, value in wrong.items())


def write_bad_batch(
    workdir: epath.PathLike, found: dict[str, Any], examples: dict[str, Any]
) -> epath.Path:
    """Writes down a bad step's batch.

    Args:
      workdir: the run's folder.
      found: an entry of `bad_steps`.
      examples: what `Inputs.examples` says of that step.

    Returns:
      The file.
    """
    folder = epath.Path(workdir) / "bad_batches"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{found['step']}.json"
    path.write_text(json.dumps(found | examples, indent=2) + "\n")
    return path
