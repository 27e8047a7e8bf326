"""An experiment as one record: what is trained, on what, how, and how it is judged.

    config = Experiment(model=Model("small"), steps=40_000).to_config()
    config.data.images = 32                   # as `--config.data.images=32` does
    experiment = Experiment.parse(config)     # checked: types, ranges, names, choices

Every default of an experiment stands in a record; a config says what differs. Records
lie where they are used: `Data` in `data_pipelines.batches.config`, `Optimizer` beside
the optimizers, `PlannerConfig` in `swm_jax.planning.config`; here they are one tree.
"""

import dataclasses
from typing import Any, Literal, Self

import ml_collections

from data_pipelines.batches.config import Data
from swm_jax import worlds
from swm_jax.checkpoints.run.retention import SAVE_TIMEOUT, KeepBest
from swm_jax.models import ModelConfig, get_config
from swm_jax.planning import Planner, PlannerConfig
from swm_jax.records import Count, NonNegative, Size, given, optional, parse, to_config
from swm_jax.training.finetune import Finetune
from swm_jax.training.optimizer import Optimizer
from swm_jax.training.world_model.heads import HeadWeights


class ModelOverrides(optional(ModelConfig, without=("variant", "layout", "tokenizer"))):
    """Fields of `ModelConfig` that a config may set."""


class PlannerChoice(optional(PlannerConfig, name=(str, "mppi"))):
    """Name of a planner, and the fields of `PlannerConfig` that a config may set."""


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh, see `swm_jax.training.sharding`.

    Attributes:
      data: batches are split; -1 is what the others leave.
      fsdp: batches, parameters and optimizer states are split.
      tensor: vocabulary, heads and hidden width are split.
    """

    data: int | str = -1
    fsdp: int | str = 1
    tensor: int | str = 1


@dataclasses.dataclass(frozen=True)
class Training:
    """What the training loop needs to know, whatever it trains.

    Attributes:
      name: of the experiment.
      seed: of parameters and batches.
      steps: in all.
      log_every, validate_every, checkpoint_every: steps between them.
      validation_batches: held-out batches of a validation.
      keep_checkpoints: how many of the newest stay.
      keep_best: those that stay beside them; None for none.
      save_timeout: seconds until a save that is not complete has failed.
      on_nan: what a step without a finite loss does: "stop" the run, or be "skip"ped.
      accumulate: parts of a batch that run one after the other.
      mesh: devices along its axes.
      sharding: (regex, rule) pairs that stand before the default ones.
      optimizer: of what moves.
      finetune: what moves: all, parts at their own pace, adapters.
    """

    name: str = "experiment"
    seed: Size = 0
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
          ValueError: a field that is unknown or cannot have its value, in one line.
        """
        return parse(cls, config)

    def to_config(self) -> ml_collections.ConfigDict:
        """A config with every field, to be changed and parsed."""
        return to_config(self)


@dataclasses.dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
      variant: preset of its sizes, such as "tiny" or "paligemma_3b_224".
      layout: of a sequence's tokens: "branched", "block" or "full".
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
        """What differs from the variant, layout included."""
        return {"layout": self.layout, **given(self.overrides)}

    def config(self) -> ModelConfig:
        """All sizes and constants.

        Raises:
          ValueError: an unknown variant or layout, or sizes that do not fit.
        """
        return get_config(self.variant, **self.settings)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `python -m swm_jax.eval --config FILE` examines.

    Attributes are those of `swm_jax.eval.config.EvalConfig`, which has their meanings
    and defaults; None leaves them to its presets.
    """

    tasks: tuple[str, ...] | None = None
    world_models: tuple[str, ...] | None = None
    seeds: tuple[Size, ...] | None = None
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
    """The training of a semantic world model, and what it is for.

    Attributes:
      stage: "pretrain" the backbone on rendered scenes, or train the world model,
        "swm".
      world: where the model plans.
      model: the network.
      init_from: a checkpoint whose parameters are the start; "" for random ones.
      dense_weight: of the read-outs' losses beside the answers'; 0 trains none.
      head_weights: of each read-out's loss among them.
      data: batches.
      planner: name and settings of the planner that the model is made for.
      evaluation: what is examined.
    """

    stage: Literal["swm", "pretrain"] = "swm"
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
        """The planner, with the world's settings and then its own.

        Raises:
          ValueError: an unknown planner, or a setting that it cannot have.
        """
        settings = given(self.planner)
        return worlds.load(self.world).make_planner(settings.pop("name"), **settings)
