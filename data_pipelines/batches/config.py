"""Settings of training batches: source, size, mixture of questions.

`config.data` of an experiment is a `Data`; the other records of an experiment are in
`swm_jax.training.experiment`.
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
    """Pre-training on random scenes rendered on the device, horizon 0 only.

    Attributes:
      block_set: blocks on the board.
      images: per batch; None: `Data.images`.
      detections: "where is this object?" queries per image.
      descriptions: "what lies in this region?" queries per image.
      present_questions: queries per image about the state shown.
      location_bins: location tokens per side of the image.
      supersample: samples per side of a pixel.
      region_radius: metres from a region's point within which a block counts as in it.
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
    """Episodes stored as poses, whose frames are rendered when a batch is drawn.

    Attributes:
      generation: config of `python -m data_pipelines.generate` that makes them.
      supersample: samples per side of a pixel.
      chunks: N, chunks per image, of episodes that are branches of one start; image and
        questions run once for all of them. 0: one chunk per image, from anywhere in an
        episode.
      horizons: G, of every image with several chunks; its queries are then all of
        chunks x horizons x questions.
      planner_share: share of images whose horizons are those of planners: all of the
        chunk, half of it and, with three or more, the present; others are drawn.
    """

    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    supersample: Count = 2
    chunks: Size = 0
    horizons: Count = 3
    planner_share: Share = 0.7


@dataclasses.dataclass(frozen=True)
class Data:
    """Source, sizes and questions of a run's batches.

    Attributes:
      source: stored "episodes", "rendered" scenes or "simulated" episodes.
      dir: folder of episodes, or a list of sources with weights (see `mixture`); for
        simulated episodes the file of poses, generated if it does not exist.
      images: B, of a batch.
      questions: Q, per image.
      queries: R, (question, horizon) pairs per image.
      answer_eos: train the end token behind an answer too.
      frames: storage of frames: decoded in "memory", "compressed" in memory, or "disk".
      actions: unscaled ("raw"), or scaled by each domain's "quantile"s.
      on_damage: unreadable episodes "raise" an error or are "skip"ped.
      threads: number of threads that build batches.
      prefetch: batches built ahead.
      frame: rows and columns of a stored frame, for programs that are compiled without
        data; None: the model's own size.
      rendered_every: n: every n-th step is a batch of rendered scenes; 0: none is.
      rendered: settings of those scenes.
      saqa: shares of question types, answers and horizons.
      simulated: settings of the source "simulated".
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
        branches = self.simulated.generation.get("branches", 1)
        if self.simulated.chunks > branches:
            raise ValueError(
                f"simulated.chunks is {self.simulated.chunks}, expected at most the "
                f"{branches} branches of its generation"
            )
        if self.source == "episodes":
            parse_sources(self.dir)

    @property
    def rendered_images(self) -> int:
        """Images of a batch of rendered scenes."""
        return self.rendered.images or self.images
