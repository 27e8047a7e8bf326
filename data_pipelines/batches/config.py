"""Settings of a run's batches: where they come from, how large they are, what is asked.

`config.data` of an experiment is a `Data`; `swm_jax.training.experiment` has the rest.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from data_pipelines.batches.mixture import parse_sources
from data_pipelines.saqa.batch import SaqaConfig
from swm_jax.choices import known
from swm_jax.models.action_scale import Kind
from swm_jax.records import Count, Positive, Share, Size
from swm_jax.worlds.board.scene import BLOCK_SETS


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Scenes rendered on the device, without any action.

    Attributes:
      block_set: blocks on the board.
      images: of a batch; None: as many as a batch of the run has.
      detections: queries per image, where is an object?
      descriptions: queries per image, what lies in a region?
      present_questions: queries per image, the grammar's questions about the present.
      location_bins: location tokens per side of the image.
      supersample: samples per side of a pixel.
      region_radius: metres to a region's point within which a block lies there.
      covered: share of a patch's pixels that an object needs to own the patch.
    """

    block_set: str = "standard"
    images: Count | None = None
    detections: Size = 9
    descriptions: Size = 3
    present_questions: Size = 12
    location_bins: Count = 32
    supersample: Count = 2
    region_radius: Positive = 0.1
    covered: Share = 0.06

    def __post_init__(self):
        known("block set", self.block_set, BLOCK_SETS)


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Episodes that are simulated once and rendered when they are drawn.

    Attributes:
      generation: config of `python -m data_pipelines.generate` that makes them.
      supersample: samples per side of a pixel.
    """

    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    supersample: Count = 2


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run's batches hold.

    Attributes:
      source: stored "episodes", "rendered" scenes or "simulated" episodes.
      dir: folder of episodes, or a list of sources with weights (see `mixture`); the
        file of poses for simulated ones, which is made if it is not there.
      images: B, of a batch.
      questions: Q, per image.
      queries: R, (question, horizon) pairs per image.
      answer_eos: train the end token behind an answer too.
      frames: where they wait: decoded in "memory", "compressed" there, or on "disk".
      actions: as they are ("raw"), or scaled by each domain's "quantile"s.
      on_damage: what an unreadable episode does: "raise" an error, or be "skip"ped.
      threads: that build batches.
      prefetch: batches made ahead.
      frame: rows and columns of a stored frame, for programs that are compiled without
        data; None: the model's own size.
      rendered_every: one step of so many has rendered scenes instead; 0 for none.
      rendered: those scenes.
      saqa: which questions are asked how often.
      simulated: episodes of that source.
    """

    source: Literal["episodes", "rendered", "simulated"] = "episodes"
    dir: str | tuple[Any, ...] = "data/board"
    images: Count = 16
    questions: Count = 12
    queries: Count = 72
    answer_eos: bool = False
    frames: Literal["memory", "compressed", "disk"] = "memory"
    actions: Kind = "raw"
    on_damage: Literal["raise", "skip"] = "raise"
    threads: Count = 1
    prefetch: Size = 4
    frame: tuple[Count, Count] | None = None
    rendered_every: Size = 0
    rendered: Rendered = Rendered()
    saqa: SaqaConfig = dataclasses.field(default_factory=SaqaConfig)
    simulated: Simulated = dataclasses.field(default_factory=Simulated)

    def __post_init__(self):
        if self.queries < self.questions:
            raise ValueError(
                f"{self.queries} queries cannot cover {self.questions} questions"
            )
        if self.source == "rendered" and self.rendered_images != self.images:
            raise ValueError(
                f"rendered.images is {self.rendered_images}, expected as many as "
                f"images, {self.images}, where all scenes are rendered"
            )
        if self.source == "simulated" and not isinstance(self.dir, str):
            raise ValueError(
                f"dir is {self.dir!r}, expected the file of poses of simulated episodes"
            )
        if self.source == "simulated" and not self.simulated.generation:
            raise ValueError(
                "simulated.generation is empty, expected a config of "
                "data_pipelines.generate"
            )
        if self.source == "episodes":
            parse_sources(self.dir)

    @property
    def rendered_images(self) -> int:
        """Images of a batch of rendered scenes."""
        return self.rendered.images or self.images
