"""Domains: what a stored state holds, how wide an action is, what cannot be true.

Every source becomes episodes of one schema (`episodes`); the domain names the part
that differs between worlds. A domain with a scene has exact predicates; one without
gets its answers from a labeller (`labellers`).

    domain           state per frame                         action
    board            block_pose (8, 3), peg (2);             2, metres per step
                     block_id (8) once per episode
    cube             block_pose (n, 7), gripper (6);         5, of -1..1
                     block_id (n) once per episode
    language_table   effector (2), effector_target (2)       2, metres per step
    other            proprio (any width), or nothing         any width, own units
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.board.geometry import ACTION_LIMIT
from swm_jax.worlds.board.scene import Scene
from swm_jax.worlds.cube.scene import CubeScene

POLICIES = ("oracle", "noisy", "random", "contact", "smooth")  # of the board
CUBE_POLICIES = ("play", "noisy", "smooth")
_REACH = 1.0  # metres: a pose farther out than this is a simulation that blew up

# good?, what, value seen, value expected: raises a DataError when not good
Need = Callable[[bool, str, Any, Any], None]


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a state.

    Attributes:
      shape: without the frame axis; None stands for any size.
      dtype: numpy's name of it.
      per_frame: one value per frame, or one per episode.
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    per_frame: bool = True


@dataclasses.dataclass(frozen=True)
class Domain:
    """A world, or a kind of recording.

    Attributes:
      name: as stored in every episode.
      state: name -> field; all of them are there, unless `optional`.
      action_size: numbers per action; None takes what the data have.
      action_limit: largest absolute action; None for none.
      policies: who may have acted; None for anybody.
      optional: state fields may be missing.
      scene: builds the domain's scene from state arrays; None without predicates.
      check: raises through a `Need` what no shape can tell.
    """

    name: str
    state: Mapping[str, Field]
    action_size: int | None = None
    action_limit: float | None = None
    policies: tuple[str, ...] | None = None
    optional: bool = False
    scene: Callable[..., Any] | None = None
    check: Callable[[Mapping[str, np.ndarray], Need], None] | None = None


def _check_board(state: Mapping[str, np.ndarray], need: Need) -> None:
    ids = state["block_id"]
    known = ((ids >= 0) & (ids < len(BLOCK_NAMES))).all()
    need(known, "block_id", ids.tolist(), f"ids below {len(BLOCK_NAMES)}")
    need(len(set(ids.tolist())) == 8, "block_id", ids.tolist(), "8 different blocks")
    reach = np.abs(state["block_pose"][..., :2]).max()
    need(reach < _REACH, "farthest block", f"{reach:.2f} m", f"below {_REACH} m")


def _check_cube(state: Mapping[str, np.ndarray], need: Need) -> None:
    ids, pose = state["block_id"], state["block_pose"]
    known = ((ids >= 0) & (ids < len(BLOCK_NAMES))).all()
    need(known, "block_id", ids.tolist(), f"ids below {len(BLOCK_NAMES)}")
    different = len(set(ids.tolist())) == len(ids) >= 1
    need(different, "block_id", ids.tolist(), "different cubes")
    need(pose.shape[1] == len(ids), "cubes", pose.shape[1], len(ids))
    for name, place in (("cube", pose[..., :3]), ("gripper", state["gripper"][:, :3])):
        reach = np.abs(place).max()
        good = reach < 2 * _REACH
        need(good, f"farthest {name}", f"{reach:.2f} m", f"below {2 * _REACH} m")
    size = np.linalg.norm(pose[..., 3:], axis=-1)
    unit = (np.abs(size - 1) < 1e-3).all()
    need(unit, "length of a quaternion", size.reshape(-1)[size.argmax()], "1")


DOMAINS = {
    domain.name: domain
    for domain in (
        Domain(
            name="board",
            state={
                "block_pose": Field((8, 3)),
                "peg": Field((2,)),
                "block_id": Field((8,), "int32", per_frame=False),
            },
            action_size=2,
            action_limit=ACTION_LIMIT,
            policies=POLICIES,
            scene=Scene,
            check=_check_board,
        ),
        Domain(
            name="cube",
            state={
                "block_pose": Field((None, 7)),
                "gripper": Field((6,)),
                "block_id": Field((None,), "int32", per_frame=False),
            },
            action_size=5,
            action_limit=1.0,
            scene=CubeScene,
            check=_check_cube,
        ),
        Domain(
            name="language_table",
            state={"effector": Field((2,)), "effector_target": Field((2,))},
            action_size=2,
        ),
        Domain(name="other", state={"proprio": Field((None,))}, optional=True),
    )
}


def get_domain(name: str) -> Domain:
    """The domain of that name.

    Raises:
      ValueError: there is none; suggests the nearest.
    """
    if name not in DOMAINS:
        near = difflib.get_close_matches(name, DOMAINS, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"unknown domain '{name}'; {hint}known: {', '.join(DOMAINS)}")
    return DOMAINS[name]
