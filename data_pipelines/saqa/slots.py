"""Questions whose arguments are slots of an episode in place of object ids.

Episodes with different objects share one table of questions per type this way
(`slot_questions`); `margins` evaluates it with the rules of the world's language.
Mirror twins ("a touches b", "b touches a") appear once; the sampler draws the order.

Axes: N episodes, T actions of the longest, s slots, n questions of a type.
"""

import functools
import types
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from swm_jax import worlds
from swm_jax.arrays import Array
from swm_jax.envs.scene import array_namespace
from swm_jax.questions import Language, QuestionType
from swm_jax.questions.language import choices
from swm_jax.questions.types import DIRECTION

_FEW = 64  # largest number of questions per frame whose margins are precomputed


@runtime_checkable
class Episodes(Protocol):
    """Interface of stored episodes; `schema.arrays.EpisodeArrays` implements it.

    Attributes:
      length: int[N], actions of each episode; it has one frame more.
      block_pose: float32[N, T + 1, s, 3 or 7], of the objects in s slots.
      peg: float32[N, T + 1, 2]; its name in a world is `Language.robot`.
      action: float32[N, T, A].
      block_id: int32[N, s].
    """

    @property
    def length(self) -> Int[np.ndarray, " N"]: ...
    @property
    def block_pose(self) -> Float[np.ndarray, "N frames s pose"]: ...
    @property
    def action(self) -> Float[np.ndarray, "N T A"]: ...
    @property
    def block_id(self) -> Int[np.ndarray, "N s"]: ...


def language_of(episodes: Episodes) -> Language:
    """The language of the world that episodes are of."""
    return worlds.language(getattr(episodes, "domain", worlds.DEFAULT))


@functools.cache
def slot_questions(kind: QuestionType, slots: int) -> Int[np.ndarray, "n 3"]:
    """Arguments of a type's questions with slots for object ids, mirror twins once."""
    rows = kind.rows(range(slots))
    return rows[rows[:, 0] < rows[:, 1]] if kind.symmetric else rows


def margins(
    episodes: Episodes,
    kind: QuestionType,
    rows: Int[np.ndarray, "... 3"],
    episode: Int[np.ndarray, "..."] | int,
    t: Int[np.ndarray, "..."] | int,
    later: Int[np.ndarray, "..."],
) -> Float[np.ndarray, "..."]:
    """Values of a type's rule at frames `later` of starts `t`, in metres.

    Args:
      episodes: stored poses.
      kind: question type.
      rows: arguments by slot; the leading axes of all arrays broadcast.
      episode, t, later: row of the episode, frame of the start, frame at the horizon.
    """
    columns = [rows[..., i] for i in range(rows.shape[-1])]
    table = getattr(episodes, "tables", {}).get(kind)
    if table is not None:
        return table[(episode, later, *columns[: len(kind.args)])]
    language = language_of(episodes)
    robot = getattr(episodes, language.robot)

    def points(frame):
        objects = [
            episodes.block_pose[episode, frame, slot, : language.pose]
            for slot in columns[: kind.objects]
        ]
        return language.points(objects, robot[episode, frame])

    now = points(t) if kind.about_change else None
    value = kind.rule(now, points(later), *choices(kind, columns))
    shape = np.broadcast_shapes(*(np.shape(x) for x in (columns[0], episode, later)))
    return np.broadcast_to(value, shape)


def with_tables(episodes: Episodes) -> Episodes:
    """Episodes with precomputed margins of questions about states, if these are few.

    A sampler evaluates each of them many times per frame, and the distance of two boxes
    is costly (15 separating axes). Four cubes have 36 such questions per frame, below
    the limit; the board has over 600.
    """
    language, slots = language_of(episodes), episodes.block_id.shape[-1]
    states = [kind for kind in language.select() if not kind.about_change]
    if sum(len(kind.rows(range(slots))) for kind in states) > _FEW:
        return episodes
    plain: Any = types.SimpleNamespace(
        domain=language.name,
        length=episodes.length,
        block_pose=episodes.block_pose,
        action=episodes.action,
        block_id=episodes.block_id,
        **{language.robot: getattr(episodes, language.robot)},
    )
    shape = episodes.block_pose.shape[:2]
    frames, tables = np.arange(shape[1])[:, None], {}
    for kind in states:
        rows = kind.rows(range(slots))
        size = [slots if arg.is_object else len(arg.names) for arg in kind.args]
        table = np.full((*shape, *size), np.nan, np.float32)
        columns = tuple(rows[:, i] for i in range(len(kind.args)))
        for e in range(shape[0]) if len(rows) else ():
            value = margins(plain, kind, rows, e, 0, frames)
            table[e][(slice(None), *columns)] = value
        tables[kind] = table
    plain.tables = tables
    return plain


def name_objects(
    language: Language,
    type_id: Int[Array, "..."],
    rows: Int[Array, "... 3"],
    block_id: Int[Array, "... s"],
    swap: Bool[Array, "..."],
) -> Int[Array, "... 3"]:
    """Arguments as in `Question.args`: object ids for slots, twins where `swap` is set.

    Args:
      language: of the questions.
      type_id, rows: questions by slot.
      block_id: object in each slot.
      swap: exchange the objects of symmetric types and reverse the direction, if there
        is one; no effect on other types.
    """
    xp = array_namespace(type_id, rows, block_id)
    objects, half = (xp.asarray(x)[type_id] for x in _facts(language))
    swap = swap & (half[..., 0] >= 0)
    first, second, third = (rows[..., i] for i in range(3))
    turned = (third + half[..., 0]) % xp.maximum(half[..., 1], 1)
    columns = (
        xp.where(swap, second, first),
        xp.where(swap, first, second),
        xp.where(swap & (half[..., 1] > 0), turned, third),
    )
    last = block_id.shape[-1] - 1
    named = [
        xp.take_along_axis(block_id, xp.clip(slot, 0, last)[..., None], -1)[..., 0]
        for slot in columns
    ]
    named = [xp.where(objects > i, x, columns[i]) for i, x in enumerate(named)]
    return xp.stack(named, -1).astype(xp.int32)


@functools.cache
def _facts(language: Language) -> tuple[np.ndarray, np.ndarray]:
    """Tables by type id: number of objects [ids], and for the mirror twin [ids, 2].

    The latter has half the number of directions and that number; (-1, 0) for types
    without a twin, (0, 0) for symmetric ones without a direction.
    """
    size = language.types[-1].id + 1
    objects = np.zeros(size, np.int32)
    half = np.full((size, 2), (-1, 0), np.int32)
    for kind in language.types:
        objects[kind.id] = kind.objects
        if kind.symmetric:
            ways = [len(arg.names) for arg in kind.args if arg.kind == DIRECTION]
            count = ways[0] if ways else 0
            half[kind.id] = count // 2, count
    return objects, half
