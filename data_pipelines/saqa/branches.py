"""Batches of several chunks per image, from episodes that are branches of one start.

Image and questions of a start run once for all of its chunks, in training as in
planning, so that dynamics see many chunks for the price of one image. A batch is a
function of (seed, step), drawn, labelled and rendered on the device by one jitted
program:

1. Starts, some of their branches, and horizons: those of planners, or any.
2. Questions, all types alike: for each a type and a wanted answer, and of several
   proposals preferably one to which chunks and horizons give that answer often.
3. Every query of the grid chunks x horizons x questions is answered, with a weight:
   types count alike in a batch, and so do the answers of a type.

Axes: B images, N chunks, G horizons, Q questions, P proposals for each, K objects.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from data_pipelines.batches.config import Data
from data_pipelines.batches.pretraining import named_objects, object_targets
from data_pipelines.saqa.horizons import Horizons, horizons_of
from data_pipelines.saqa.tokens import AnswerTokens
from data_pipelines.schema.episode import DataError
from swm_jax import prng, worlds
from swm_jax.arrays import Array, Indices
from swm_jax.models import (
    PAD_TOKEN,
    FutureTargets,
    MentionTargets,
    ModelConfig,
    Tokenizer,
    TrainBatch,
)
from swm_jax.questions import Language, expand

PROPOSED = 16  # for each question that is asked
_RARE = 0.1  # answers rarer than this share of an even one weigh no more than it


class Tables(struct.PyTreeNode):
    """Poses, chunks and questions on the device.

    Attributes:
      state: the arrays of the scenes by name, [N, T + 1, ...], or [N, ...] for fields
        stored once per episode; action: float32[N, T, A].
      type_id: int32[NQ], args: int32[NQ, 3], of all questions; first, size: int32 by
        type, its rows.
      tokens, named: int32[NQ, phrasings, T], words of each question, and the object
        (0 the robot, 1 + slot) whose name ends at a token, -1 elsewhere.
      answers: int32[ids, C, L], see `AnswerTokens`.
    """

    state: Mapping[str, Array]
    action: Float[Array, "N T A"]
    type_id: Int[Array, " NQ"]
    args: Int[Array, "NQ 3"]
    first: Int[Array, " types"]
    size: Int[Array, " types"]
    tokens: Int[Array, "NQ phrasings T"]
    named: Int[Array, "NQ phrasings T"]
    answers: Int[Array, "ids C L"]


@dataclasses.dataclass(frozen=True)
class BranchBatches:
    """Training batches by step: `batches(step)` is a `TrainBatch` of several chunks.

    Attributes:
      tables: on the device.
      world: name of the world.
      language: of the questions, with the types in use.
      horizons: probability of each horizon.
      config: sizes of a batch, questions.
      model: config of the model.
      branches: consecutive episodes that share their start.
      seed: of the stream, different for every split.
      rows: those of the B images that this host needs; None for all.
    """

    tables: Tables
    world: str
    language: Language
    horizons: Horizons
    config: Data
    model: ModelConfig
    branches: int
    seed: int
    rows: Int[np.ndarray, " n"] | None

    @classmethod
    def make(
        cls,
        episodes: Any,
        config: Data,
        tokenizer: Tokenizer,
        model_config: ModelConfig,
        *,
        seed: int,
        split: str = "train",
        rows: Indices | None = None,
    ) -> "BranchBatches":
        """Tokenises all questions and moves the tables to the device.

        Args:
          episodes: `EpisodeArrays` of a world, of which only the poses are used.
          seed, split, rows: as for `batches.stream.make_train_iterator`.

        Raises:
          DataError: episodes that are shorter than the model's chunk, no branches, or
            of several sets of objects.
        """
        generation = config.simulated.generation
        world = worlds.load(generation["world"])
        language = _language(world.language, config.saqa.types)
        if world.scene.objects is None:
            raise DataError(
                f"branches need to know where the objects of the {world.name} are "
                "(`SceneFormat.objects`)"
            )
        ids = np.asarray(episodes.block_id)
        steps = episodes.action.shape[1]
        if steps != model_config.max_horizon or (episodes.length != steps).any():
            raise DataError(
                f"branches need chunks of {model_config.max_horizon} actions, the "
                f"model's; set min_steps and max_steps of their generation to it"
            )
        if (ids != ids[0]).any():
            raise DataError("branches need the same objects in every episode")
        length = model_config.max_question_tokens
        tables = make_tables(episodes, language, tokenizer, length, config.answer_eos)
        return cls(
            tables,
            world.name,
            language,
            horizons_of(model_config.max_horizon, config.saqa.buckets),
            config,
            model_config,
            generation["branches"],
            2 * seed + (split != "train"),
            None if rows is None else np.asarray(rows),
        )

    def __call__(self, step: int) -> TrainBatch:
        """This host's rows of a step's batch."""
        return self._sample(self.tables, self.seed, step)

    def stream(self, start_step: int) -> Iterator[TrainBatch]:
        """The batches from a step on."""
        return map(self, itertools.count(start_step))

    def examples(self, step: int) -> list[dict[str, Any]]:
        """Episodes (branches) of each row of a step's global batch."""
        key = prng.fold_in(prng.key(self.seed), step)
        episodes, _ = self._starts(key, len(self.tables.action))
        return [{"episodes": row.tolist(), "t": 0} for row in np.asarray(episodes)]

    def _starts(self, key, count):
        """Rows [B, N] of the branches, and horizons [B, G]."""
        start_key, branch_key, pick_key, draw_key = prng.split(key, 4)
        simulated, images = self.config.simulated, self.config.images
        shape = images, simulated.horizons
        start = prng.randint(start_key, (images, 1), 0, count // self.branches)
        order = prng.uniform(branch_key, (images, self.branches))
        chosen = jnp.argsort(order)[:, : simulated.chunks]
        weights = jnp.asarray(self.horizons.weights, jnp.float32)
        drawn = prng.choice(draw_key, len(weights), shape, p=weights)
        planner = (0, *self.horizons.planner)[-simulated.horizons :]
        planned = jnp.resize(jnp.array(planner), shape)
        usual = prng.uniform(pick_key, (images, 1)) < simulated.planner_share
        horizons = jnp.where(usual, planned, drawn).astype(jnp.int32)
        return start * self.branches + chosen, horizons

    @functools.cached_property
    def _sample(self) -> Callable[..., TrainBatch]:
        """(tables, seed, step) -> the batch, one jitted program."""
        world = worlds.load(self.world)
        mine = slice(None) if self.rows is None else self.rows
        size, supersample = self.model.image_size, self.config.simulated.supersample

        @jax.jit
        def sample(tables: Tables, seed: Int[Array, ""], step: Int[Array, ""]):
            key = prng.fold_in(prng.key(seed), step)
            now, batch = self._label(tables, key)
            # Drawn for the whole batch, then cut: weights depend on all of it.
            now, batch = jax.tree.map(lambda x: x[mine], (now, batch))
            image = world.render.device(now, size, size, supersample=supersample)
            return TrainBatch(image=image, **batch)

        return sample

    def _label(self, tables: Tables, key) -> tuple[Any, dict[str, Any]]:
        """Scenes of the images, and the fields of a batch without pixels."""
        form, language = worlds.load(self.world).scene, self.language
        question_keys = prng.split(prng.fold_in(key, 1), 5)
        episodes, horizons = self._starts(key, len(tables.action))
        images, chunks = episodes.shape

        def scene(episode, frame):
            arrays = {}
            for name, field in form.state.items():
                x = tables.state[name]
                arrays[name] = x[episode, frame] if field.per_frame else x[episode]
            return form.kind(**arrays)

        now = scene(episodes[:, 0], jnp.zeros(images, jnp.int32))
        count = horizons.shape[1]
        wide = lambda x: jnp.broadcast_to(x, (images, chunks, count))
        after = scene(wide(episodes[..., None]), wide(horizons[:, None]))

        row, want = self._propose(question_keys[:3], tables, images)
        at = lambda x: x[:, None, None]  # [B, Q] -> [B, 1, 1, Q]
        # All proposals are answered, and of each question's one is kept.
        flat = row.reshape(images, -1)
        kind, args = tables.type_id[flat], tables.args[flat]
        scenes = expand(now, 3), expand(after)
        margin = language.margin(at(kind), at(args), *scenes)
        answer = language.index(at(kind), margin)
        answer = answer.reshape(images, chunks, count, *row.shape[1:])
        fits = (answer == at(want)[..., None]).mean((1, 2))  # [B, Q, P]
        best = prng.categorical(question_keys[3], jnp.log(fits + 1e-3))
        row = jnp.take_along_axis(row, best[..., None], 2)[..., 0]
        answer = jnp.take_along_axis(answer, at(best)[..., None], 4)[..., 0]
        kind = tables.type_id[row]
        weight = self._weights(tables, kind, answer, horizons)

        phrasing = _phrasing(question_keys[4], row, language, self.config)
        tokens, named = tables.tokens[row, phrasing], tables.named[row, phrasing]
        flat = lambda x: jnp.broadcast_to(x, answer.shape).reshape(images, -1)
        said = tables.answers[at(kind), answer].reshape(*flat(answer).shape, -1)
        mask = said != PAD_TOKEN
        mentions = None
        positions = worlds.load(self.world).render.positions
        if positions is not None:
            places = positions(now)
            centre = jax.vmap(lambda places, i: places[i])(
                places, jnp.maximum(named, 0)
            )
            mentions = MentionTargets(mask=named >= 0, centre=centre)
        assert form.objects is not None  # `make` refuses such worlds
        place, yaw = form.objects(expand(now, 2))
        later, later_yaw = form.objects(after)
        turn = later_yaw - yaw
        turned = jnp.arctan2(jnp.sin(turn), jnp.cos(turn))
        objects = object_targets(now, form, self.model) if self.model.objects else None
        return now, {
            "actions": tables.action[episodes],
            "question_tokens": tokens,
            "question_mask": tokens != PAD_TOKEN,
            "query_question": flat(jnp.arange(row.shape[1])),
            "query_horizon": flat(horizons[:, None, :, None]),
            "answer_tokens": said,
            "answer_mask": mask,
            "query_type": flat(at(kind)),
            "query_weight": flat(weight),
            "horizons": horizons,
            "mentions": mentions,
            "objects": objects,
            "futures": FutureTargets(later - place, turned),
        }

    def _propose(self, keys, tables: Tables, images: int):
        """Rows [B, Q, P] of proposed questions, P of one type each; answers wanted."""
        shape = images, self.config.questions
        sizes = jnp.array([len(each.answers) for each in self.language.types])
        kind = prng.randint(keys[0], shape, 0, len(sizes))
        within = prng.uniform(keys[1], (*shape, PROPOSED))
        within = (within * tables.size[kind][..., None]).astype(jnp.int32)
        want = prng.uniform(keys[2], shape) * sizes[kind]
        return tables.first[kind][..., None] + within, want.astype(jnp.int32)

    def _weights(self, tables, kind, answer, horizons) -> Float[Array, "B N G Q"]:
        """Weights of the queries: types alike, and the answers of each.

        Whether something changes without an action is not asked: weight 0.
        """
        types = tables.type_id[tables.first]
        index = (kind[..., None] == types).argmax(-1)
        index = jnp.broadcast_to(index[:, None, None], answer.shape)
        sizes = jnp.array([len(each.answers) for each in self.language.types])
        widest = max(len(each.answers) for each in self.language.types)
        change = jnp.array([each.about_change for each in self.language.types])
        asked = ~(change[index] & (horizons[:, None, :, None] == 0))
        count = jnp.zeros((len(sizes), widest)).at[index, answer].add(asked)
        even = count.sum(-1, keepdims=True) / sizes[:, None]
        weight = 1.0 / jnp.maximum(count, jnp.maximum(_RARE * even, 1.0))
        # Mean of 1, so that the loss is that of a batch without weights.
        weight = jnp.where(asked, weight[index, answer], 0.0)
        return weight / weight.mean()


def make_tables(
    episodes: Any, language: Language, tokenizer: Tokenizer, length: int, eos: bool
) -> Tables:
    """Tables of episodes and of all questions about their objects.

    Args:
      length: largest number of tokens of a question.
      eos: the end token is part of every answer.

    Raises:
      ValueError: a question with more tokens, or with an unknown word.
    """
    ids = np.asarray(episodes.block_id)[0]
    table = language.table(ids)
    texts = table.texts()
    tokens, mask = tokenizer.encode_batch(texts, length)
    used = int(mask.sum(1).max())  # trim to the longest wording: padding costs time
    of_objects = [arg for kind in language.types for arg in kind.args if arg.is_object]
    names = [language.robot, *(of_objects[0].names[i] for i in ids)]
    named = named_objects(texts, tokenizer, used, names)
    shape = (len(table), language.phrasings, used)
    kinds = np.array([kind.id for kind in language.types])
    state = {
        name: jnp.asarray(getattr(episodes, name))
        for name in worlds.load(language.name).scene.state
    }
    return Tables(
        state=state,
        action=jnp.asarray(episodes.action, jnp.float32),
        type_id=jnp.asarray(table.type_id, jnp.int32),
        args=jnp.asarray(table.args, jnp.int32),
        first=jnp.asarray(np.searchsorted(table.type_id, kinds), jnp.int32),
        size=jnp.asarray([(table.type_id == k).sum() for k in kinds], jnp.int32),
        tokens=jnp.asarray(tokens[:, :used], jnp.int32).reshape(shape),
        named=jnp.asarray(named, jnp.int32).reshape(shape),
        answers=jnp.asarray(AnswerTokens.make(tokenizer, eos, language.types).tokens),
    )


def _language(language: Language, types: Any) -> Language:
    """The language with the types in use alone."""
    own = tuple(name for name in types or () if name in language.by_name) or None
    return dataclasses.replace(language, types=language.select(own))


def _phrasing(key, row, language: Language, config: Data) -> Int[Array, "B Q"]:
    which, canonical = prng.split(key)
    phrasing = prng.randint(which, row.shape, 1, language.phrasings)
    plain = prng.uniform(canonical, row.shape) < config.saqa.canonical_share
    return jnp.where(plain, 0, phrasing)
