"""Draws of starts, questions and horizons of one image on the device.

The procedure is that of `saqa.sampler`, from the same tables (pools of starts, weights
that balance the answers) on the device. Functions whose names end in `_one` work on
one image; `jax.vmap` adds the batch axis.

Axes: M starts, N episodes, T actions of the longest, n questions by slot, P proposals,
Q questions, R queries, E extra horizons, K horizon buckets, C answers of the type that
has most.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int, Key

from data_pipelines.saqa.balance import KEEP_STILL
from data_pipelines.saqa.batch import PLANE
from data_pipelines.saqa.sampler import SPARE, wanted_answer
from data_pipelines.saqa.slots import name_objects
from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.envs import SceneFormat
from swm_jax.models import PAD_TOKEN, PlaceTargets
from swm_jax.questions import Language
from swm_jax.questions.types import answer_index


class Tables(struct.PyTreeNode):
    """Tables of a sampler on the device.

    Attributes:
      state: the arrays of the scenes by name, [N, T + 1, ...], or [N, ...] for fields
        stored once per episode; action: float32[N, T, A]; length: int32[N].
      episode, t: int32[M], the starts; horizon: int32[M, K], has: bool[M, types, K, C,
        2], as in `Pools`.
      anchor_cell: int32[cells, 4]; anchor_logit: float32[cells]; members: int32, the
        starts of all cells, one cell after the other, that begin at `first`.
      balance: weights that balance the answers, the fields of `Balance`.
      kind: int32[n], rows: int32[n, 3]: every question by slot, mirror twins once,
        with the index of its type.
      type_id: int32[types]; edges: float32[types, C - 1], of the answers.
      bucket: int32[H + 1], bucket of every horizon; cumulative: float32[H + 2],
        probability of all smaller horizons (`Horizons`).
      tokens: int32[NQ, phrasings, T]; token_row: int32[ids, args, args, args];
        answer_tokens: int32[ids, C, L], see `QuestionTokens`, `AnswerTokens`.
      language: of the questions.
      form: names of a scene's arrays and its constructor.
    """

    state: Mapping[str, Array]
    action: Float[Array, "N T A"]
    length: Int[Array, " N"]
    episode: Int[Array, " M"]
    t: Int[Array, " M"]
    horizon: Int[Array, "M K"]
    has: Bool[Array, "M types K C 2"]
    anchor_cell: Int[Array, "cells 4"]
    anchor_logit: Float[Array, " cells"]
    members: Int[Array, " total"]
    first: Int[Array, " bounds"]
    balance: Any
    kind: Int[Array, " n"]
    rows: Int[Array, "n 3"]
    type_id: Int[Array, " types"]
    edges: Float[Array, "types edges"]
    bucket: Int[Array, " horizons"]
    cumulative: Float[Array, " sums"]
    tokens: Int[Array, "NQ phrasings T"]
    token_row: Int[Array, "ids args args args"]
    answer_tokens: Int[Array, "ids C L"]
    language: Language = struct.field(pytree_node=False)
    form: SceneFormat = struct.field(pytree_node=False)


def parts_of(key: Key[jax.Array, "..."]) -> dict[str, Key[jax.Array, "..."]]:
    """Keys of the separate draws of an image, with the leading axes of `key`."""
    names = ("start", "kind", "choose", "horizon", "race", "words")
    split = lambda key: prng.split(key, len(names))
    for _ in range(key.ndim):
        split = jax.vmap(split)
    keys = split(key)
    return {name: keys[..., i] for i, name in enumerate(names)}


def draw_one(tables, key, config, longest, questions, queries):
    """Scene of one image, and its row of a `TrainBatch` without pixels, as a dict."""
    keys = parts_of(key)
    row, cell = start_one(tables, keys["start"], config)
    episode, t = tables.episode[row], tables.t[row]
    kind, k = _kinds_one(tables, keys["kind"], row, cell, questions)
    now_all, found = _choose_one(tables, keys["choose"], row, cell, kind, k, config)
    keep = _first_of_each(found) & (kind >= 0)
    # Stable sort: distinct questions first, in the order proposed.
    picked = jnp.argsort(~keep, stable=True)[:questions]
    valid = keep[picked]
    picked = jnp.where(valid, picked, picked[0])
    kind, k, found = kind[picked], k[picked], found[picked]
    h = _horizons_one(tables, keys["horizon"], row, kind, k, config.extra, longest)
    later = t + jnp.maximum(h, 0)
    value = _margins(tables, episode, t, later, found[:, None])
    answer, now = answer_index(value, tables.edges[kind][:, None]), now_all[found]
    usable = valid[:, None] & _first_of_each(h) & (h >= 0)
    best, query_valid = _race_one(
        tables, keys["race"], kind, h, answer, now, usable, queries
    )
    query_question, slot = best // h.shape[-1], best % h.shape[-1]
    clean = lambda x: jnp.where(query_valid, x, 0).astype(jnp.int32)
    query_question = clean(query_question)
    query_horizon = clean(h[query_question, slot])
    args, tokens = _words_one(
        tables, keys["words"], episode, kind, found, valid, config
    )
    query_type = tables.type_id[kind][query_question]
    places = None
    if tables.language.axes == PLANE:
        there = _scene(tables, episode, t + query_horizon)
        place, has = tables.language.places(query_type, args[query_question], there)
        places = PlaceTargets(mask=has & query_valid[:, None], place=place)
    said = tables.answer_tokens[query_type, clean(answer[query_question, slot])]
    mask = query_valid[:, None] & (said != PAD_TOKEN)
    after = t + jnp.arange(longest)
    inside = after < tables.length[episode]
    actions = tables.action[episode, jnp.minimum(after, tables.action.shape[1] - 1)]
    return _scene(tables, episode, t), {
        "actions": jnp.where(inside[:, None], actions, 0.0),
        "question_tokens": tokens,
        "question_mask": tokens != PAD_TOKEN,
        "query_question": query_question,
        "query_horizon": query_horizon,
        "answer_tokens": jnp.where(mask, said, PAD_TOKEN),
        "answer_mask": mask,
        "query_type": query_type,
        "places": places,
    }


def start_one(tables, key, config):
    """Row of the pools, and the cell [4] that it was drawn for (-1: none)."""
    any_key, cell_key, member_key, whether_key = prng.split(key, 4)
    row = prng.randint(any_key, (), 0, tables.t.shape[0])
    none = jnp.full(4, -1)
    if not tables.anchor_logit.shape[0]:
        return row, none
    cell = prng.categorical(cell_key, tables.anchor_logit)
    first, last = tables.first[cell], tables.first[cell + 1]
    member = tables.members[prng.randint(member_key, (), first, last)]
    anchored = prng.uniform(whether_key) < config.anchor_share
    return (
        jnp.where(anchored, member, row),
        jnp.where(anchored, tables.anchor_cell[cell], none),
    )


def _kinds_one(tables, key, row, cell, questions):
    """Types and buckets [P] of the proposals; the anchor comes first."""
    weights = _proposal_weights(tables.balance, tables.has[row])
    buckets = weights.shape[1]
    total = jnp.cumsum(weights.reshape(-1))
    possible = total[-1] > 0
    count = int(np.ceil(questions * SPARE)) + 1
    # Stratified: one draw in each P-th of the unit interval, in random order, so that
    # the numbers of types per image vary little.
    place_key, order_key = prng.split(key)
    u = (jnp.arange(count) + prng.uniform(place_key, (count,))) / count
    u = prng.permutation(order_key, u) * total[-1]
    found = jnp.searchsorted(total, u, side="right")
    found = jnp.minimum(found, weights.size - 1)
    kind = jnp.where(possible, found // buckets, -1)
    k = jnp.where(possible, found % buckets, 0)
    anchored = cell[0] >= 0
    kind = kind.at[0].set(jnp.where(anchored, cell[0], found[0] // buckets))
    return kind, k.at[0].set(jnp.where(anchored, cell[1], found[0] % buckets))


def _proposal_weights(balance, has):
    """`Balance.proposal_weights` of one start."""
    offered = has.any(-1)
    keep = jnp.where(offered, balance["keep_only"], 0.0).max(-1)
    keep = jnp.where(offered.sum(-1) > 1, 1.0, keep)
    still = ~has[..., 1].any(-1) & ~balance["is_change"][:, None]
    still = jnp.asarray(still).at[:, 0].set(False)  # at horizon 0 nothing can change
    return keep * balance["kind_weights"] * jnp.where(still, KEEP_STILL, 1.0)


def _choose_one(tables, key, row, cell, kind, k, config):
    """Answers now to all questions [n]; the question [P] of every proposal."""
    want_key, turn_key, hard_key, score_key = prng.split(key, 4)
    shape = kind.shape
    anchored = cell[0] >= 0
    u, offered = prng.uniform(want_key, shape), tables.has[row].any(-1)[kind, k]
    want = jnp.asarray(wanted_answer(u, tables.balance["want"][kind, k], offered))
    want = want.at[0].set(jnp.where(anchored, cell[2], want[0]))
    turn = prng.uniform(turn_key, shape) < config.change_share
    turn = turn.at[0].set(jnp.where(anchored, cell[3], turn[0]).astype(bool))
    hard = prng.uniform(hard_key, shape) < config.hard_share
    episode, t = tables.episode[row], tables.t[row]
    every, edges = jnp.arange(len(tables.kind)), tables.edges[tables.kind]
    now = answer_index(_margins(tables, episode, t, t, every), edges)
    later = t + jnp.maximum(tables.horizon[row], 0)
    value = jax.vmap(lambda at: _margins(tables, episode, t, at, every))(later)[k]
    answer = answer_index(value, edges)
    mine = tables.kind == kind[:, None]
    fits = mine & (answer == want[:, None])
    fits = jnp.where(fits.any(-1, keepdims=True), fits, mine)
    about_state = _about_state(tables, kind)[:, None]
    better = fits & ((answer != now) == turn[:, None]) & about_state
    fits = jnp.where(better.any(-1, keepdims=True), better, fits)
    score = prng.uniform(score_key, value.shape)
    # Nearest to a threshold, up to 1 cm of noise, so that one question of an image
    # is not drawn every time.
    near = 0.01 * score - jnp.abs(value[..., None] - edges).min(-1)
    score = jnp.where(hard[:, None], near, score)
    return now, jnp.where(fits, score, -jnp.inf).argmax(-1)


def _horizons_one(tables, key, row, kind, k, extra, longest):
    """First and extra horizons [Q, 1 + E], -1 where there is none."""
    room = tables.length[tables.episode[row]] - tables.t[row]
    least = (~_about_state(tables, kind)).astype(jnp.int32)[:, None]
    last = jnp.minimum(room, longest)
    low, high = tables.cumulative[least], tables.cumulative[last + 1]
    # Inverse transform, restricted to the horizons least..last.
    u = low + (high - low) * prng.uniform(key, (len(kind), extra))
    found = jnp.searchsorted(tables.cumulative, u, side="right") - 1
    found = jnp.clip(found, least, last)
    found = jnp.where(high > low + 1e-6, found, -1)
    return jnp.concatenate([tables.horizon[row, k][:, None], found], -1)


def _race_one(tables, key, kind, h, answer, now, usable, queries):
    """Indices [R] into Q x (1 + E) of the drawn queries, see `SaqaSampler._race`."""
    changed = _about_state(tables, kind)[:, None] & (answer != now[:, None])
    speed = tables.balance["query_weights"][
        kind[:, None],
        tables.bucket[jnp.maximum(h, 0)],
        answer,
        changed.astype(jnp.int32),
    ]
    time = prng.exponential(key, h.shape) / jnp.maximum(speed, 1e-6)
    time = time.at[:, 0].set(-1.0)
    time = jnp.where(usable, time, jnp.inf).reshape(-1)
    time = jnp.pad(time, (0, max(0, queries - len(time))), constant_values=jnp.inf)
    best = jnp.argsort(time)[:queries]
    valid = jnp.isfinite(time[best])
    return jnp.where(valid, best, 0), valid


def _words_one(tables, key, episode, kind, found, valid, config):
    """Arguments [Q, 3] by object id and tokens [Q, T] of the questions of an image."""
    swap_key, which_key, canonical_key = prng.split(key, 3)
    swap = prng.uniform(swap_key, kind.shape) < 0.5
    wordings = tables.language.phrasings
    phrasing = prng.randint(which_key, kind.shape, 1, wordings)
    canonical = prng.uniform(canonical_key, kind.shape) < config.canonical_share
    phrasing = jnp.where(canonical, 0, phrasing)
    # A padding question repeats the first, wording included.
    swap, phrasing = (jnp.where(valid, x, x[0]) for x in (swap, phrasing))
    ids, type_id = tables.state["block_id"][episode], tables.type_id[kind]
    ids = jnp.broadcast_to(ids, (*kind.shape, len(ids)))
    args = name_objects(tables.language, type_id, tables.rows[found], ids, swap)
    row = tables.token_row[(type_id, *(args.T + 1))]  # unused arguments are -1
    return args, tables.tokens[row, phrasing]


def _about_state(tables, kind: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Whether a type depends on the state at the horizon alone."""
    return ~tables.balance["is_change"][kind]


def _scene(tables, episode, t) -> Any:
    arrays = {}
    for name, field in tables.form.state.items():
        if field.per_frame:
            arrays[name] = tables.state[name][episode, t]
        else:
            once = tables.state[name][episode]
            arrays[name] = jnp.broadcast_to(once, (*jnp.shape(t), *once.shape))
    return tables.form.kind(**arrays)


def _margins(tables, episode, t, later, question) -> Float[Array, "..."]:
    """Margins of questions by slot at frames `later`; the arguments broadcast."""
    by_slot = lambda scene: scene.replace(
        block_id=jnp.broadcast_to(
            jnp.arange(scene.block_id.shape[-1]), scene.block_id.shape
        )
    )
    now = by_slot(_scene(tables, episode, t))
    then = by_slot(_scene(tables, episode, later))
    type_id = tables.type_id[tables.kind[question]]
    return tables.language.margin(type_id, tables.rows[question], now, then)


def _first_of_each(values: Int[Array, "... n"]) -> Bool[Array, "... n"]:
    """False where a value repeats an earlier one on the last axis."""
    same = values[..., :, None] == values[..., None, :]
    return ~jnp.tril(same, -1).any(-1)
