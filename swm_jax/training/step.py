"""Training and evaluation steps: pure jitted functions of (state, batch).

Gradients and optimizer states exist for trained parameters only.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Float, Int

from swm_jax.arrays import Array
from swm_jax.models.backbones.logical_axes import constrain
from swm_jax.training.finetune import Finetune, join
from swm_jax.training.sharding import batch_shards, replicated
from swm_jax.training.trainable import Trainable

FULL = Finetune()


class TrainState(struct.PyTreeNode):
    """State of training.

    Attributes:
      step: int32[], number of completed steps.
      params: a nested dict, frozen parameters included.
      opt_state: optimizer state of the trained parameters.
    """

    step: Int[jax.Array, ""]
    params: Any
    opt_state: Any


class StepMetrics(struct.PyTreeNode):
    """Metrics of one step.

    Attributes:
      scalars: name -> float32[]: "loss", "gradient_norm" before clipping, and the
        trainable's; a step with a non-finite one is bad.
      sums: the trainable's, see `Measures`.
    """

    scalars: dict[str, Float[Array, ""]]
    sums: Any

    def values(self) -> Float[Array, " n"]:
        """The scalars in the order of `names`."""
        return jnp.stack([self.scalars[name] for name in self.names])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scalars, sorted."""
        return tuple(sorted(self.scalars))


def make_train_step(
    trainable: Trainable,
    optimizer: optax.GradientTransformation,
    finetune: Finetune = FULL,
    shardings: Any = None,
    accumulate: int = 1,
    skip_bad: bool = False,
) -> jax.stages.Wrapped:
    """Jitted train step (state, batch) -> (state, metrics); the state is donated.

    Args:
      trainable: model and loss.
      optimizer: an optax transformation.
      finetune: trained parameters; `opt_state` is of `finetune.split(params)[0]`.
      shardings: of the state, before and after (`state_shardings`); None: one device.
      accumulate: number of sequential parts of a batch, which divides the memory of
        activations; loss and gradient are those of the whole batch.
      skip_bad: a step with a non-finite scalar leaves parameters and optimizer state
        unchanged.

    Raises (when called):
      ValueError: a batch that does not divide by the parts, or they by the mesh.
    """
    mesh = None if shardings is None else shardings.step.mesh

    def loss_fn(moving, frozen, batch, totals):
        loss, measures = trainable.loss(join(moving, frozen), batch, totals)
        scalars = {"loss": loss, **measures.scalars}
        return loss, StepMetrics(scalars, measures.sums)

    def keep(gradients):
        """Constrains gradients and their sums to the parameters' shardings."""
        if shardings is None:
            return gradients
        place = finetune.split(shardings.params)[0]
        return jax.lax.with_sharding_constraint(gradients, place)

    def gradients_of(moving, frozen, batch):
        # Of the whole batch, so that losses of parts add up to its loss.
        totals = trainable.totals(batch)
        gradient = jax.grad(loss_fn, has_aux=True)
        if accumulate == 1:
            gradients, out = gradient(moving, frozen, batch, totals)
            return keep(gradients), out

        def add(sums, part):
            gradients, out = gradient(moving, frozen, part, totals)
            sums = jax.tree.map(jnp.add, sums, (keep(gradients), out))
            return sums, None

        parts = split_batch(batch, accumulate, mesh)
        shapes = jax.eval_shape(
            gradient, moving, frozen, jax.tree.map(lambda x: x[0], parts), totals
        )
        gradients, out = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(add, (keep(gradients), out), parts)[0]

    def train_step(state, batch):
        with _on(mesh):
            moving, frozen = finetune.split(state.params)
            gradients, out = gradients_of(moving, frozen, batch)
            updates, opt_state = optimizer.update(gradients, state.opt_state, moving)
            norm = optax.global_norm(gradients)
            metrics = out.replace(scalars={**out.scalars, "gradient_norm": norm})
            moved: Any = optax.apply_updates(moving, updates)
            params = join(moved, frozen)
            new = TrainState(state.step + 1, params, opt_state)
            return _unless_bad(metrics, new, state) if skip_bad else new, metrics

    if mesh is None:
        return jax.jit(train_step, donate_argnums=0)
    places = (shardings, replicated(mesh))
    return jax.jit(train_step, donate_argnums=0, out_shardings=places)


def _unless_bad(metrics: StepMetrics, new: TrainState, old: TrainState) -> TrainState:
    good = jnp.isfinite(metrics.values()).all()
    keep = lambda new, old: jnp.where(good, new, old)
    return jax.tree.map(keep, new, old).replace(step=new.step)


def split_batch(batch: Any, parts: int, mesh: Mesh | None = None) -> Any:
    """Reshapes [B, ...] to [parts, B / parts, ...] without moving examples.

    Raises:
      ValueError: examples that do not divide by the parts, or they by the mesh.
    """
    examples = len(jax.tree.leaves(batch)[0])
    shards = 1 if mesh is None else batch_shards(mesh)
    if parts < 1 or examples % (parts * shards):
        raise ValueError(
            f"a batch of {examples} examples does not divide into accumulate={parts} "
            f"parts on the mesh's data and fsdp axes of {shards} devices"
        )
    # Part i has examples i, i + parts, ..: a device holds consecutive examples, so each
    # device contributes to every part.
    split = lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)
    return jax.tree.map(lambda x: constrain(split(x), None, "batch"), batch)


def make_eval_step(
    trainable: Trainable, mesh: Mesh | None = None
) -> jax.stages.Wrapped:
    """Jitted evaluation step (params, batch) -> the trainable's sums."""

    def evaluate(params, batch):
        with _on(mesh):
            return trainable.loss(params, batch)[1].sums

    return jax.jit(evaluate)


def _on(mesh: Mesh | None):
    """Mesh context for `constrain`."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
