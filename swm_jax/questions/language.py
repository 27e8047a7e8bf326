"""The language of a world: question types as words, arrays and rules.

    language = worlds.language("board")
    asked = language.question("block_region", "red moon", "top left")
    asked == language.parse("Is the red moon in the top left of the board?")
    language.margin(asked.type_id, np.array(asked.args), scene_0, scene_h)

Goals and training data are made of the same `Question` objects, so goals use only
wordings seen in training. Some wordings occur in several worlds ("Is the blue cube
touching the green cube?"); `parse` resolves them within one language.

Rules work on numpy arrays (data loading) and on jax arrays (jit, vmap, gradients), and
return the kind of their inputs.

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
from swm_jax.questions.types import QuestionType, answer_index, check_unique


class QuestionTable(struct.PyTreeNode):
    """A table of questions as arrays.

    Attributes:
      type_id: int32[NQ], ascending.
      args: int32[NQ, 3], as `Question.args`.
      language: language of the questions.
    """

    type_id: Int[np.ndarray, " NQ"]
    args: Int[np.ndarray, "NQ 3"]
    language: "Language" = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return len(self.type_id)

    def question(self, index: int, phrasing: int = 0) -> Question:
        """Row `index` as a `Question`; wordings are counted round."""
        kind = self.language.kind(int(self.type_id[index]))
        phrasing %= len(kind.wordings)
        return Question(kind, tuple(self.args[index]), phrasing)

    def texts(self) -> list[str]:
        """Every question in every wording (`Language.phrasings`), one by one."""
        phrasings = range(self.language.phrasings)
        return [self.question(i, p).text for i in range(len(self)) for p in phrasings]


@dataclasses.dataclass(frozen=True, eq=False)
class Language:
    """The question types of a world, with the fields of a scene that rules read.

    Attributes:
      name: of the world.
      types: by ascending id.
      points: (objects, robot) -> argument of the rules; `objects` are poses
        float32[..., p] of the objects named in a question, `robot` the robot's pose.
      robot: field of the scene with the robot's pose.
      pose: p, number of leading entries of an object's pose used by rules.
      axes: number of leading entries that are a position: 2 on a plane, 3 in space.
      objects: ids of all objects of the world.
      prompts: training texts other than questions.
    """

    name: str
    types: tuple[QuestionType, ...]
    points: Callable[[Sequence[Array], Array], Any]
    robot: str
    pose: int
    axes: int
    objects: tuple[int, ...]
    prompts: tuple[str, ...] = ()

    def __post_init__(self):
        check_unique(self.types)

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
          ValueError: unknown; the message suggests the nearest name.
        """
        if isinstance(which, str):
            return self.by_name[known("question type", which, self.by_name)]
        if which not in self.by_id:
            raise ValueError(f"no question type of the {self.name} has id {which}")
        return self.by_id[which]

    def select(self, names: Sequence[str] | None = None) -> tuple[QuestionType, ...]:
        """The types of these names by id; None for the default ones (`by_default`).

        Raises:
          ValueError: an unknown name.
        """
        if names is None:
            return tuple(kind for kind in self.types if kind.by_default)
        wanted = {self.kind(name) for name in names}
        return tuple(kind for kind in self.types if kind in wanted)

    @property
    def phrasings(self) -> int:
        """Wordings of the type that has most; types with fewer repeat theirs."""
        return max(2, *(len(kind.wordings) for kind in self.types))

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
          on_board: ids of the blocks on the table; None skips the check.

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
        """Parses a question; the inverse of `Question.text`.

        Case, spaces and the question mark are ignored.

        Raises:
          ValueError: no wording matches; the message has the unknown word or the
            nearest wording.
        """
        kind, names, phrasing = words.read(text, self.types)
        return self.question(kind.name, *names, phrasing=phrasing)

    def table(
        self, object_ids: Indices, types: Sequence[str] | None = None
    ) -> QuestionTable:
        """Every question about the given objects, pairs in both orders.

        Eight blocks of the board have 849, four cubes 52.

        Args:
          object_ids: ids of the objects in the scene.
          types: names of the types; None for the default ones.
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
        """Value of every question's rule, for a scene and a later one.

        Batch axes broadcast as in numpy: for scenes [B] and questions [B, Q] pass
        `expand(scene, 1)`; for scenes [S, N, K] and questions [S, Q] pass
        `expand(scene, 1)` and `type_id[:, None, None]`.

        Args:
          type_id, args: as of `Question`.
          scene_0: the scene before the actions.
          scene_h: the scene that the question is about.

        Returns:
          Metres: a signed margin, > 0 exactly when yes, or the value of a numeric
          type. NaN for questions about absent objects or of another language.
        """
        xp = array_namespace(type_id, args, scene_0.block_pose, scene_h.block_pose)
        # Evaluate only the types that occur; a traced type_id may be any.
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
        """Index of the answer for given rule values (from `margin`)."""
        xp = array_namespace(type_id, margin)
        # Yes/no types have one edge: skip the other columns where no type is numeric.
        edges = self.edges
        if not isinstance(type_id, jax.Array) and not self._numeric(type_id):
            edges = edges[:, :1]
        return answer_index(margin, xp.asarray(edges)[type_id])

    @functools.cached_property
    def edges(self) -> Float[np.ndarray, "ids edges"]:
        """Edges of the answer set of every type id, padded with infinity."""
        return edge_table(self.types)

    def _numeric(self, type_id) -> bool:
        occurring = np.unique(type_id).tolist()
        return any(self.by_id[i].answers.numeric for i in occurring if i in self.by_id)

    def places(
        self, type_id: Int[Array, "..."], args: Int[Array, "... 3"], scene: Any
    ) -> tuple[Float[Array, "... 3 axes"], Bool[Array, "... 3"]]:
        """Positions of a question's first object, second object and the robot.

        Batch axes broadcast as for `margin`.

        Returns:
          Positions in metres, and a mask of valid entries (the robot is always valid).
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
    """Edges of the answer sets, indexed by type id; rows padded with infinity."""
    widest = max(len(kind.answers.edges) for kind in types)
    edges = np.full((max(kind.id for kind in types) + 1, widest), np.inf, np.float32)
    for kind in types:
        edges[kind.id, : len(kind.answers.edges)] = kind.answers.edges
    return edges


def choices(kind: QuestionType, columns: Sequence[Array]) -> list[Array]:
    """The non-object arguments of a type, clipped to valid indices."""
    return [
        array_namespace(column).clip(column, 0, len(arg.names) - 1)
        for arg, column in zip(kind.args, columns)
        if not arg.is_object
    ]


def find(
    scene: Any, block: Int[Array, "..."], width: int
) -> tuple[Float[Array, "... width"], Bool[Array, "..."]]:
    """Leading entries of the pose of the object with an id, and its presence."""
    xp = array_namespace(scene.block_pose, block)
    match = scene.block_id == xp.asarray(block)[..., None]
    # A masked sum over the few slots batches and fuses better than a gather.
    pose = xp.where(match[..., None], scene.block_pose[..., :width], 0.0).sum(-2)
    return pose, match.any(-1)


def expand(scene: Any, axes: int = 1) -> Any:
    """Adds `axes` batch axes behind a scene's own, to broadcast with questions."""
    key = (slice(None),) * len(scene.batch_shape) + (None,) * axes
    return jax.tree.map(lambda x: x[key], scene)
