"""The state a run begins with, each part made or read where it is to lie."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from swm_jax.checkpoints import check_tree, load_model
from swm_jax.models import ModelConfig, SemanticWorldModel
from swm_jax.training.finetune import Finetune, model_params
from swm_jax.training.sharding import state_shardings, with_shardings
from swm_jax.training.step import TrainState, init_dense_heads


def abstract_state(
    config: ml_collections.ConfigDict,
    model_config: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> TrainState:
    """Shapes, dtypes and shardings of a run's state; nothing is computed.

    Args:
      config: an experiment config; `config.sharding` may be missing.
      model_config: the model's.
      optimizer: whose state it holds.
      mesh: of the run, or of a topology to compile for.

    Raises:
      ValueError: sharding rules that do not fit the parameters or the mesh.
    """
    finetune = Finetune.from_config(config)

    def make():
        params = fresh_params(config, model_config)
        opt_state = optimizer.init(finetune.split(params)[0])
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state)

    shapes = jax.eval_shape(make)
    rules = config.get("sharding", ())
    return with_shardings(shapes, state_shardings(shapes, rules, mesh))


def initial_state(
    config: ml_collections.ConfigDict,
    model_config: ModelConfig,
    optimizer: optax.GradientTransformation,
    target: TrainState,
) -> TrainState:
    """The state of step 0, laid out as `target` (from `abstract_state`).

    Raises:
      CheckpointError: `init_from` is no checkpoint, or of another model.
    """
    place = jax.tree.map(lambda leaf: leaf.sharding, target)
    params = init_params(config, model_config, place.params)
    moving = Finetune.from_config(config).split(params)[0]
    opt_state = jax.jit(optimizer.init, out_shardings=place.opt_state)(moving)
    step = jax.device_put(jnp.zeros((), jnp.int32), place.step)
    return TrainState(step, params, opt_state)


def fresh_params(
    config: ml_collections.ConfigDict, model_config: ModelConfig
) -> dict[str, Any]:
    """Random parameters; dense heads and adapters beside the model's, if trained."""
    key = jax.random.key(config.seed)
    params = dict(SemanticWorldModel(model_config).init_params(key))
    if config.dense_weight:
        params["dense"] = init_dense_heads(model_config)
    lora_key = jax.random.fold_in(key, 2)
    return Finetune.from_config(config).with_adapters(lora_key, params)


def init_params(
    config: ml_collections.ConfigDict,
    model_config: ModelConfig,
    shardings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fresh parameters, the model's own replaced by those of `init_from`.

    Args:
      shardings: a tree of where each parameter is to lie; None puts all on the first
        local device.

    Raises:
      CheckpointError: `init_from` is no checkpoint, or of another model.
    """
    make = lambda: fresh_params(config, model_config)
    params = jax.jit(make, out_shardings=shardings)()
    if config.init_from:
        flat = flatten_dict(shardings, sep="/") if shardings else None
        loaded = load_model(
            config.init_from,
            param_dtype="float32",
            sharding=flat and (lambda key, struct: flat[key]),
        )
        check_tree(model_params(params), loaded.params, config.init_from)
        params.update(loaded.params)
    return params
