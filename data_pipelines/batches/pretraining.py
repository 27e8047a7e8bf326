"""Pre-training batches made on the device: rendered scenes with visual tasks.

PaliGemma's pre-training tasks on our scenes: detect an object (answer: location
tokens, row then column), describe a region (answer: the block that lies there), answer
questions about the state shown; dense targets for the vision tower; and the positions
of the objects that a question mentions. Every query has horizon 0, so actions are
zeros. A batch is a pure function of (seed, step).

Axes: B images, N questions about a scene that the grammar can ask, R = Q queries,
T question tokens, L = 2 answer tokens, P patches, h w pixels.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from data_pipelines.batches.config import Data
from data_pipelines.batches.query_types import DESCRIBE, DETECT
from swm_jax import prng
from swm_jax.arrays import Array, Indices
from swm_jax.envs import BLOCK_NAMES, SceneFormat
from swm_jax.models import (
    DenseTargets,
    MentionTargets,
    ModelConfig,
    ObjectTargets,
    PlaceTargets,
    Tokenizer,
    TrainBatch,
)
from swm_jax.models.ask import encode_answers
from swm_jax.models.objects import UNIT
from swm_jax.questions import YES_NO, expand
from swm_jax.worlds.board.questions import LANGUAGE
from swm_jax.worlds.board.random_scenes import random_scenes
from swm_jax.worlds.board.render.device import positions, render, segment
from swm_jax.worlds.board.scene import BLOCK_SETS, FORMAT, Scene
from swm_jax.worlds.board.words import (
    NOTHING,
    OBJECT_NAMES,
    REGION_POINTS,
    REGIONS,
    detection_prompt,
    region_prompt,
)

ANSWER_LENGTH = 2
_PEG = OBJECT_NAMES.index("peg")


def make_sampler(
    data: Data,
    model_config: ModelConfig,
    tokenizer: Tokenizer,
    rows: Indices | None = None,
) -> Callable[[int, int], TrainBatch]:
    """A function (seed, step) -> TrainBatch, one jitted program.

    Args:
      data: settings; its `rendered` has those of scenes and queries.
      model_config: image and patch size, T_max.
      tokenizer: of the model.
      rows: those of the B images that this host needs; all by default. The content
        of a row is the same for any choice.
    """
    config = data.rendered
    mine = slice(None) if rows is None else np.asarray(rows)
    blocks = np.array(BLOCK_SETS[config.block_set])
    states = [kind.name for kind in LANGUAGE.select() if not kind.about_change]
    table = LANGUAGE.table(blocks, states)
    type_id, args = table.type_id, table.args
    objects = np.array([*blocks, _PEG])
    wordings = LANGUAGE.phrasings
    texts = table.texts()
    texts += [detection_prompt(int(i)) for i in objects]
    texts += [region_prompt(i) for i in range(len(REGIONS))]
    tokens, mask = tokenizer.encode_batch(texts, model_config.max_question_tokens)
    used = int(mask.sum(1).max())  # trim to the longest wording: padding costs time
    tokens, mask = jnp.asarray(tokens[:, :used]), jnp.asarray(mask[:, :used])
    named = jnp.asarray(named_objects(texts, tokenizer, used))
    slot = jnp.full(len(OBJECT_NAMES), -1).at[objects].set(jnp.arange(len(objects)))
    named = jnp.where(named < 0, -1, slot[named])  # rows of `_object_places`
    first_detection = len(table) * wordings
    first_region = first_detection + len(objects)
    yes_no = jnp.asarray(encode_answers(tokenizer, YES_NO.answers))[:, 0]
    places = jnp.array([tokenizer.location_id(i) for i in range(config.location_bins)])
    names, names_mask = tokenizer.encode_batch([*BLOCK_NAMES, NOTHING], ANSWER_LENGTH)
    names, names_mask = jnp.asarray(names), jnp.asarray(names_mask)
    type_ids, arguments = jnp.asarray(type_id), jnp.asarray(args)
    size, count = model_config.image_size, data.rendered_images

    def ask(key: PRNGKeyArray, scene: Scene):
        """Questions about the state shown: token rows, answers, types, places."""
        choice_key, phrasing_key = prng.split(key)
        wide = expand(scene, 1)
        truth = LANGUAGE.margin(type_id, args, wide, wide) > 0
        chosen = _balanced_choice(choice_key, type_id, truth, config.present_questions)
        kind = type_ids[chosen]
        place, has = LANGUAGE.places(kind, arguments[chosen], wide)
        phrasing = prng.randint(phrasing_key, chosen.shape, 0, wordings)
        answer = yes_no[jnp.take_along_axis(truth, chosen, 1).astype(jnp.int32)]
        answer = jnp.stack([answer, jnp.zeros_like(answer)], -1)
        valid = jnp.broadcast_to(jnp.array([True, False]), answer.shape)
        row = chosen * wordings + phrasing
        return row, answer, valid, kind, place, has

    def detect(key: PRNGKeyArray, scene: Scene):
        """Detection queries; answers are (row, column) location tokens."""
        chosen = _some_of(key, count, len(objects), config.detections)
        place = jnp.take_along_axis(_object_places(scene), chosen[..., None], 1)
        bins = jnp.clip(place * len(places), 0, len(places) - 1).astype(jnp.int32)
        answer = places[bins[..., ::-1]]
        kind = jnp.full(chosen.shape, DETECT)
        block = jnp.minimum(chosen, len(blocks) - 1)  # the peg, last, is no block
        place, has = _places(block, chosen < len(blocks), scene)
        row = first_detection + chosen
        return row, answer, jnp.ones_like(answer, bool), kind, place, has

    def describe(key: PRNGKeyArray, scene: Scene):
        """Region queries; answers name the block nearest to a region's point."""
        chosen = _some_of(key, count, len(REGIONS), config.descriptions)
        points = jnp.asarray(REGION_POINTS)[chosen]
        offset = scene.block_pose[:, None, :, :2] - points[:, :, None]
        distance = jnp.linalg.norm(offset, axis=-1)
        nearest = jnp.asarray(blocks)[distance.argmin(-1)]
        there = distance.min(-1) < config.region_radius
        name = jnp.where(there, nearest, len(BLOCK_NAMES))
        kind = jnp.full(chosen.shape, DESCRIBE)
        place, has = _places(distance.argmin(-1), there, scene)
        return first_region + chosen, names[name], names_mask[name], kind, place, has

    @jax.jit
    def sample(seed: PRNGKeyArray, step: Int[Array, ""]) -> TrainBatch:
        key = prng.fold_in(seed, step)
        scene_key, *keys = prng.split(key, 4)
        scene = random_scenes(scene_key, count, tuple(blocks))
        parts = [f(k, scene) for f, k in zip((ask, detect, describe), keys)]
        row, answer, valid, kind, place, has = (
            jnp.concatenate(p, 1) for p in zip(*parts)
        )
        # Drawn for the whole batch, then cut: a row's draw depends on the others.
        scene, row, answer, valid, kind, place, has = jax.tree.map(
            lambda x: x[mine], (scene, row, answer, valid, kind, place, has)
        )
        queries = jnp.broadcast_to(jnp.arange(row.shape[1]), row.shape)
        slots = named[row]
        centre = jax.vmap(lambda places, i: places[i])(_object_places(scene), slots)
        dense = dense_targets(scene, size, model_config.patch_size, config.covered)
        objects = None
        if model_config.objects:
            objects = object_targets(scene, FORMAT, model_config, dense)
        return TrainBatch(
            image=render(scene, size, size, supersample=config.supersample),
            actions=jnp.zeros((len(row), 1, model_config.action_size)),
            question_tokens=tokens[row],
            question_mask=mask[row],
            query_question=queries,
            query_horizon=jnp.zeros_like(queries),
            answer_tokens=answer,
            answer_mask=valid,
            query_type=kind,
            dense=dense,
            mentions=MentionTargets(mask=slots >= 0, centre=centre),
            places=PlaceTargets(mask=has, place=place),
            objects=objects,
        )

    return lambda seed, step: sample(prng.key(seed), jnp.asarray(step, jnp.int32))


def named_objects(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    names: Sequence[str] = OBJECT_NAMES,
) -> Int[np.ndarray, "n length"]:
    """Index in `names` of the object whose name ends at each token, -1 elsewhere."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    named = np.full((len(texts), length), -1, np.int32)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text)
        for match in pattern.finditer(text):
            # Skip a name that ends inside a token, such as a plural.
            before = tokenizer.encode(text[: match.end()])
            if ids[: len(before)] == before:
                named[row, len(before) - 1] = names.index(match[0])
    return named


def dense_targets(scene: Scene, size: int, patch: int, covered: float) -> DenseTargets:
    """Object that owns each patch, and the image position of that object's centre.

    The object with the most pixels owns a patch if it covers the share `covered`:
    blocks are smaller than patches, so a majority rule would leave nearly all empty.

    Args:
      scene: leading axis B.
      size: pixels per side of the image.
      patch: pixels per side of a patch.
      covered: share of a patch's pixels that an object needs to own it.
    """
    side = size // patch
    labels = segment(scene, size, size)  # [B, h, w], 1 peg, 2 + slot a block
    pixels = labels.reshape(-1, side, patch, side, patch).transpose(0, 1, 3, 2, 4)
    pixels = pixels.reshape(-1, side * side, patch * patch)
    slots = scene.block_pose.shape[-2]
    share = jnp.stack([(pixels == 1 + i).mean(-1) for i in range(slots + 1)], -1)
    owner = share.argmax(-1)  # 0 the peg, 1 + slot a block
    owned = share.max(-1) > covered
    ids = jnp.concatenate([jnp.full_like(owner[:, :1], -1), scene.block_id], 1)
    places = positions(scene)
    object_id = jnp.take_along_axis(ids, owner, 1) + 2
    centre = jnp.take_along_axis(places, owner[..., None], 1)
    return DenseTargets(
        object_id=jnp.where(owned, object_id, 0),
        centre=jnp.where(owned[..., None], centre, 0.0),
    )


def object_targets(
    scene: Any, form: SceneFormat, c: ModelConfig, dense: DenseTargets | None = None
) -> ObjectTargets:
    """States of robot and objects in the image, and the owners of the patches.

    Args:
      scene: leading axis B, with as many objects as the model has tokens.
      form: format of the world's scenes.
      c: the model's config.
      dense: owners by block id; None leaves the patches without labels.

    Raises:
      ValueError: scenes of a world without `objects`, or with another number of them.
    """
    if form.objects is None:
        raise ValueError(
            f"scenes of the {form.domain} do not say where their objects are "
            "(`SceneFormat.objects`)"
        )
    place, yaw = form.objects(scene)
    if place.shape[-2] != c.objects:
        raise ValueError(
            f"the scenes have {place.shape[-2]} objects, robot included, and the model "
            f"has tokens for {c.objects}"
        )
    place = (place - jnp.array(c.object_origin)) / UNIT
    turn = jnp.stack([jnp.cos(yaw), jnp.sin(yaw)], -1)
    owner = None
    if dense is not None:
        # 2 + block id -> 2 + slot; bare patches and the robot's stay.
        slot = (dense.object_id[..., None] - 2 == scene.block_id[:, None]).argmax(-1)
        owner = jnp.where(dense.object_id > 1, 2 + slot, dense.object_id)
        owner = owner.astype(jnp.int32)
    return ObjectTargets(jnp.concatenate([place, turn], -1), owner)


def _object_places(scene: Scene) -> Float[Array, "B 9 2"]:
    """Image positions (x, y) in 0..1 of every block's centre, then the peg's foot."""
    return jnp.roll(positions(scene), -1, -2)


def _places(slot: Int[Array, "B n"], there: Bool[Array, "B n"], scene: Scene):
    """Place targets as of `Language.places`, for queries about one block or none."""
    block = jnp.take_along_axis(scene.block_pose[..., :2], slot[..., None], 1)
    peg = jnp.broadcast_to(scene.peg[:, None], block.shape)
    place = jnp.stack([block, jnp.zeros_like(block), peg], -2)
    mask = jnp.stack([there, jnp.zeros_like(there), jnp.ones_like(there)], -1)
    return place, mask


def _balanced_choice(
    key: PRNGKeyArray,
    type_id: Int[np.ndarray, " N"],
    truth: Bool[Array, "B N"],
    count: int,
) -> Int[Array, "B count"]:
    """Draws distinct questions per image, with every (type, answer) equally likely.

    Gumbel top-k, where a question weighs one over the size of its (type, answer)
    group in that image.
    """
    same_type = type_id[:, None] == np.unique(type_id)
    group = jax.nn.one_hot(truth.astype(jnp.int32), 2)[..., None, :]
    group = group * same_type[..., None]
    size = jnp.einsum("bntc,btc->bn", group, group.sum(1))
    noise = prng.gumbel(key, truth.shape)
    return jax.lax.top_k(noise - jnp.log(size), count)[1]


def _some_of(key: PRNGKeyArray, images: int, kinds: int, count: int):
    """int32[images, count], `count` distinct indices below `kinds` per image."""
    return jax.lax.top_k(prng.uniform(key, (images, kinds)), count)[1]
