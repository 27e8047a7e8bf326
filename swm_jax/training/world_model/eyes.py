"""The image tower and its read-outs of objects as a `Trainable`, without the decoder.

A step without the decoder costs an eighth of one with it, so that the tower learns
where objects are before names, actions and answers are learnt on top of it. The tree of
parameters is the whole model's; the decoder's stay as they were initialised.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, PRNGKeyArray

from swm_jax.arrays import Array
from swm_jax.models import SemanticWorldModel, TrainBatch
from swm_jax.training.experiment import Experiment
from swm_jax.training.trainable import Measures
from swm_jax.training.world_model.object_losses import object_loss, object_totals

# Regex of the parameters that the eyes stage trains, and rules for
# `finetune.schedules`: the tower without its projection to the decoder, and the
# read-outs of the objects.
EYES_ALONE = "img/(embedding|pos_embedding|Transformer).*|objects/(owner|state)/.*"
EYES = ((EYES_ALONE, {}), (".*", None))


@dataclasses.dataclass(frozen=True)
class TrainableEyes:
    """Tower and read-outs of objects of a model with object tokens.

    Attributes:
      model: the network.
    """

    model: SemanticWorldModel

    metrics = ("object_error_mm", "object_far")
    shown = ("object_error_mm", "object_far")

    @classmethod
    def of(cls, experiment: Experiment) -> "TrainableEyes":
        """The trainable of an experiment.

        Raises:
          ValueError: a model without object tokens.
        """
        config = experiment.model.config()
        if not config.objects:
            raise ValueError(
                "stage eyes trains the read-outs of objects, and the model has none; "
                "set model.overrides.objects"
            )
        return cls(SemanticWorldModel(config))

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Random parameters of the whole model."""
        return dict(self.model.init_params(key))

    def totals(self, batch: TrainBatch) -> Any:
        """Denominators of the loss."""
        assert batch.objects is not None  # rendered scenes have them
        return object_totals(batch.objects)

    def loss(
        self, params: Mapping[str, Any], batch: TrainBatch, totals: Any = None
    ) -> tuple[Float[Array, ""], Measures]:
        """`object_loss`; sums of errors for `report`."""
        totals = self.totals(batch) if totals is None else totals
        targets = batch.objects
        assert targets is not None  # as in `totals`
        states = self.model.apply(
            {"params": params}, batch.image, method=SemanticWorldModel.look
        )
        loss, measured = object_loss(states, targets, totals)
        count = object_totals(targets).objects
        sums = {name: x * totals.objects for name, x in measured.items()}
        return loss, Measures(measured, {**sums, "count": count})

    def report(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Mean error, and share of large errors."""
        count = max(float(sums["count"]), 1.0)
        return {name: float(sums[name]) / count for name in self.metrics}
