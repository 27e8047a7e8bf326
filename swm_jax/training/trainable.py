"""What the loop trains: anything that has parameters and a loss.

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

`fit` (`swm_jax.training.loop`) gives it checkpoints, resume, shardings, gradient
accumulation, held-out batches and logs.
"""

from typing import Any, Protocol, runtime_checkable

from flax import struct
from jaxtyping import Float, PRNGKeyArray

from swm_jax.arrays import Array


class Measures(struct.PyTreeNode):
    """What a loss has measured on the way.

    Attributes:
      scalars: name -> float32[], parts of the loss; they are logged, and a step in
        which one is not finite counts as bad. The loss itself is logged as "loss"
        unless the name is given here.
      sums: a tree of arrays that add up over parts of a batch, steps and batches.
    """

    scalars: dict[str, Float[Array, ""]]
    sums: Any


@runtime_checkable
class Trainable(Protocol):
    """A model with its loss; see the top of this file for one.

    Attributes:
      metrics: names that `report` may give.
      shown: names in the progress line, of these and of `Measures.scalars`.
    """

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def shown(self) -> tuple[str, ...]: ...

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Parameters to start from, a nested dict; runs under `jax.jit`."""
        ...

    def totals(self, batch: Any) -> Any:
        """What losses are divided by, counted over a whole batch.

        With `accumulate` a loss sees one part of a batch at a time. Divided by the
        totals of all of it, losses and gradients of the parts add up to the whole's.
        """
        ...

    def loss(
        self, params: dict[str, Any], batch: Any, totals: Any = None
    ) -> tuple[Float[Array, ""], Measures]:
        """The loss to descend, and what was measured.

        Args:
          params: as `init` gives them.
          batch: a pytree whose leaves have the examples as leading axis.
          totals: of the batch that this is a part of; None: this is all of it.
        """
        ...

    def report(self, sums: Any) -> dict[str, float]:
        """Metrics by name from sums (numpy arrays) over any number of batches."""
        ...
