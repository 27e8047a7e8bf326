"""Experiment config: one typed record of model, data, training and evaluation.

    config = Experiment(model=Model("small"), steps=40_000).to_config()
    config.data.images = 32                   # as `--config.data.images=32` does
    experiment = Experiment.parse(config)     # checked: types, ranges, names, choices

Records hold all defaults; a config lists the differences. Records are defined where
they are used (`Data` in `data_pipelines.batches.config`, `Optimizer` in
`swm_jax.training.optimizer`, `PlannerConfig` in `swm_jax.planning.config`) and
assembled here.
"""

import dataclasses
from typing import Any, Literal, Self

import ml_collections

from data_pipelines.batches.config import Data
from swm_jax import worlds
from swm_jax.checkpoints.run.retention import SAVE_TIMEOUT, KeepBest
from swm_jax.models import ModelConfig, get_config
from swm_jax.planning import Planner, PlannerConfig
from swm_jax.records import (
    Count,
    NonNegative,
    Seed,
    Size,
    given,
    optional,
    parse,
    to_config,
)
from swm_jax.training.finetune import Finetune
from swm_jax.training.optimizer import Optimizer
from swm_jax.training.world_model.heads import HeadWeights


class ModelOverrides(optional(ModelConfig, without=("variant", "layout", "tokenizer"))):
    """Overrides of `ModelConfig`; None keeps the variant's value."""


class PlannerChoice(optional(PlannerConfig, name=(str, "mppi"))):
    """Name of a planner, and overrides of its `PlannerConfig`."""


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Number of devices along each axis of the mesh, see `swm_jax.training.sharding`.

    Attributes:
      data: splits batches; -1 takes the remaining devices.
      fsdp: splits batches, parameters and optimizer states.
      tensor: splits vocabulary, heads and hidden width.
    """

    data: int | str = -1
    fsdp: int | str = 1
    tensor: int | str = 1


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of the training loop, independent of the model.

    Attributes:
      name: of the experiment.
      seed: of parameters and batches.
      steps: total number of steps.
      log_every, validate_every, checkpoint_every: intervals in steps.
      validation_batches: number of held-out batches per validation.
      keep_checkpoints: number of newest checkpoints to keep.
      keep_best: best checkpoints to keep too; None for none.
      save_timeout: seconds after which an incomplete save has failed.
      on_nan: at a step with a non-finite loss or gradient, "stop" the run or "skip" the
        update.
      accumulate: number of sequential parts of a batch (gradient accumulation).
      mesh: devices along its axes.
      sharding: (regex, rule) pairs with precedence over the default ones.
      optimizer: of the trained parameters.
      finetune: which parameters are trained: all, parts at their own rates, adapters.
    """

    name: str = "experiment"
    seed: Seed = 0
    steps: Count = 8000
    log_every: Count = 20
    validate_every: Count = 200
    validation_batches: Size = 8
    checkpoint_every: Count = 200
    keep_checkpoints: Count = 2
    keep_best: KeepBest | None = dataclasses.field(default_factory=KeepBest)
    save_timeout: Count = SAVE_TIMEOUT
    on_nan: Literal["stop", "skip"] = "stop"
    accumulate: Count = 1
    mesh: MeshShape = MeshShape()
    sharding: tuple[Any, ...] = ()
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    finetune: Finetune = dataclasses.field(default_factory=Finetune)

    @classmethod
    def parse(cls, config: Any) -> Self:
        """The record of a config.

        Raises:
          ValueError: an unknown field or an invalid value.
        """
        return parse(cls, config)

    def to_config(self) -> ml_collections.ConfigDict:
        """A ConfigDict with all fields, for changes before `parse`."""
        return to_config(self)


@dataclasses.dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
      variant: preset of its sizes, such as "tiny" or "paligemma_3b_224".
      layout: token layout: "branched", "block" or "full".
      tokenizer: name or folder.
      overrides: fields of `ModelConfig` that differ from the variant's.
    """

    variant: str = "tiny"
    layout: str = "branched"
    tokenizer: str = "tiny"
    overrides: ModelOverrides = dataclasses.field(default_factory=ModelOverrides)

    def __post_init__(self):
        self.config()

    @property
    def settings(self) -> dict[str, Any]:
        """Overrides of the variant, layout included."""
        return {"layout": self.layout, **given(self.overrides)}

    def config(self) -> ModelConfig:
        """The `ModelConfig`.

        Raises:
          ValueError: an unknown variant or layout, or inconsistent sizes.
        """
        return get_config(self.variant, **self.settings)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Overrides of `python -m swm_jax.eval --config FILE`.

    Attributes are documented in `swm_jax.eval.config.EvalConfig`; None keeps the
    preset's value.
    """

    tasks: tuple[str, ...] | None = None
    world_models: tuple[str, ...] | None = None
    seeds: tuple[Seed, ...] | None = None
    goal: str | None = None
    data_dir: str | None = None
    max_steps: Size | None = None
    episodes_parallel: Count | None = None
    on_device: bool | None = None
    qa_episodes: Count | None = None
    qa_queries: Count | None = None
    numbers: tuple[str, ...] | None = None
    sensitivity_scenes: Count | None = None
    sensitivity_candidates: Count | None = None
    video: bool | None = None


@dataclasses.dataclass(frozen=True)
class Experiment(Training):
    """Training and evaluation of a semantic world model.

    Attributes:
      stage: "eyes" for the image tower alone, on rendered scenes; "pretrain" for the
        backbone, on those too; "swm" for the world model.
      world: name of the world for planning.
      model: the network.
      init_from: checkpoint of the initial parameters; "" for random ones.
      dense_weight: weight of the sum of auxiliary head losses; 0 creates no heads.
      head_weights: weight of each head's loss in that sum.
      data: batches.
      planner: name and settings of the planner for evaluation.
      evaluation: overrides of the evaluation.
    """

    stage: Literal["swm", "pretrain", "eyes"] = "swm"
    world: str = worlds.DEFAULT
    model: Model = dataclasses.field(default_factory=Model)
    init_from: str = ""
    dense_weight: NonNegative = 1.0
    head_weights: HeadWeights = dataclasses.field(default_factory=HeadWeights)
    data: Data = dataclasses.field(default_factory=Data)
    planner: PlannerChoice = dataclasses.field(default_factory=PlannerChoice)
    evaluation: Evaluation = Evaluation()

    def __post_init__(self):
        self.make_planner()

    def make_planner(self) -> Planner:
        """The planner, with the world's settings overridden by the experiment's.

        Raises:
          ValueError: an unknown planner, or an invalid setting.
        """
        settings = given(self.planner)
        return worlds.load(self.world).make_planner(settings.pop("name"), **settings)
