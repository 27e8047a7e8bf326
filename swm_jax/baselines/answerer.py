"""World models with their inputs: observation rendering and tokenisation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from swm_jax import worlds
from swm_jax.envs import AnyScene, Env
from swm_jax.models import Observation
from swm_jax.planning import WorldModel
from swm_jax.planning.protocol import is_differentiable

SUPERSAMPLE = 2  # rays per pixel side in rendered observations


@dataclasses.dataclass(frozen=True)
class Answerer:
    """A world model with tokenizer and observation settings.

    Attributes:
      name: as in `--world_models` of an evaluation.
      world: name of the world of its scenes.
      model: implementation of the `WorldModel` protocol.
      tokenizer: None for models without text input.
      question_length: padded tokens of a question; None without a tokenizer.
      image_size: (height, width) of its images; None for models that read the scene.
    """

    name: str
    world: str
    model: WorldModel
    tokenizer: Any = None
    question_length: int | None = None
    image_size: tuple[int, int] | None = None

    def observe(self, scene: AnyScene) -> Observation:
        """Observation of scenes with one leading axis: rendered images, or scenes."""
        if self.image_size is None:
            blank = np.zeros((*scene.batch_shape, 1, 1, 3), np.uint8)
            return Observation(image=blank, scene=scene)
        return Observation(image=painter(self.world, *self.image_size)(scene))


def scene_of(env: Env, observation: Observation) -> AnyScene:
    """The scenes of an observation that has scenes or states of an env.

    Raises:
      ValueError: the observation has images only.
    """
    seen = observation.scene
    if seen is None:
        raise ValueError("a world model that reads the scene needs observation.scene")
    kind = worlds.load(env.world).scene.kind
    return seen if isinstance(seen, kind) else env.scene(seen)


@functools.cache
def painter(world: str, height: int, width: int) -> Callable[[AnyScene], jax.Array]:
    """Jitted renderer, scene -> uint8[S, height, width, 3]; cached by arguments."""
    draw = worlds.load(world).render.device
    return jax.jit(lambda scene: draw(scene, height, width, supersample=SUPERSAMPLE))


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Definition of a named baseline.

    Attributes:
      make: env -> world model for it.
      model: class of that world model, from which what the command line must know
        before anything runs is read.
    """

    make: Callable[[Env], Answerer]
    model: type[WorldModel]

    @property
    def differentiable(self) -> bool:
        """Whether the world model has gradients with respect to actions."""
        return is_differentiable(self.model)
