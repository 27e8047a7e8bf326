"""The semantic world model as a `Trainable`, with auxiliary heads and LoRA adapters.

Parameters of heads are under the key `dense`, adapters under `lora`, beside the model's
own keys, so that its tree stays big_vision's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float, PRNGKeyArray

from data_pipelines.batches.query_types import QUERY_TYPES
from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.checkpoints import check_tree, load_model
from swm_jax.models import SemanticWorldModel, TrainBatch
from swm_jax.models.objects import ObjectStates
from swm_jax.training.experiment import Experiment
from swm_jax.training.finetune import Finetune, model_params
from swm_jax.training.trainable import Measures
from swm_jax.training.world_model.heads import (
    HeadWeights,
    head_losses,
    head_totals,
    init_heads,
)
from swm_jax.training.world_model.losses import (
    Scores,
    answer_loss,
    answer_total,
)
from swm_jax.training.world_model.object_losses import object_loss, object_totals


@dataclasses.dataclass(frozen=True)
class TrainableWorldModel:
    """The semantic world model with auxiliary heads and adapters.

    Attributes:
      model: the network.
      finetune: rules of the adapters.
      dense_weight: weight of the sum of head losses; 0 creates no heads.
      weights: weight of each head's loss in that sum.
    """

    model: SemanticWorldModel
    finetune: Finetune = dataclasses.field(default_factory=Finetune)
    dense_weight: float = 0.0
    weights: HeadWeights = dataclasses.field(default_factory=HeadWeights)

    metrics = ("loss", "accuracy", *(f"accuracy/{n}" for n in QUERY_TYPES if n))
    shown = ("loss", "accuracy", "place_error_mm")

    @classmethod
    def of(cls, experiment: Experiment) -> "TrainableWorldModel":
        """The trainable of an experiment."""
        return cls(
            SemanticWorldModel(experiment.model.config()),
            experiment.finetune,
            experiment.dense_weight,
            experiment.head_weights,
        )

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Random model parameters, zero heads and initial adapters, if configured."""
        params = dict(self.model.init_params(key))
        if self.dense_weight:
            params["dense"] = init_heads(self.model.config)
        # A key of their own: parameters are the same with and without adapters.
        return self.finetune.with_adapters(prng.fold_in(key, 2), params)

    def totals(self, batch: TrainBatch) -> dict[str, Any]:
        """Number of queries with an answer, and denominators of the heads."""
        found = {"queries": answer_total(batch), "heads": head_totals(batch)}
        if batch.objects is not None:
            found["objects"] = object_totals(batch.objects)
        return found

    def loss(
        self, params: Mapping[str, Any], batch: TrainBatch, totals: Any = None
    ) -> tuple[Float[Array, ""], Measures]:
        """Cross-entropy of the answers plus the weighted head losses."""
        totals = self.totals(batch) if totals is None else totals
        outputs = self.model.apply(self.finetune.variables(params), batch)
        answers, scores = answer_loss(
            outputs.logits, batch, len(QUERY_TYPES), totals["queries"]
        )
        beside, measured = head_losses(
            params.get("dense"), outputs, batch, totals["heads"], self.weights
        )
        scalars = {"loss": answers, **measured}
        if self.model.config.objects:
            seen, errors = objects_of(outputs.objects, batch, totals)
            beside, scalars = beside + self.weights.objects * seen, scalars | errors
        return answers + self.dense_weight * beside, Measures(scalars, scores)

    def report(self, sums: Scores) -> dict[str, float]:
        """Mean loss and accuracy over all queries, and accuracy by present type."""
        correct, count = np.asarray(sums.correct), np.asarray(sums.count)
        rates = {
            f"accuracy/{name}": correct[i] / count[i]
            for i, name in enumerate(QUERY_TYPES)
            if count[i]
        }
        total = max(count.sum(), 1.0)
        return {
            "loss": float(np.asarray(sums.loss).sum() / total),
            "accuracy": float(correct.sum() / total),
            **rates,
        }


def objects_of(
    states: ObjectStates | None, batch: TrainBatch, totals: Mapping[str, Any]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`object_loss` of a batch, and its measures; zeros without targets."""
    if states is None or batch.objects is None:
        none = jnp.zeros(())
        return none, {"object_error_mm": none, "object_far": none}
    return object_loss(states, batch.objects, totals["objects"])


def load_start(
    params: dict[str, Any], path: str, shardings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Replaces the model's parameters by those of a checkpoint; keeps heads, adapters.

    Object tokens that the checkpoint's model does not have stay as initialised.

    Args:
      params: initialised parameters.
      path: a run, exported model, Hugging Face folder or .npz.
      shardings: tree of shardings; None puts all on the first local device.

    Raises:
      CheckpointError: no checkpoint, or one of another model.
    """
    flat = flatten_dict(shardings, sep="/") if shardings else None
    place = flat and (lambda key, struct: flat[key])
    loaded = load_model(path, param_dtype="float32", sharding=place)
    own = model_params(params)
    if "objects" not in loaded.params:
        own = {name: part for name, part in own.items() if name != "objects"}
    check_tree(own, loaded.params, path)
    return {**params, **loaded.params}
