"""A world model with what it takes to show it scenes and ask it questions."""

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

SUPERSAMPLE = 2  # rays per pixel side in the pictures a model sees


@dataclasses.dataclass(frozen=True)
class Answerer:
    """A world model with what it takes to show it a scene and ask it.

    Attributes:
      name: as in `--world_models` of an evaluation.
      world: name of the world whose scenes it is shown.
      model: follows the protocol.
      tokenizer: None for a model that does not read.
      question_length: padded tokens of a question; None without a tokenizer.
      image_size: (height, width) it looks at; None if it reads the scene.
    """

    name: str
    world: str
    model: WorldModel
    tokenizer: Any = None
    question_length: int | None = None
    image_size: tuple[int, int] | None = None

    def observe(self, scene: AnyScene) -> Observation:
        """What this world model gets to see of scenes with one leading axis."""
        if self.image_size is None:
            blank = np.zeros((*scene.batch_shape, 1, 1, 3), np.uint8)
            return Observation(image=blank, scene=scene)
        return Observation(image=painter(self.world, *self.image_size)(scene))


def scene_of(env: Env, observation: Observation) -> AnyScene:
    """The scenes of an observation, whether it holds scenes or whole states of an env.

    Raises:
      ValueError: it holds neither: whoever looks was promised pictures alone.
    """
    seen = observation.scene
    if seen is None:
        raise ValueError("a world model that is told the truth needs observation.scene")
    kind = worlds.load(env.world).scene.kind
    return seen if isinstance(seen, kind) else env.scene(seen)


@functools.cache
def painter(world: str, height: int, width: int) -> Callable[[AnyScene], jax.Array]:
    """Scene of a world -> uint8[S, height, width, 3], compiled once per size."""
    draw = worlds.load(world).render.device
    return jax.jit(lambda scene: draw(scene, height, width, supersample=SUPERSAMPLE))


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A world model to compare with, under a name.

    Attributes:
      make: env -> the world model, ready to be asked about it.
      differentiable: whether gradients reach the actions.
    """

    make: Callable[[Env], Answerer]
    differentiable: bool = True
