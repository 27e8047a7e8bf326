"""Scripted pick-and-place policies.

`closed_loop_action` is a function of the scene alone: it approaches, grasps, carries,
places or leaves. `Plan` is open-loop: keyframes computed once from the initial scene
and followed without feedback; with some action noise it is OGBench's "play" policy.
Pure jnp: jit and vmap apply.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.worlds.cube import geometry as geometry
from swm_jax.worlds.cube.overlap import finger_gaps
from swm_jax.worlds.cube.scene import CubeScene

HELD = 0.002  # metres between a held cube and each finger, at most
ALIGNED = 0.012  # metres aside within which the hand goes straight down
ARRIVED = 0.012  # metres from the goal at which a cube is let go
TRAVEL = 0.09  # metres above grasp or goal that the hand travels at
ON_TOP_SHARE = 0.5  # share of goals on another cube
# numpy: a JAX array here would initialise the backend on import.
_SCALE = np.asarray(geometry.ACTION_SCALE, np.float32)
_FRAMES = 11  # keyframes of a plan


def closed_loop_action(
    scene: CubeScene,
    slot: Int[Array, ""],
    goal: Float[Array, "3"],
) -> Float[Array, "5"]:
    """Next action to bring a cube to a goal, in -1..1.

    Args:
      scene: one scene (vmap for more).
      slot: of the cube.
      goal: target position of its centre, metres.
    """
    cube, hand = scene.block_pose[slot], scene.gripper
    place = cube[:3]
    offset = place - hand[:3]
    aside = jnp.linalg.norm(offset[:2])
    near = (finger_gaps(hand, cube) < HELD).all()
    held = near & (aside < 0.02) & (jnp.abs(offset[2]) < 0.02)
    left = goal - place
    there = jnp.linalg.norm(left) < ARRIVED
    # Empty: above the cube, then down, then close.
    above = jnp.append(offset[:2], offset[2] + TRAVEL)
    climb = jnp.where(offset[2] + TRAVEL > 0.03, 0.0, 1.0)  # rise first, then across
    approach = above * jnp.append(jnp.full(2, climb), 1.0)
    down = aside < ALIGNED
    ready = down & (jnp.abs(offset[2]) < 0.008)
    to_cube = jnp.where(down, offset, approach)
    # Holding: up, across at travel height, down.
    lift = goal[2] + TRAVEL - place[2]
    over = jnp.linalg.norm(left[:2]) < ALIGNED
    across = jnp.append(left[:2] * jnp.where(lift > 0.03, 0.0, 1.0), lift)
    to_goal = jnp.where(over, left, across)
    leave = jnp.array([0.0, 0.0, 0.05])
    move = jnp.where(held, to_goal, to_cube)
    grip = jnp.where(held | ready, 1.0, -1.0)
    move = jnp.where(there, jnp.where(near, 0.0, leave), move)
    grip = jnp.where(there, -1.0, grip)
    turn = jnp.where(held, 0.0, quarter_turn(cube, hand[3]))
    return jnp.clip(jnp.concatenate([move, turn[None], grip[None]]) / _SCALE, -1, 1)


def quarter_turn(cube: Float[Array, "7"], yaw: Float[Array, ""]) -> Float[Array, ""]:
    """Smallest turn of a hand at `yaw` that aligns its fingers with a cube's faces."""
    side = geometry.rotation_matrix(cube[3:])[:, 0]
    angle = jnp.arctan2(side[1], side[0]) - yaw
    return jnp.mod(angle + jnp.pi / 4, jnp.pi / 2) - jnp.pi / 4


def draw_errand(
    key: Key[jax.Array, ""], scene: CubeScene
) -> tuple[Int[Array, ""], Float[Array, "3"]]:
    """Random errand: slot of a cube, and a target on the table or on another cube."""
    cube_key, other_key, kind_key, place_key = prng.split(key, 4)
    count = scene.block_id.shape[-1]
    slot = prng.randint(cube_key, (), 0, count)
    low, high = (jnp.asarray(each) for each in (geometry.CUBE_LOW, geometry.CUBE_HIGH))
    spot = prng.uniform(place_key, (2,), minval=low, maxval=high)
    goal = jnp.append(spot, geometry.CUBE_HALF)
    if count > 1:
        other = (slot + prng.randint(other_key, (), 1, count)) % count
        top = scene.block_pose[other, :3] + jnp.array([0, 0, 2 * geometry.CUBE_HALF])
        stack = prng.uniform(kind_key) < ON_TOP_SHARE
        goal = jnp.where(stack, top, goal)
    return slot, goal


class Plan(struct.PyTreeNode):
    """Keyframes of one errand.

    Attributes:
      pose: float32[11, 5], x, y, z, yaw and how far the gripper is closed (0..1).
      time: float32[11], control steps since the plan was made, ascending.
    """

    pose: Float[Array, "11 5"]
    time: Float[Array, " 11"]


def make_plan(
    key: Key[jax.Array, ""],
    scene: CubeScene,
    slot: Int[Array, ""],
    goal: Float[Array, "3"],
) -> Plan:
    """Plan of an errand: above the cube, down, close, up, across, down, open, away."""
    high_key, mid_key, pace_key, end_key, yaw_key = prng.split(key, 5)
    hand, cube = scene.gripper, scene.block_pose[slot]
    pick = cube[:3]
    yaw = hand[3] + quarter_turn(cube, hand[3])
    turn = yaw + prng.uniform(yaw_key, minval=-0.8, maxval=0.8)
    rise = prng.uniform(high_key, (2,), minval=0.08, maxval=0.16)
    up = jnp.array([0.0, 0.0, 1.0])
    high_pick, high_goal = pick + rise[0] * up, goal + rise[1] * up
    spread = jnp.array([0.05, 0.05, 0.03])
    bend = prng.uniform(mid_key, (3,), minval=-spread, maxval=spread)
    middle = 0.5 * (high_pick + high_goal) + bend
    start = (jnp.asarray(each) for each in (geometry.START_LOW, geometry.START_HIGH))
    low, high = start
    away = prng.uniform(end_key, (3,), minval=low, maxval=high)
    frames = [
        (hand[:3], hand[3], 0.0),
        (high_pick, yaw, 0.0),
        (pick, yaw, 0.0),
        (pick, yaw, 1.0),
        (high_pick, yaw, 1.0),
        (middle, 0.5 * (yaw + turn), 1.0),
        (high_goal, turn, 1.0),
        (goal, turn, 1.0),
        (goal, turn, 0.0),
        (high_goal, turn, 0.0),
        (away, turn, 0.0),
    ]
    pose = jnp.stack([jnp.concatenate([p, jnp.stack([y, g])]) for p, y, g in frames])
    # Durations at 0.03 m or 0.2 rad per step; fingers take 3 steps.
    step = jnp.abs(jnp.diff(pose, axis=0)) / jnp.array([0.03, 0.03, 0.03, 0.2, 1 / 3])
    pace = prng.uniform(pace_key, (_FRAMES - 1,), minval=1.0, maxval=1.5)
    time = jnp.concatenate([jnp.zeros(1), jnp.cumsum(pace * step.max(-1) + 1.0)])
    return Plan(pose, time)


def plan_action(
    plan: Plan, clock: Float[Array, ""], gripper: Float[Array, "6"]
) -> Float[Array, "5"]:
    """Action towards the plan's pose one step after `clock`, in -1..1."""
    at = jax.vmap(lambda values: jnp.interp(clock + 1.0, plan.time, values), 1)
    aim = at(plan.pose)
    move = jnp.append(aim[:3] - gripper[:3], aim[3] - gripper[3])
    # Closing is relative to the current opening, so a grip needs a constant action.
    grip = jnp.where(aim[4] > 0.05, aim[4], -1.0)
    return jnp.clip(jnp.append(move, grip) / _SCALE, -1, 1)


def plan_is_over(plan: Plan, clock: Float[Array, ""]):
    """Whether the last keyframe has passed."""
    return clock >= plan.time[-1]
