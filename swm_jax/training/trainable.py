"""The protocol of trainable models: parameters, loss, metrics. For example:

    @dataclasses.dataclass(frozen=True)
    class Regression:                       # batch: {"x": [B, 3], "y": [B]}
        metrics = shown = ("loss",)

        def init(self, key):
            return {"w": 0.1 * jax.random.normal(key, (3,))}

        def totals(self, batch):
            return len(batch["y"])

        def loss(self, params, batch, totals=None):
            errors = (batch["x"] @ params["w"] - batch["y"]) ** 2
            count = len(errors) if totals is None else totals
            sums = {"errors": errors.sum(), "count": jnp.float32(len(errors))}
            return errors.sum() / count, Measures({}, sums)

        def report(self, sums):
            return {"loss": sums["errors"] / sums["count"]}

`fit` (`swm_jax.training.loop`) trains it with checkpoints, resume, sharding, gradient
accumulation, validation and logs.
"""

from typing import Any, Protocol, runtime_checkable

from flax import struct
from jaxtyping import Float, PRNGKeyArray

from swm_jax.arrays import Array


class Measures(struct.PyTreeNode):
    """Auxiliary outputs of a loss.

    Attributes:
      scalars: name -> float32[], parts of the loss; they are logged, and a step with a
        non-finite one is bad. The loss itself is logged as "loss" unless this name is
        given here.
      sums: a tree of arrays that are summed over parts of a batch, steps and batches.
    """

    scalars: dict[str, Float[Array, ""]]
    sums: Any


@runtime_checkable
class Trainable(Protocol):
    """A model with its loss; example in the module docstring.

    Attributes:
      metrics: possible names in the result of `report`.
      shown: names in the progress line, from these or `Measures.scalars`.
    """

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def shown(self) -> tuple[str, ...]: ...

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Initial parameters, a nested dict; runs under `jax.jit`."""
        ...

    def totals(self, batch: Any) -> Any:
        """Denominators of the losses, counted over a whole batch.

        With `accumulate` a loss is computed per part of a batch. Divided by the totals
        of the whole, losses and gradients of the parts add up to those of the whole.
        """
        ...

    def loss(
        self, params: dict[str, Any], batch: Any, totals: Any = None
    ) -> tuple[Float[Array, ""], Measures]:
        """The loss, and auxiliary outputs.

        Args:
          params: with the structure of `init`.
          batch: a pytree whose leaves have the examples as leading axis.
          totals: of the whole batch, if `batch` is a part; None: `batch` is whole.
        """
        ...

    def report(self, sums: Any) -> dict[str, float]:
        """Metrics by name, from `Measures.sums` over any number of batches (numpy)."""
        ...
