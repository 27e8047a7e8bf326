"""Held-out episodes, simulated on the fly or read from a data folder.

Simulated ones have the policies and starts of the training data and a seed that is
reserved for evaluation.

Axes: E episodes, T control steps.
"""

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from data_pipelines.generate.config import default_config
from data_pipelines.generate.play import play_episodes
from data_pipelines.schema.arrays import stack_episodes
from data_pipelines.schema.episode import DataError
from data_pipelines.schema.read import read_episodes
from swm_jax import worlds
from swm_jax.envs import AnyScene, Env
from swm_jax.eval.config import UserError

SEED = 1_900_000_000  # reserved for evaluation
STEPS = 48
_NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)  # images are rendered from the poses


class HeldOut(struct.PyTreeNode):
    """Episodes outside the training data.

    Attributes:
      scenes: scene with leading axes [E, T + 1], numpy.
      actions: float32[E, T, A], raw action units.
      length: int32[E], actions of each episode.
    """

    scenes: AnyScene
    actions: Float[np.ndarray, "E T A"]
    length: Int[np.ndarray, " E"]


def held_out_episodes(env: Env, count: int, steps: int = STEPS) -> HeldOut:
    """Simulates `count` episodes of `steps` steps."""
    config = default_config(env.world)
    config.min_steps = config.max_steps = steps
    policies = worlds.load(env.world).policies
    played = play_episodes(env, policies, SEED, range(count), config)
    return HeldOut(
        scenes=jax.tree.map(np.asarray, played.scene),
        actions=np.asarray(played.action, np.float32),
        length=np.asarray(played.length),
    )


def stored_episodes(directory: str, count: int, world: str) -> HeldOut:
    """The first `count` episodes of the held-out split of a data folder.

    Raises:
      UserError: a folder that is missing, empty, damaged or of another world.
    """
    try:
        episodes = read_episodes(directory, "val")[:count]
    except (DataError, OSError) as error:
        raise UserError(f"--data_dir {directory}: {error}") from None
    if not episodes:
        raise UserError(f"--data_dir {directory}: its held-out split is empty")
    if episodes[0].domain != worlds.load(world).scene.domain:
        raise UserError(
            f"--data_dir {directory} holds episodes of {episodes[0].domain}, the "
            f"evaluation is about {world}"
        )
    arrays = stack_episodes(episodes, [_NO_FRAMES] * len(episodes))
    index = np.arange(len(episodes))[:, None]
    every = np.arange(arrays.action.shape[1] + 1)[None]
    return HeldOut(arrays.scene(index, every), arrays.action, arrays.length)
