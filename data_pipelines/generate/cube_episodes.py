"""Episodes of the cube arm: who acts, and what for.

Three policies share the episodes (weights in the config):

    play    an open-loop plan from where things were, with action noise 0.1
    noisy   the closed-loop oracle with Gaussian action noise
    smooth  a velocity that changes slowly and drifts towards a cube, with a gripper
            that opens and closes, as planners propose them

The first two are the paper's. Their errands follow one another: a cube to a place on
the table or onto another cube. An episode is a function of (data set seed, its number).

Axes: B episodes, T actions.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from data_pipelines.generate.play import Simulated, play_episodes
from data_pipelines.schema.domains import CUBE_POLICIES
from swm_jax.worlds.cube.env import CubeEnv
from swm_jax.worlds.cube.oracle import (
    Plan,
    closed_loop_action,
    draw_errand,
    make_plan,
    plan_action,
    plan_is_over,
)
from swm_jax.worlds.cube.scene import CubeScene

PLAY_NOISE = 0.1  # standard deviation, of -1..1
NOISY_NOISE = 0.2
PATIENCE = 60  # steps after which the noisy policy takes on another errand
REST = 6  # steps the noisy policy goes on after its cube is where it should be


@struct.dataclass
class Memory:
    """What a policy keeps between steps, one episode.

    Attributes:
      slot: the cube of the errand, or that the smooth policy drifts to.
      goal: float32[3], where it shall go, metres.
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


def simulate(
    env: CubeEnv, seed: int, numbers: Sequence[int], config: ml_collections.ConfigDict
) -> Simulated:
    """Plays the episodes `numbers` of the data set `seed`.

    Args:
      env: either backend.
      seed: seed of the data set.
      numbers: B episode numbers.
      config: `min_steps`, `max_steps`, `mixture` (policy -> weight).
    """
    return play_episodes(
        env,
        env.reset_batch,
        _first_memory,
        _act,
        CUBE_POLICIES,
        seed,
        numbers,
        config,
    )


def _first_memory(key: PRNGKeyArray) -> Memory:
    """Nothing decided yet: the first step draws everything."""
    return Memory(
        slot=jnp.zeros((), jnp.int32),
        goal=jnp.zeros(3),
        plan=Plan(jnp.zeros((11, 5)), jnp.zeros(11)),
        clock=jnp.zeros(()),
        left=jnp.zeros((), jnp.int32),
        velocity=0.3 * jax.random.normal(jax.random.fold_in(key, 2), (5,)),
    )


def _act(key, t, policy, scene, memory):
    memory_key, play_key, noisy_key = jax.random.split(
        jax.random.fold_in(key, 16 + t), 3
    )
    memory = _next_memory(memory_key, policy, scene, memory)
    play = plan_action(memory.plan, memory.clock, scene.gripper)
    noisy = closed_loop_action(scene, memory.slot, memory.goal)
    chosen = {
        "play": play + PLAY_NOISE * jax.random.normal(play_key, (5,)),
        "noisy": noisy + NOISY_NOISE * jax.random.normal(noisy_key, (5,)),
        "smooth": memory.velocity,
    }
    action = jnp.stack([chosen[name] for name in CUBE_POLICIES])[policy]
    after = memory.replace(clock=memory.clock + 1, left=memory.left - 1)
    return jnp.clip(action, -1.0, 1.0).astype(jnp.float32), after


def _next_memory(
    key: PRNGKeyArray, policy: Int[Array, ""], scene: CubeScene, memory: Memory
) -> Memory:
    """Goes on with the errand, or begins another when it is over."""
    errand_key, plan_key, gust_key = jax.random.split(key, 3)
    slot, goal = draw_errand(errand_key, scene)
    plan = make_plan(plan_key, scene, slot, goal)
    done = jnp.linalg.norm(scene.block_pose[memory.slot, :3] - memory.goal) < 0.015
    left = jnp.where(done, jnp.minimum(memory.left, REST), memory.left)
    playing = policy == CUBE_POLICIES.index("play")
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
    gust = jax.random.normal(gust_key, (5,)) * jnp.array([0.6, 0.6, 0.6, 0.6, 1.0])
    velocity = 0.9 * memory.velocity + 0.1 * drift + 0.4 * gust
    return memory.replace(velocity=velocity)
