"""Planning on answers: the world-model protocol and the planners that use it."""

from swm_jax.planning.fake import FakeWorldModel
from swm_jax.planning.protocol import Normalise, WorldModel

__all__ = ["FakeWorldModel", "Normalise", "WorldModel"]
