"""The language of a world: its question types, in words, as arrays, and as truth.

    language = worlds.language("board")
    asked = language.question("block_region", "red moon", "top left")
    asked == language.parse("Is the red moon in the top left of the board?")
    language.margin(asked.type_id, np.array(asked.args), scene_0, scene_h)

A planner's goals are made of the same `Question` objects as the training data, so a
goal cannot be worded in a way that training never saw. Some wordings serve several
worlds ("Is the blue cube touching the green cube?"): which is meant is said by the
picture, and `parse` belongs to one language.

The rules run on numpy arrays (data loading) and on jax arrays (jit, vmap, gradients)
alike: whichever comes in goes out.

Axes: ... batch axes (scenes, horizons and questions broadcast), NQ questions of a
table.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array, Indices
from swm_jax.choices import known
from swm_jax.envs.scene import array_namespace
from swm_jax.models.types import MAX_ARGS
from swm_jax.questions import words
from swm_jax.questions.question import Question, check_on_board
from swm_jax.questions.types import QuestionType, answer_index


class QuestionTable(struct.PyTreeNode):
    """Questions in the form that rules read.

    Attributes:
      type_id: int32[NQ], ascending.
      args: int32[NQ, 3], as `Question.args`.
      language: whose questions they are.
    """

    type_id: Int[np.ndarray, " NQ"]
    args: Int[np.ndarray, "NQ 3"]
    language: "Language" = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return len(self.type_id)

    def question(self, index: int, phrasing: int = 0) -> Question:
        """Row `index` as a `Question`."""
        kind = self.language.kind(int(self.type_id[index]))
        return Question(kind, tuple(self.args[index]), phrasing)

    def texts(self) -> list[str]:
        """Every question in every wording (`Language.phrasings`), one by one."""
        phrasings = range(self.language.phrasings)
        return [self.question(i, p).text for i in range(len(self)) for p in phrasings]


@dataclasses.dataclass(frozen=True, eq=False)
class Language:
    """What can be asked about the scenes of a world.

    Attributes:
      name: of the world.
      types: by ascending id.
      points: (objects, robot) -> what rules read of a scene: poses float32[..., p] of
        the objects that a question names, and of the robot.
      robot: field of the scene with the robot's pose.
      pose: p, how many leading numbers of an object's pose rules read.
      axes: how many leading numbers of a pose are a position: 2 on a plane, 3 in space.
      objects: ids of all objects that the world may have.
      prompts: texts beside the questions that training shows.
    """

    name: str
    types: tuple[QuestionType, ...]
    points: Callable[[Sequence[Array], Array], Any]
    robot: str
    pose: int
    axes: int
    objects: tuple[int, ...]
    prompts: tuple[str, ...] = ()

    @functools.cached_property
    def by_name(self) -> dict[str, QuestionType]:
        """Types by their names."""
        return {kind.name: kind for kind in self.types}

    @functools.cached_property
    def by_id(self) -> dict[int, QuestionType]:
        """Types by their ids."""
        return {kind.id: kind for kind in self.types}

    def kind(self, which: str | int) -> QuestionType:
        """The type of a name or id.

        Raises:
          ValueError: there is none; suggests the nearest name.
        """
        if isinstance(which, str):
            return self.by_name[known("question type", which, self.by_name)]
        if which not in self.by_id:
            raise ValueError(f"no question type of the {self.name} has id {which}")
        return self.by_id[which]

    def select(self, names: Sequence[str] | None = None) -> tuple[QuestionType, ...]:
        """The types of these names by id; None for those that are asked by default.

        Raises:
          ValueError: an unknown name.
        """
        if names is None:
            return tuple(kind for kind in self.types if kind.by_default)
        wanted = {self.kind(name) for name in names}
        return tuple(kind for kind in self.types if kind in wanted)

    @property
    def phrasings(self) -> int:
        """Wordings that every type has."""
        return min(len(kind.wordings) for kind in self.types)

    def question(
        self,
        type: str,
        *names: str,
        phrasing: int = 0,
        on_board: Iterable[int] | None = None,
    ) -> Question:
        """A question from names, in the order of the arguments.

        `question("block_direction", "red moon", "blue cube", "up left")`; directions
        may be called "up left" or "top left".

        Args:
          type: name of one of `types`.
          *names: the word of each argument.
          phrasing: index of the wording.
          on_board: ids of the blocks on the table, to refuse questions about others.

        Raises:
          ValueError: an unknown type or name (with the nearest known one), the wrong
            number of names, or a block that is not on the board.
        """
        kind = self.kind(type)
        if len(names) != len(kind.args):
            takes = ", ".join(arg.kind for arg in kind.args) or "none"
            raise ValueError(
                f"{type} takes {len(kind.args)} names ({takes}), got {list(names)}"
            )
        values = [
            words.value_of(arg, name, self.types) for arg, name in zip(kind.args, names)
        ]
        result = Question(kind, tuple(values), phrasing)
        if on_board is not None:
            check_on_board(result, on_board)
        return result

    def parse(self, text: str) -> Question:
        """The question that `text` prints: the inverse of `Question.text`.

        Case, spaces and the question mark do not matter.

        Raises:
          ValueError: no wording fits; names the unknown word or the nearest wording.
        """
        kind, names, phrasing = words.read(text, self.types)
        return self.question(kind.name, *names, phrasing=phrasing)

    def table(
        self, object_ids: Indices, types: Sequence[str] | None = None
    ) -> QuestionTable:
        """Every question about the given objects, pairs in both orders.

        Eight blocks of the board have 849, four cubes 52.

        Args:
          object_ids: what is there.
          types: names of the types; None for those that are asked by default.
        """
        kinds = self.select(types)
        parts = [kind.rows(object_ids) for kind in kinds]
        ids = np.array([kind.id for kind in kinds], np.int32)
        type_id = np.repeat(ids, [len(part) for part in parts])
        return QuestionTable(type_id, np.concatenate(parts), self)

    def margin(
        self,
        type_id: Int[Array, "..."] | int,
        args: Int[Array, "... 3"],
        scene_0: Any,
        scene_h: Any,
    ) -> Float[Array, "..."]:
        """What the rule of every question says of a scene and a later one.

        Batch axes broadcast as in numpy: for scenes [B] and questions [B, Q] pass
        `expand(scene, 1)`; for scenes [S, N, K] and questions [S, Q] pass
        `expand(scene, 1)` and `type_id[:, None, None]`.

        Args:
          type_id, args: as of `Question`.
          scene_0: the scene where the actions begin.
          scene_h: the scene asked about.

        Returns:
          Metres: a signed margin, > 0 exactly when yes, or the value of a numeric
          type. NaN where a question names an object that is not there, or is of
          another language.
        """
        xp = array_namespace(type_id, args, scene_0.block_pose, scene_h.block_pose)
        # Only the types that occur, if that can be known.
        kinds = self.types
        if not isinstance(type_id, jax.Array):
            occurring = set(np.unique(type_id).tolist())
            kinds = tuple(kind for kind in kinds if kind.id in occurring)
        ids, args = xp.asarray(type_id), xp.asarray(args)
        columns = [args[..., i] for i in range(MAX_ARGS)]
        most = max((kind.objects for kind in kinds), default=0)
        found = [
            [find(scene, column, self.pose) for column in columns[:most]]
            for scene in (scene_0, scene_h)
        ]
        robots = getattr(scene_0, self.robot), getattr(scene_h, self.robot)
        shapes = [ids.shape, args.shape[:-1], *(x.shape[:-1] for x in robots)]
        result = xp.full(np.broadcast_shapes(*shapes), xp.nan, xp.float32)
        for kind in kinds:
            count = kind.objects
            now, then = (
                self.points([pose for pose, _ in each[:count]], robot)
                for each, robot in zip(found, robots)
            )
            value = kind.rule(now, then, *choices(kind, columns))
            for _, there in found[1][:count]:
                value = xp.where(there, value, xp.nan)
            result = xp.where(ids == kind.id, value, result)
        return result.astype(xp.float32)

    def answer(
        self,
        type_id: Int[Array, "..."] | int,
        args: Int[Array, "... 3"],
        scene_0: Any,
        scene_h: Any,
    ) -> Int[Array, "..."]:
        """Index of the true answer; arguments as for `margin`."""
        return self.index(type_id, self.margin(type_id, args, scene_0, scene_h))

    def index(
        self, type_id: Int[Array, "..."] | int, margin: Float[Array, "..."]
    ) -> Int[Array, "..."]:
        """Index of the answer to questions whose rules gave these margins."""
        xp = array_namespace(type_id, margin)
        edges = self.edges
        if not isinstance(type_id, jax.Array) and not self._numeric(type_id):
            edges = edges[:, :1]
        return answer_index(margin, xp.asarray(edges)[type_id])

    @functools.cached_property
    def edges(self) -> Float[np.ndarray, "ids edges"]:
        """Edges of the answer set of every id, filled up with infinity."""
        return edge_table(self.types)

    def _numeric(self, type_id) -> bool:
        occurring = np.unique(type_id).tolist()
        return any(self.by_id[i].answers.numeric for i in occurring if i in self.by_id)

    def places(
        self, type_id: Int[Array, "..."], args: Int[Array, "... 3"], scene: Any
    ) -> tuple[Float[Array, "... 3 axes"], Bool[Array, "... 3"]]:
        """Where a question's first object, second object and the robot are.

        Batch axes broadcast as for `margin`.

        Returns:
          Metres, and which of the three there are (the robot always).
        """
        xp = array_namespace(type_id, args, scene.block_pose)
        type_id, args = xp.asarray(type_id), xp.asarray(args)
        counts = np.zeros(self.types[-1].id + 1, np.int32)
        counts[list(self.by_id)] = [kind.objects for kind in self.types]
        named = xp.asarray(counts)[type_id]
        found = [find(scene, args[..., i], self.axes) for i in range(2)]
        has = [there & (named > i) for i, (_, there) in enumerate(found)]
        places = [place for place, _ in found]
        robot = getattr(scene, self.robot)[..., : self.axes]
        robot = xp.broadcast_to(robot, places[0].shape)
        mask = xp.stack([*has, xp.ones_like(has[0])], -1)
        return xp.stack([*places, robot], -2), mask

    def corpus(self, types: Sequence[str] = ()) -> list[str]:
        """Texts with all words of the language; see `words.corpus`."""
        return words.corpus((self,), types)

    def vocabulary(self, types: Sequence[str] = ()) -> tuple[str, ...]:
        """The distinct words of the language in alphabetical order, "?" among them."""
        return words.vocabulary((self,), types)


def edge_table(types: Sequence[QuestionType]) -> Float[np.ndarray, "ids edges"]:
    """Edges of the answer set of every id up to the last; infinity fills rows up."""
    widest = max(len(kind.answers.edges) for kind in types)
    edges = np.full((max(kind.id for kind in types) + 1, widest), np.inf, np.float32)
    for kind in types:
        edges[kind.id, : len(kind.answers.edges)] = kind.answers.edges
    return edges


def choices(kind: QuestionType, columns: Sequence[Array]) -> list[Array]:
    """The arguments of a type behind its objects, as rules index with them."""
    return [
        array_namespace(column).clip(column, 0, len(arg.names) - 1)
        for arg, column in zip(kind.args, columns)
        if not arg.is_object
    ]


def find(
    scene: Any, block: Int[Array, "..."], width: int
) -> tuple[Float[Array, "... width"], Bool[Array, "..."]]:
    """Leading numbers of the pose of the object with an id, and whether it is there."""
    xp = array_namespace(scene.block_pose, block)
    match = scene.block_id == xp.asarray(block)[..., None]
    # Not an index: a sum over the few slots batches and fuses better.
    pose = xp.where(match[..., None], scene.block_pose[..., :width], 0.0).sum(-2)
    return pose, match.any(-1)


def expand(scene: Any, axes: int = 1) -> Any:
    """Adds `axes` batch axes behind a scene's own, to broadcast with questions."""
    key = (slice(None),) * len(scene.batch_shape) + (None,) * axes
    return jax.tree.map(lambda x: x[key], scene)
