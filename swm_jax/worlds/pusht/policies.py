"""Policies and starts of generated episodes of Push-T.

Episodes are a mixture of four policies (weights in the config):

    oracle  the scripted pusher
    noisy   the same with Gaussian noise and bursts of random actions
    poke    moves to points on, beside and behind the T, pushing through some
    smooth  a slowly changing velocity, similar to planners' candidates

Some starts are the env's reset; the others have the T near its goal, down to a
millimetre, so that "at the goal" has both answers. An episode is a function of (seed
of the data set, number of the episode).

Axes: B episodes, T actions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import struct
from jaxtyping import Float, Int, Key, PRNGKeyArray

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.worlds.pusht import geometry
from swm_jax.worlds.pusht.env import PushTEnv, State, free_peg, place, state_at_rest
from swm_jax.worlds.pusht.geometry import PEG_BOX, PLANNER_ACTION_LIMIT
from swm_jax.worlds.pusht.oracle import oracle_action
from swm_jax.worlds.pusht.scene import Scene

POLICIES = ("oracle", "noisy", "poke", "smooth")
NOISE = 0.008  # metres per step, standard deviation of the noisy policy
BURST_SHARE = 0.15  # share of the noisy policy's steps with random actions
NEAREST, FARTHEST = 0.0005, 0.06  # metres, spread of starts near the goal
_PATIENCE = 12  # steps after which the poking policy picks another point


class Memory(struct.PyTreeNode):
    """Memory of the policies between the steps of one episode.

    Attributes:
      aim: float32[2], target point of the poking policy, metres.
      speed: float32, metres per step of the poking policy.
      left: int32, steps until it picks another point.
      velocity: float32[2], metres per step of the smooth policy.
    """

    aim: Float[Array, "2"]
    speed: Float[Array, ""]
    left: Int[Array, ""]
    velocity: Float[Array, "2"]


def generation_config() -> ml_collections.ConfigDict:
    """Fields of Push-T in a generation config."""
    config = ml_collections.ConfigDict()
    config.min_steps = 32  # actions; the length of an episode is uniform
    config.max_steps = 48
    config.mixture = ml_collections.ConfigDict(
        {"oracle": 0.3, "noisy": 0.2, "poke": 0.3, "smooth": 0.2}
    )
    config.near_share = 0.4  # starts with the T near its goal
    return config


def starts(
    env: PushTEnv,
    keys: Key[jax.Array, " B"],
    config: ml_collections.ConfigDict,
) -> State:
    """Resets, `config.near_share` of them replaced by a T near its goal."""
    return env.native(_starts(keys, config.near_share))


@functools.partial(jax.jit, static_argnums=1)
def _starts(keys, near_share):
    def one(key):
        reset_key, near_key, share_key = prng.split(key, 3)
        near = prng.uniform(share_key) < near_share
        pick = lambda a, b: jnp.where(near, a, b)
        return jax.tree.map(pick, _near_goal(near_key), place(reset_key))

    return jax.vmap(one)(keys)


def _near_goal(key: PRNGKeyArray) -> State:
    """State with the T near its goal, at a log-uniform spread."""
    spread_key, pose_key, peg_key = prng.split(key, 3)
    low, high = jnp.log(NEAREST), jnp.log(FARTHEST)
    spread = jnp.exp(prng.uniform(spread_key, minval=low, maxval=high))
    noise = spread * prng.normal(pose_key, (3,))
    noise /= jnp.array([1.0, 1.0, geometry.GYRATION])
    pose = jnp.asarray(geometry.GOAL_POSE) + noise
    pose = pose.at[:2].set(jnp.clip(pose[:2], *jnp.asarray(geometry.T_BOX)))
    return state_at_rest(pose[None], free_peg(peg_key, pose), (0,))


def first_memory(key: PRNGKeyArray) -> Memory:
    """Empty memory, with timers at 0, so that the first step draws all."""
    return Memory(
        aim=jnp.zeros(2),
        speed=jnp.zeros(()),
        left=jnp.zeros((), jnp.int32),
        velocity=0.015 * prng.normal(prng.fold_in(key, 2), (2,)),
    )


def act(
    key: PRNGKeyArray, t: Any, policy: Int[Array, ""], scene: Scene, memory: Memory
) -> tuple[Float[Array, "2"], Memory]:
    """The action of step t by a policy, an index into `POLICIES`."""
    keys = prng.split(prng.fold_in(key, 16 + t), 4)
    memory_key, oracle_key, noise_key, walk_key = keys
    memory = _next_memory(memory_key, scene, memory)
    oracle = oracle_action(scene, oracle_key)
    chosen = {
        "oracle": oracle,
        "noisy": _badly(noise_key, oracle),
        "poke": _poke(walk_key, scene, memory),
        "smooth": memory.velocity,
    }
    action = jnp.stack([chosen[name] for name in POLICIES])[policy]
    limit = PLANNER_ACTION_LIMIT
    return jnp.clip(action, -limit, limit).astype(jnp.float32), memory


def _next_memory(key: PRNGKeyArray, scene: Scene, memory: Memory) -> Memory:
    aim_key, speed_key, stay_key, velocity_key = prng.split(key, 4)
    arrived = jnp.linalg.norm(memory.aim - scene.peg) < 0.01
    anew = arrived | (memory.left <= 0)
    speed = prng.uniform(speed_key, minval=0.008, maxval=0.03)
    stay = prng.randint(stay_key, (), 3, _PATIENCE)
    gust = prng.normal(velocity_key, (2,))
    # Drift to the T, since a free walk would rarely meet it.
    pull = scene.block_pose[0, :2] - scene.peg
    drift = 0.1 * jnp.clip(0.1 * pull, -0.02, 0.02)
    velocity = 0.9 * memory.velocity + drift + jnp.sqrt(1 - 0.9**2) * 0.015 * gust
    return Memory(
        aim=jnp.where(anew, _next_aim(aim_key, scene), memory.aim),
        speed=jnp.where(anew, speed, memory.speed),
        left=jnp.where(anew, stay, memory.left - 1).astype(jnp.int32),
        velocity=velocity,
    )


def _next_aim(key: PRNGKeyArray, scene: Scene) -> Float[Array, "2"]:
    """Random target point on the T, beside it, or behind it."""
    angle_key, distance_key = prng.split(key)
    angle = prng.uniform(angle_key, maxval=2 * jnp.pi)
    distance = prng.uniform(distance_key, maxval=0.14)
    around = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return jnp.clip(scene.block_pose[0, :2] + distance * around, *PEG_BOX)


def _poke(key: PRNGKeyArray, scene: Scene, memory: Memory) -> Float[Array, "2"]:
    way = memory.aim - scene.peg
    distance = jnp.maximum(jnp.linalg.norm(way), 1e-6)
    step = way / distance * jnp.minimum(memory.speed, distance)
    return step + 0.003 * prng.normal(key, (2,))


def _badly(key: PRNGKeyArray, action: Float[Array, "2"]) -> Float[Array, "2"]:
    noise_key, burst_key, uniform_key = prng.split(key, 3)
    noisy = action + NOISE * prng.normal(noise_key, (2,))
    lost = PLANNER_ACTION_LIMIT * prng.uniform(uniform_key, (2,), minval=-1.0)
    return jnp.where(prng.uniform(burst_key) < BURST_SHARE, lost, noisy)


_push = jax.jit(oracle_action)


def expert(
    env: PushTEnv, scene: Scene, task: Any, seed: int, key: PRNGKeyArray
) -> Float[Array, "2"]:
    """Pushes the T towards its goal."""
    del env, task, seed
    return _push(scene, key)
