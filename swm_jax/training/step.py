"""One training step as a pure function of (state, batch), whatever is trained.

Gradients and optimizer states exist for what moves only.
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
    """Everything a step changes.

    Attributes:
      step: int32[], steps done.
      params: a nested dict.
      opt_state: the optimizer's.
    """

    step: Int[jax.Array, ""]
    params: Any
    opt_state: Any


class StepMetrics(struct.PyTreeNode):
    """What a step measured.

    Attributes:
      scalars: name -> float32[]: "loss", "gradient_norm" before clipping, and what the
        trainable adds; one that is not finite spoils the step.
      sums: the trainable's, see `Measures`.
    """

    scalars: dict[str, Float[Array, ""]]
    sums: Any

    def values(self) -> Float[Array, " n"]:
        """The scalars in the order of `names`."""
        return jnp.stack([self.scalars[name] for name in self.names])

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scalars, sorted."""
        return tuple(sorted(self.scalars))


def make_train_step(
    trainable: Trainable,
    optimizer: optax.GradientTransformation,
    finetune: Finetune = FULL,
    shardings: Any = None,
    accumulate: int = 1,
    skip_bad: bool = False,
) -> jax.stages.Wrapped:
    """A jitted step (state, batch) -> (state, metrics); it donates the state's buffers.

    Args:
      trainable: model and loss.
      optimizer: an optax transformation.
      finetune: what moves; the optimizer's state is of `finetune.split(params)[0]`.
      shardings: where the state lies and stays (from `state_shardings`); None: on
        one device.
      accumulate: parts of a batch that run one after the other, so that activations
        of one part exist at a time; loss and gradient are the whole batch's.
      skip_bad: a step with a scalar that is not finite changes neither parameters nor
        optimizer.

    Raises (when called):
      ValueError: a batch that does not divide by the parts, or they by the mesh.
    """
    mesh = None if shardings is None else shardings.step.mesh

    def loss_fn(moving, frozen, batch, totals):
        loss, measures = trainable.loss(join(moving, frozen), batch, totals)
        scalars = {"loss": loss, **measures.scalars}
        return loss, StepMetrics(scalars, measures.sums)

    def keep(gradients):
        """Gradients, and their sums, lie where the parameters do."""
        if shardings is None:
            return gradients
        place = finetune.split(shardings.params)[0]
        return jax.lax.with_sharding_constraint(gradients, place)

    def gradients_of(moving, frozen, batch):
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
    """[B, ...] as [parts, B / parts, ...], every device keeping its own examples.

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
    # Neighbours lie on one device, so that each of them gives some to every part.
    split = lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)
    return jax.tree.map(lambda x: constrain(split(x), None, "batch"), batch)


def make_eval_step(
    trainable: Trainable, mesh: Mesh | None = None
) -> jax.stages.Wrapped:
    """A jitted function from (params, batch) to the trainable's sums."""

    def evaluate(params, batch):
        with _on(mesh):
            return trainable.loss(params, batch)[1].sums

    return jax.jit(evaluate)


def _on(mesh: Mesh | None):
    """The context in which `constrain` finds the mesh."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
