"""Held-out episodes: made on the fly, so that no data set is needed, or from a folder.

Made ones come from the same policies and starts as the training data, with a data
set seed that no training data use.

Axes: E episodes, T control steps.
"""

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from data_pipelines.arrays import stack_episodes
from data_pipelines.board_episodes import simulate
from data_pipelines.episodes import DataError
from data_pipelines.load import read_episodes
from experiments.generate_board import get_config
from swm_jax.envs import BoardEnv, Scene
from swm_jax.eval.config import UserError

SEED = 1_900_000_000  # of a data set nobody trains on
STEPS = 48
_NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)  # pictures are drawn again from poses


@struct.dataclass
class HeldOut:
    """Episodes nobody has trained on.

    Attributes:
      scenes: Scene with leading axes [E, T + 1], numpy.
      actions: float32[E, T, 2], raw action units.
      length: int32[E], actions that belong to each episode.
    """

    scenes: Scene
    actions: Float[np.ndarray, "E T 2"]
    length: Int[np.ndarray, " E"]


def held_out_episodes(env: BoardEnv, count: int, steps: int = STEPS) -> HeldOut:
    """Simulates `count` episodes of `steps` steps."""
    config = get_config()
    config.min_steps = config.max_steps = steps
    played = simulate(env, SEED, range(count), config)
    return HeldOut(
        scenes=jax.tree.map(np.asarray, played.scene),
        actions=np.asarray(played.action, np.float32),
        length=np.asarray(played.length),
    )


def stored_episodes(directory: str, count: int) -> HeldOut:
    """The first `count` episodes of the held-out split of a data folder.

    Raises:
      UserError: a folder that is missing, empty or damaged.
    """
    try:
        episodes = read_episodes(directory, "val")[:count]
    except (DataError, OSError) as error:
        raise UserError(f"--data_dir {directory}: {error}") from None
    if not episodes:
        raise UserError(f"--data_dir {directory}: its held-out split is empty")
    arrays = stack_episodes(episodes, [_NO_FRAMES] * len(episodes))
    index = np.arange(len(episodes))[:, None]
    every = np.arange(arrays.peg.shape[1])[None]
    return HeldOut(arrays.scene(index, every), arrays.action, arrays.length)
