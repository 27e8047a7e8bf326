"""Proposals: action chunks of a base policy, as initial candidates of a planner.

Proposals are an array [S, M, H, A], or a callable (observation, keys [S]) -> array. A
callable that is a pytree (a `flax.struct.dataclass` with `__call__`, a
`jax.tree_util.Partial`) runs inside the replan's jit with its leaves as arguments, so
new parameters do not recompile. A plain function is called on the host before the jit.

Axes: S scenes, M proposals, N candidates, H actions of a chunk, A action width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Key

from swm_jax.arrays import Array
from swm_jax.models import Observation
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.noise import fold_in_each

# [S, M, H, A]; other shapes are refused by `call_inside`.
Proposals = Float[Array, "..."] | Callable[[Observation, Key[jax.Array, " S"]], Array]

_SEED = 0x9E37  # folded into the keys: the policy's draws differ from the planner's


def call_outside(
    proposals: Proposals | None, observation: Observation, keys: Key[jax.Array, " S"]
) -> Proposals | None:
    """Calls a plain function on the host; returns other proposals unchanged."""
    # A leaf of itself is no registered pytree, so it cannot be a jit argument.
    if callable(proposals) and jax.tree_util.all_leaves([proposals]):
        return proposals(observation, _own(keys))
    return proposals


def call_inside(
    proposals: Proposals | None,
    observation: Observation,
    keys: Key[jax.Array, " S"],
    scenes: int,
    config: PlannerConfig,
) -> tuple[Float[Array, "S M H A"] | None, Int[Array, " S"]]:
    """Proposals clamped to the action limits, and the number of clamped ones.

    Raises:
      ValueError: no proposals with `init="proposals"`, more than `config.candidates`,
        or another shape.
    """
    if proposals is None:
        if config.init == "proposals":
            raise ValueError(
                "a planner with init='proposals' needs proposals of a base policy"
            )
        return None, jnp.zeros(scenes, jnp.int32)
    if callable(proposals):
        proposals = proposals(observation, _own(keys))
    chunks = jnp.asarray(proposals, jnp.float32)
    want = (scenes, config.horizon, config.action_size)
    if chunks.ndim != 4 or (chunks.shape[0], *chunks.shape[2:]) != want:
        raise ValueError(
            f"proposals are {chunks.shape}, expected {want[0], 'M', *want[1:]} "
            "[S, M, H, A]"
        )
    if not 1 <= chunks.shape[1] <= config.candidates:
        raise ValueError(
            f"{chunks.shape[1]} proposals per scene, expected 1 to {config.candidates} "
            "(planner candidates)"
        )
    limit = config.action_limit
    finite = jnp.isfinite(chunks)
    # Rounding errors beyond the limit are clamped, but not counted.
    fine = finite & (jnp.abs(chunks) <= limit * (1 + 1e-5))
    clamped = (~fine.all((2, 3))).sum(1)
    # NaN becomes 0: even with weight 0 it would make a weighted mean NaN.
    return jnp.clip(jnp.where(finite, chunks, 0.0), -limit, limit), clamped


def _own(keys):
    return fold_in_each(keys, jnp.full(keys.shape, _SEED))
