"""Construction of a run: optimizer, shapes and shardings, jitted steps, initial state.

Shared by the loop, the AOT tool and the benchmarks, so that all compile the same step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from swm_jax import prng
from swm_jax.cli import warn
from swm_jax.training.distributed import is_first
from swm_jax.training.experiment import Training
from swm_jax.training.optimizer import check_decay, make_optimizer
from swm_jax.training.sharding import state_shardings, unsplit, with_shardings
from swm_jax.training.step import (
    TrainState,
    make_eval_step,
    make_train_step,
)
from swm_jax.training.trainable import Trainable

Start = Callable[[dict[str, Any], Any], dict[str, Any]]
Schedule = Callable[[Any], Any]  # a step, or an array of steps -> a number for each


@dataclasses.dataclass(frozen=True)
class Built:
    """Optimizer, abstract state and jitted steps of a run on a mesh.

    Attributes:
      optimizer: of the trained parameters.
      schedule: learning rate by step.
      paces: learning-rate schedules of `finetune.schedules`, by pattern.
      state: abstract state: shapes, dtypes and shardings.
      step: jitted (state, batch) -> (state, metrics); the state's buffers are donated.
      evaluate: jitted (params, batch) -> sums.
    """

    optimizer: optax.GradientTransformation
    schedule: Schedule
    paces: dict[str, Schedule]
    state: TrainState
    step: jax.stages.Wrapped
    evaluate: jax.stages.Wrapped


def build(training: Training, trainable: Trainable, mesh: Mesh) -> Built:
    """Builds optimizer, abstract state and jitted steps; allocates no arrays.

    Args:
      training: optimizer, finetune, sharding, accumulation, on_nan.
      trainable: model and loss.
      mesh: of the run, or of a topology to compile for.

    Raises:
      ValueError: sharding or fine-tuning rules that do not fit the parameters.
    """
    finetune, steps, pace = training.finetune, training.steps, None
    if finetune.schedules:
        pace = finetune.scale_by_pace(training.optimizer, steps)
    optimizer, schedule = make_optimizer(training.optimizer, steps, pace)
    state = _abstract_state(training, trainable, optimizer, mesh)
    step = make_train_step(
        trainable,
        optimizer,
        finetune,
        shardings=_places(state),
        accumulate=training.accumulate,
        skip_bad=training.on_nan == "skip",
    )
    return Built(
        optimizer,
        schedule,
        finetune.pace(training.optimizer, steps),
        state,
        step,
        make_eval_step(trainable, mesh),
    )


def initial_state(
    training: Training, trainable: Trainable, built: Built, start: Start | None = None
) -> TrainState:
    """The state of step 0, created with its shardings.

    Args:
      training: its seed initialises the parameters.
      trainable: model and loss.
      built: from `build`.
      start: (initialised parameters, shardings) -> parameters to start from, such as
        those of a checkpoint.

    Raises:
      CheckpointError: raised by `start`.
    """
    place, key = _places(built.state), prng.key(training.seed)
    with prng.fixed():
        params = jax.jit(lambda: trainable.init(key), out_shardings=place.params)()
    if start is not None:
        params = start(params, place.params)
    moving = training.finetune.split(params)[0]
    opt_state = jax.jit(built.optimizer.init, out_shardings=place.opt_state)(moving)
    step = jax.device_put(jnp.zeros((), jnp.int32), place.step)
    return TrainState(step, params, opt_state)


def _abstract_state(training, trainable, optimizer, mesh) -> TrainState:
    def make():
        params = trainable.init(prng.key(training.seed))
        opt_state = optimizer.init(training.finetune.split(params)[0])
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state)

    shapes = jax.eval_shape(make)
    check_decay(training.optimizer, training.finetune.split(shapes.params)[0])
    places = state_shardings(shapes, training.sharding, mesh)
    if is_first():
        for line in unsplit(shapes.params, places.params, training.sharding, mesh):
            warn(line)
    return with_shardings(shapes, places)


def _places(shapes: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)
