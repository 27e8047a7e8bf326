"""Policies of generated episodes of the cube world.

Episodes are a mixture of three policies (weights in the config):

    play    an open-loop plan from the scene at its start, with action noise 0.1
    noisy   the closed-loop oracle with Gaussian action noise
    smooth  a slowly changing velocity with a drift to a cube and a gripper that opens
            and closes, similar to planners' candidates

The first two are the paper's; they do one errand after another: a cube to a place on
the table or onto another cube. An episode is a function of (seed of the data set,
number of the episode).

Axes: B episodes, T actions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import struct
from jaxtyping import Float, Int, Key, PRNGKeyArray

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.worlds.cube import geometry
from swm_jax.worlds.cube.env import CubeEnv, CubeState
from swm_jax.worlds.cube.oracle import (
    Plan,
    closed_loop_action,
    draw_errand,
    make_plan,
    plan_action,
    plan_is_over,
)
from swm_jax.worlds.cube.scene import CubeScene

POLICIES = ("play", "noisy", "smooth")
PLAY_NOISE = 0.1  # standard deviation, of -1..1
NOISY_NOISE = 0.2
PATIENCE = 60  # steps after which the noisy policy starts another errand
REST = 6  # steps of the noisy policy after its cube has reached the goal


class Memory(struct.PyTreeNode):
    """Memory of the policies between the steps of one episode.

    Attributes:
      slot: the cube of the errand, or of the smooth policy's drift.
      goal: float32[3], target position of the cube, metres.
      plan: keyframes of the play policy.
      clock: float32, steps since the errand began.
      left: int32, steps until the noisy policy's errand is over.
      velocity: float32[5], the smooth policy's action.
    """

    slot: Int[Array, ""]
    goal: Float[Array, "3"]
    plan: Plan
    clock: Float[Array, ""]
    left: Int[Array, ""]
    velocity: Float[Array, "5"]


def generation_config() -> ml_collections.ConfigDict:
    """Fields of the cube world in a generation config."""
    config = ml_collections.ConfigDict()
    config.min_steps = config.max_steps = 100  # actions of an episode
    # The paper's two; "smooth" adds actions as planners propose them.
    config.mixture = ml_collections.ConfigDict(
        {"play": 0.4, "noisy": 0.4, "smooth": 0.2}
    )
    config.cubes = 4
    config.control_period = 0.1  # seconds
    return config


def starts(
    env: CubeEnv,
    keys: Key[jax.Array, " B"],
    config: ml_collections.ConfigDict,
) -> CubeState:
    """Resets of the env."""
    del config
    return env.reset_batch(keys)


def first_memory(key: PRNGKeyArray) -> Memory:
    """Empty memory, with timers at 0, so that the first step draws all."""
    return Memory(
        slot=jnp.zeros((), jnp.int32),
        goal=jnp.zeros(3),
        plan=Plan(jnp.zeros((11, 5)), jnp.zeros(11)),
        clock=jnp.zeros(()),
        left=jnp.zeros((), jnp.int32),
        velocity=0.3 * prng.normal(prng.fold_in(key, 2), (5,)),
    )


def act(
    key: PRNGKeyArray, t: Any, policy: Int[Array, ""], scene: CubeScene, memory: Memory
) -> tuple[Float[Array, "5"], Memory]:
    """The action of step t by a policy, an index into `POLICIES`."""
    memory_key, play_key, noisy_key = prng.split(prng.fold_in(key, 16 + t), 3)
    memory = _next_memory(memory_key, policy, scene, memory)
    play = plan_action(memory.plan, memory.clock, scene.gripper)
    noisy = closed_loop_action(scene, memory.slot, memory.goal)
    chosen = {
        "play": play + PLAY_NOISE * prng.normal(play_key, (5,)),
        "noisy": noisy + NOISY_NOISE * prng.normal(noisy_key, (5,)),
        "smooth": memory.velocity,
    }
    action = jnp.stack([chosen[name] for name in POLICIES])[policy]
    after = memory.replace(clock=memory.clock + 1, left=memory.left - 1)
    return jnp.clip(action, -1.0, 1.0).astype(jnp.float32), after


def _next_memory(
    key: PRNGKeyArray, policy: Int[Array, ""], scene: CubeScene, memory: Memory
) -> Memory:
    """Memory of the next step: the same errand, or a new one when it is over."""
    errand_key, plan_key, gust_key = prng.split(key, 3)
    slot, goal = draw_errand(errand_key, scene)
    plan = make_plan(plan_key, scene, slot, goal)
    done = jnp.linalg.norm(scene.block_pose[memory.slot, :3] - memory.goal) < 0.015
    # After arrival continue for `REST` steps, to release the cube and retreat.
    left = jnp.where(done, jnp.minimum(memory.left, REST), memory.left)
    playing = policy == POLICIES.index("play")
    anew = jnp.where(playing, plan_is_over(memory.plan, memory.clock), left <= 0)
    fresh = Memory(
        slot.astype(jnp.int32),
        goal,
        plan,
        jnp.zeros(()),
        jnp.full((), PATIENCE, jnp.int32),
        memory.velocity,
    )
    memory = jax.tree.map(
        lambda a, b: jnp.where(anew, a, b), fresh, memory.replace(left=left)
    )
    pull = scene.block_pose[memory.slot, :3] - scene.gripper[:3]
    drift = jnp.append(jnp.clip(pull / 0.15, -1.0, 1.0), jnp.zeros(2))
    gust = prng.normal(gust_key, (5,)) * jnp.array([0.6, 0.6, 0.6, 0.6, 1.0])
    velocity = 0.9 * memory.velocity + 0.1 * drift + 0.4 * gust
    return memory.replace(velocity=velocity)


_pick = jax.jit(closed_loop_action)


def expert(
    env: CubeEnv, scene: CubeScene, task: Any, seed: int, key: PRNGKeyArray
) -> Float[Array, "5"]:
    """Puts a task's cube onto its second one, or lifts it."""
    del env, seed, key
    top, *rest = (scene.block_pose[slot, :3] for slot in task.slots)
    rise = 2 * geometry.CUBE_HALF if rest else 0.1
    base = rest[0] if rest else jnp.asarray(top).at[2].set(geometry.CUBE_HALF)
    goal = jnp.asarray(base) + jnp.array([0.0, 0.0, rise])
    return _pick(scene, task.slots[0], goal)
