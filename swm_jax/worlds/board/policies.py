"""Policies and starts of generated episodes on the board.

Questions about changes need movement, those about touching need contacts, and planners
query actions that no expert takes. So episodes are a mixture of five policies (weights
in the config):

    oracle   the scripted pusher, one block to another
    noisy    the same with Gaussian noise and bursts of random actions
    random   independent uniform actions of +-0.025 m, as in the original data
    contact  moves to points beside and behind blocks, pushing through some
    smooth   a slowly changing velocity, similar to planners' candidates

Half of the starts are the env's reset; the others have blocks next to each other and
the peg next to a block. An episode is a function of (seed of the data set, number of
the episode).

Axes: B episodes, T actions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import struct
from jaxtyping import Float, Int, Key, PRNGKeyArray

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.envs.scene import block_id
from swm_jax.worlds.board.env import BoardEnv, State
from swm_jax.worlds.board.geometry import PEG_BOX, PLANNER_ACTION_LIMIT
from swm_jax.worlds.board.oracle import oracle_action
from swm_jax.worlds.board.random_scenes import random_scenes
from swm_jax.worlds.board.scene import Scene

POLICIES = ("oracle", "noisy", "random", "contact", "smooth")
RANDOM_LIMIT = 0.025  # metres per step, the published suboptimal data
NOISE = 0.01  # metres per step, standard deviation of the noisy policy
BURST_SHARE = 0.2  # share of the noisy policy's steps with random actions
SETTLE_STEPS = 3  # without action, so that overlapping blocks separate
_PATIENCE = 12  # steps after which the contact policy picks another point
_JOINED = 0.055  # metres between centres at which the oracle's pair is joined


class Memory(struct.PyTreeNode):
    """Memory of the policies between the steps of one episode.

    Attributes:
      pair: int32[2], slots of the oracle's blocks.
      aim: float32[2], target point of the contact policy, metres.
      speed: float32, metres per step of the contact policy.
      left: int32, steps until the contact policy picks another point.
      velocity: float32[2], metres per step of the smooth policy.
    """

    pair: Int[Array, "2"]
    aim: Float[Array, "2"]
    speed: Float[Array, ""]
    left: Int[Array, ""]
    velocity: Float[Array, "2"]


def generation_config() -> ml_collections.ConfigDict:
    """Fields of the board in a generation config."""
    config = ml_collections.ConfigDict()
    config.min_steps = 32  # actions; the length of an episode is uniform
    config.max_steps = 48
    config.mixture = ml_collections.ConfigDict(
        {"oracle": 0.2, "noisy": 0.2, "random": 0.1, "contact": 0.3, "smooth": 0.2}
    )
    config.near_share = 0.5  # starts with blocks and peg beside each other
    config.block_set = "standard"
    return config


def starts(
    env: BoardEnv,
    keys: Key[jax.Array, " B"],
    config: ml_collections.ConfigDict,
) -> State:
    """Resets, `config.near_share` of them replaced by crowded scenes, at rest."""
    states = env.reset_batch(keys)
    near, crowded = _crowded(keys, env.block_ids, config.near_share)
    crowded = env.state_from_scene(crowded)
    if not env.traceable:
        near, crowded = jax.tree.map(np.asarray, (near, crowded))

    def pick(a, b):
        where = np.where if isinstance(a, np.ndarray) else jnp.where
        return where(near.reshape(-1, *[1] * (b.ndim - 1)), a, b)

    states = jax.tree.map(pick, crowded, states)
    still = np.zeros((len(keys), 2), np.float32)
    for _ in range(SETTLE_STEPS):
        states = env.step_batch(states, still)
    return env.state_from_scene(env.scene(states))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _crowded(keys, block_ids, near_share):
    def one(key):
        a, b = prng.split(prng.fold_in(key, 1))
        scene = random_scenes(a, 1, block_ids)
        near = prng.uniform(b) < near_share
        ids = jnp.asarray(block_ids, jnp.int32)[None]
        return near, jax.tree.map(lambda x: x[0], scene.replace(block_id=ids))

    return jax.vmap(one)(keys)


def first_memory(key: PRNGKeyArray) -> Memory:
    """Empty memory, with timers at 0, so that the first step draws all."""
    return Memory(
        pair=jnp.zeros(2, jnp.int32),
        aim=jnp.zeros(2),
        speed=jnp.zeros(()),
        left=jnp.zeros((), jnp.int32),
        velocity=0.015 * prng.normal(prng.fold_in(key, 2), (2,)),
    )


def act(
    key: PRNGKeyArray, t: Any, policy: Int[Array, ""], scene: Scene, memory: Memory
) -> tuple[Float[Array, "2"], Memory]:
    """The action of step t by a policy, an index into `POLICIES`."""
    keys = prng.split(prng.fold_in(key, 16 + t), len(POLICIES))
    memory = _next_memory(keys[0], scene, memory)
    chosen = {
        "oracle": _pushes(keys[1], scene, memory),
        "noisy": _pushes_badly(keys[1], keys[2], scene, memory),
        "random": RANDOM_LIMIT * prng.uniform(keys[3], (2,), minval=-1.0),
        "contact": _walk(keys[4], scene, memory),
        "smooth": memory.velocity,
    }
    action = jnp.stack([chosen[name] for name in POLICIES])[policy]
    limit = PLANNER_ACTION_LIMIT
    return jnp.clip(action, -limit, limit).astype(jnp.float32), memory


def _next_memory(key: PRNGKeyArray, scene: Scene, memory: Memory) -> Memory:
    pair_key, aim_key, speed_key, stay_key, velocity_key = prng.split(key, 5)
    place = scene.block_pose[:, :2]
    apart = jnp.linalg.norm(place[memory.pair[0]] - place[memory.pair[1]])
    pair = prng.choice(pair_key, len(place), (2,), replace=False)
    arrived = jnp.linalg.norm(memory.aim - scene.peg) < 0.01
    anew = arrived | (memory.left <= 0)
    gust = prng.normal(velocity_key, (2,))
    return Memory(
        # Also true of the empty memory, whose pair is one block twice.
        pair=jnp.where(apart < _JOINED, pair, memory.pair).astype(jnp.int32),
        aim=jnp.where(anew, _next_aim(aim_key, scene), memory.aim),
        speed=jnp.where(
            anew, prng.uniform(speed_key, minval=0.008, maxval=0.03), memory.speed
        ),
        left=jnp.where(anew, prng.randint(stay_key, (), 3, _PATIENCE), memory.left - 1),
        # Autoregressive noise with a stationary deviation of 0.018 m per step.
        velocity=0.9 * memory.velocity + jnp.sqrt(1 - 0.9**2) * 0.018 * gust,
    )


def _next_aim(key: PRNGKeyArray, scene: Scene) -> Float[Array, "2"]:
    """Random point near a block close to the peg, or behind it for a push."""
    block_key, angle_key, distance_key, kind_key = prng.split(key, 4)
    offset = scene.block_pose[:, :2] - scene.peg
    distance = jnp.linalg.norm(offset, axis=-1)
    block = prng.categorical(block_key, -distance / 0.06)  # near ones most often
    angle = prng.uniform(angle_key, maxval=2 * jnp.pi)
    around = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    ahead = offset[block] / jnp.maximum(distance[block], 1e-6)
    near, through = prng.uniform(
        distance_key, (2,), minval=jnp.array([0.03, 0.0]), maxval=jnp.array([0.09, 0.1])
    )
    push = prng.uniform(kind_key) < 0.5
    move = jnp.where(push, ahead * through + 0.012 * around, near * around)
    return jnp.clip(scene.peg + offset[block] + move, *PEG_BOX)


def _walk(key: PRNGKeyArray, scene: Scene, memory: Memory) -> Float[Array, "2"]:
    way = memory.aim - scene.peg
    distance = jnp.maximum(jnp.linalg.norm(way), 1e-6)
    step = way / distance * jnp.minimum(memory.speed, distance)
    return step + 0.003 * prng.normal(key, (2,))


def _pushes(key: PRNGKeyArray, scene: Scene, memory: Memory) -> Any:
    a, b = scene.block_id[memory.pair[0]], scene.block_id[memory.pair[1]]
    return oracle_action(scene, a, b, key)


def _pushes_badly(key, noise_key, scene: Scene, memory: Memory) -> Float[Array, "2"]:
    noise, burst, uniform = prng.split(noise_key, 3)
    action = _pushes(key, scene, memory) + NOISE * prng.normal(noise, (2,))
    lost = RANDOM_LIMIT * prng.uniform(uniform, (2,), minval=-1.0)
    return jnp.where(prng.uniform(burst) < BURST_SHARE, lost, action)


_push = jax.jit(oracle_action)


def expert(
    env: BoardEnv, scene: Scene, task: Any, seed: int, key: PRNGKeyArray
) -> Float[Array, "2"]:
    """Pushes a task's block to its second one, or to any other."""
    first, *rest = map(block_id, task.names)
    others = [i for i in env.block_ids if i != first]
    return _push(scene, first, rest[0] if rest else others[seed % len(others)], key)
