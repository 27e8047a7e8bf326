"""Dynamics in metres: the decoder trained on branches, eyes frozen and cached.

    python -m experiments.planning_model.dynamics --workdir RUN --eyes EYES --data ..

For one picture the image, the questions and eight "detect the red moon" prompts run
once; chunks branch off as in planning. Every answer is a target in words (yes or no,
half the weight on each per type) and in metres (its margin); every prompt's answer says
how far its block moves by the horizon, every action token how far each block and the
peg have moved by then. Half way up, the last token of a name says where its object is:
without that names stay unbound for hundreds of steps, so a short stage (`names`)
teaches it alone first. A step is a function of (seed, step); a killed run goes on.

Axes: S starts, N chunks, H steps, K horizons, Q questions, O objects asked about.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from data_pipelines.pretraining import named_objects
from data_pipelines.question_tokens import QuestionTokens
from experiments.planning_model.branches import CHUNKS, HORIZON
from experiments.planning_model.eyes import BLOCKS, OBJECTS, ORIGIN, UNIT
from experiments.planning_model.run_folder import load_state, save_state, write_row
from swm_jax.envs import Scene
from swm_jax.models import SemanticWorldModel, Tokenizer, get_config
from swm_jax.models import layout as layouts
from swm_jax.models.layers import rms_norm
from swm_jax.models.preprocess import preprocess_image
from swm_jax.models.siglip import ImageTower
from swm_jax.models.swm import Context
from swm_jax.questions import (
    ANSWERS,
    NUM_PHRASINGS,
    OBJECT_NAMES,
    detection_prompt,
    predicates,
    question_table,
)
from swm_jax.training.optimizer import make_optimizer

MOVED = 0.005  # metres beyond which a block counts as moved
STEP_UNIT = 0.02  # metres: errors below count squared, errors above linearly
MARGIN_LIMIT = 0.08  # metres, margins are bounded to it
TYPES = len(predicates.TYPES)


def make_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return ml_collections.ConfigDict(
        {
            "starts": 20,
            "chunks": 6,
            "questions": 2,
            "objects": 5,
            "proposed": 48,  # questions per start of which the best are asked
            "steps": 2500,
            "held_out": 2,  # shards, the first ones
            "planner_horizons": 0.7,  # share of steps that ask after 8 and 16
            "weights": {
                "answer": 1.0,
                "margin": 1.0,
                "object": 2.0,
                "action": 1.0,
                "mention": 1.0,
            },
            "names": {"steps": 160, "starts": 64, "learning_rate": 2e-3},
            "places": {"steps": 80, "starts": 64, "learning_rate": 2e-3},
            "optimizer": {
                "name": "muon",
                "learning_rate": 5e-4,
                "warmup_steps": 20,
                "schedule": "cosine",
                "final_fraction": 0.02,
                "b1": 0.9,
                "b2": 0.98,
                "weight_decay": 1e-4,
                "clip_norm": 1.0,
            },
        }
    )


def model_config():
    """`tiny` whose projector sees the sum of the actions."""
    return get_config("tiny", action_sum=True)


@struct.dataclass
class Data:
    """Branches of all shards, starts first; the fields of `branches.play`."""

    feature: Any
    pose: Any
    peg: Any
    chunk: Any
    moved: Any
    peg_moved: Any


def load_data(folders, shards: int, features) -> Data:
    """Shards of several folders in order, with the eyes' features.

    Args:
      folders: of branches; each gives up to `shards`.
      features: path of a shard -> float16[S, 64, 128].
    """
    parts = []
    for folder in folders:
        for path in sorted(Path(folder).glob("branches-*.npz"))[:shards]:
            with np.load(path) as file:
                fields = {k: file[k] for k in file.files if k != "image"}
            parts.append(Data(feature=features(path), **fields))
    if not parts:
        raise ValueError(f"no branches in {folders}")
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def make_features(eyes: Path, cache: Path):
    """A function from a shard's path to its features, kept in `cache`."""
    config = model_config()
    tower = ImageTower(config)
    params = load_eyes(eyes)["img"]
    see = jax.jit(
        lambda image: tower.apply(
            {"params": params}, preprocess_image(image, config.image_size)
        )[1].astype(jnp.float16)
    )
    cache.mkdir(parents=True, exist_ok=True)

    def features(path: Path):
        kept = cache / f"{path.parent.name}-{path.stem}.npy"
        if kept.exists():
            return np.load(kept)
        with np.load(path) as file:
            image = file["image"]
        found = np.concatenate(
            [see(image[i : i + 64]) for i in range(0, len(image), 64)]
        )
        partial = kept.with_suffix(".partial")
        with open(partial, "wb") as file:
            np.save(file, found)
        partial.rename(kept)
        return found

    return features


def load_eyes(folder: Path) -> dict[str, Any]:
    """Tower (`img`) and read-outs (`eyes`) of an eyes run."""
    from experiments.planning_model.eyes import make_config, make_steps

    init, *_ = make_steps(make_config(), get_config("tiny"), 0)
    return load_state(Path(folder) / "state.npz", jax.eval_shape(init))[1][0]


def init_heads(width: int) -> dict[str, Any]:
    """Zero read-outs of objects, margins, places and action tokens."""

    def head(outputs):
        return {"kernel": jnp.zeros((width, outputs)), "bias": jnp.zeros(outputs)}

    return {
        "object": head(5),  # place (x, y), displacement (x, y, yaw)
        "margin": head(1),
        "action": head(2 * len(BLOCKS) + 2),
        "mention": head(2),
    }


def read(head, x):
    """A linear read-out in float32."""
    return x.astype(jnp.float32) @ head["kernel"] + head["bias"]


def imagine(
    module: SemanticWorldModel,
    objects,
    feature: Float[Array, "S P D"],
    tokens: Int[Array, "S Q T"],
    mask,
    chunks: Float[Array, "S N H A"],
    horizons: Int[Array, " K"],
):
    """Hidden states of answers [S, N, K, Q, W] and of action tokens [S, N, H, W].

    Third, the states of the questions [S, Q, T, W] half way up.
    """
    image = project_image(module, objects, feature)
    context, middle = encode_with_middle(module, image, tokens, mask)
    layout = module.query_layout(context, chunks, horizons)
    out = module.llm(layout, context.cache, read=("answer", "action"))
    return out.hidden["answer"][..., -1, :], out.hidden["action"], middle


def project_image(module: SemanticWorldModel, objects, feature):
    """Image tokens of cached features, and one token per object behind them.

    An object's token is the mean of the patches' features under the softmax of the
    object's logit, projected as they are, plus an embedding that says which it is.
    """
    head, feature = module.img.head(), feature.astype(jnp.float32)
    logits = feature @ objects["kernel"] + objects["bias"]
    pooled = jnp.einsum("spk,spd->skd", jax.nn.softmax(logits, 1), feature)
    project = lambda x: x @ head["kernel"] + head["bias"]
    own = project(pooled) + objects["embedding"]
    return jnp.concatenate([project(feature), own], 1)


def look_up(module: SemanticWorldModel, objects, feature, tokens, mask):
    """States of the questions half way up."""
    image = project_image(module, objects, feature)
    return encode_with_middle(module, image, tokens, mask)[1]


def encode_tokens(module, image, tokens, mask) -> Context:
    """`SemanticWorldModel.encode` behind the tower."""
    return encode_with_middle(module, image, tokens, mask)[0]


def encode_with_middle(module, image, tokens, mask):
    """The same, and the states of the questions half way up."""
    rule, questions = module.config.positions, module.llm.embed(tokens)
    places = jnp.minimum(jnp.arange(image.shape[1]), rule.image_tokens - 1)
    layout = {
        "image": layouts.Segment("bi", image, places, (layouts.Sight("image", "b"),)),
        "question": layouts.question_segment(rule, questions, mask),
    }
    out = module.llm(layout, read=(), keep=tuple(layout), middle=("question",))
    answers = jnp.zeros((*tokens.shape[:2], 2), int)
    context = Context(None, questions, mask, answers, out.cache)
    return context, out.middle["question"]


@struct.dataclass
class Words:
    """Tokens of questions [NQ, phrasings, T] and prompts [8, T], yes and no.

    `question_names` and `prompt_names` have the slot (8: the peg) of the object whose
    name ends at each token, -1 elsewhere.
    """

    question: Any
    prompt: Any
    yes_no: Any
    question_names: Any
    prompt_names: Any
    prompt_length: int = struct.field(pytree_node=False, default=0)

    @classmethod
    def make(cls, tokenizer: Tokenizer, config) -> "Words":
        made = QuestionTokens.make(tokenizer, BLOCKS, config.max_question_tokens)
        texts = [detection_prompt(int(i)) for i in BLOCKS]
        prompt, _ = tokenizer.encode_batch(texts, made.tokens.shape[-1])
        yes_no = [tokenizer.answer_id(answer) for answer in ANSWERS]
        slots = np.full(len(OBJECT_NAMES) + 1, -1)  # the last one: no name
        slots[[*BLOCKS, OBJECT_NAMES.index("peg")]] = np.arange(len(BLOCKS) + 1)
        length = made.tokens.shape[-1]
        named = lambda texts: slots[named_objects(texts, tokenizer, length)]
        table = question_table(BLOCKS)
        spoken = [
            table.question(i, phrasing).text
            for i in range(len(table))
            for phrasing in range(NUM_PHRASINGS)
        ]
        names = named(spoken).reshape(made.tokens.shape)
        arrays = made.tokens, np.asarray(prompt), np.array(yes_no), names, named(texts)
        longest = int((np.asarray(prompt) > 0).sum(1).max())
        return cls(*(jnp.asarray(x, jnp.int32) for x in arrays), longest)


@struct.dataclass
class Batch:
    """What a step is about.

    Attributes:
      tokens: int32[S, Q + O, T], questions, then prompts; `names` as in `Words`.
      present: float32[S, 9, 2], where blocks and peg are, in `UNIT`s.
      margin: float32[S, N, K, Q], metres.
      type_id: int32[S, Q].
      place, moved: float32[S, N, K, O, ...], of the blocks asked about.
      action_moved: float32[S, N, H, 18], of all blocks, then the peg.
    """

    tokens: Any
    names: Any
    present: Any
    margin: Any
    type_id: Any
    place: Any
    moved: Any
    action_moved: Any
    chunk: Any
    horizons: Any
    feature: Any


def scene_after(data: Data, horizons: Int[Array, " K"]) -> Scene:
    """Scenes [S, N, K] after the horizons, 0 included."""
    pad = lambda x: jnp.pad(
        x.astype(jnp.float32), ((0, 0), (0, 0), (1, 0)) + ((0, 0),) * (x.ndim - 3)
    )[:, :, horizons]
    pose = data.pose[:, None, None] + pad(data.moved)
    peg = data.peg[:, None, None] + pad(data.peg_moved)
    ids = jnp.broadcast_to(jnp.asarray(BLOCKS), pose.shape[:-1])
    return Scene(block_pose=pose, block_id=ids, peg=peg)


def make_batch(key, data: Data, words: Words, config) -> Batch:
    """Chooses chunks, horizons, questions and objects for the starts of `data`."""
    keys = jax.random.split(key, 8)
    starts = data.peg.shape[0]
    order = jnp.argsort(jax.random.uniform(keys[0], (starts, CHUNKS)))
    order = order[:, : config.chunks]
    take = lambda x: jax.vmap(lambda rows, i: rows[i])(x, order)
    data = data.replace(
        chunk=take(data.chunk), moved=take(data.moved), peg_moved=take(data.peg_moved)
    )
    drawn = jax.random.randint(keys[1], (2,), 0, HORIZON + 1)
    usual = jax.random.uniform(keys[2]) < config.planner_horizons
    horizons = jnp.where(usual, jnp.array([HORIZON // 2, HORIZON]), drawn)
    after, now = scene_after(data, horizons), scene_after(data, jnp.zeros(1, int))
    # Questions: types alike often, preferred where chunks and horizons disagree.
    table = question_table(BLOCKS)
    first = jnp.asarray(np.searchsorted(table.type_id, np.arange(TYPES)))
    sizes = jnp.asarray(np.bincount(table.type_id, minlength=TYPES))
    kind = jax.random.randint(keys[3], (starts, config.proposed), 0, TYPES)
    within = jax.random.uniform(keys[4], kind.shape) * sizes[kind]
    row = first[kind] + within.astype(jnp.int32)
    args = jnp.asarray(table.args)[row]
    wide = lambda scene: predicates.expand(scene, 1)
    at = lambda x: x[:, None, None]
    margin = predicates.margin(at(kind), at(args), wide(now), wide(after))
    yes = (margin > 0).mean((1, 2))
    worth = 0.05 + yes * (1 - yes) + 0.1 * yes
    rank = jnp.log(worth) + jax.random.gumbel(keys[5], worth.shape)
    _, chosen = jax.lax.top_k(rank, config.questions)
    pick = lambda x: jnp.take_along_axis(x, chosen, 1)
    spoken = jax.random.randint(keys[6], chosen.shape, 0, NUM_PHRASINGS)
    spoken = jnp.where(jax.random.uniform(keys[6], chosen.shape) < 0.5, 0, spoken)
    tokens = words.question[pick(row), spoken]
    names = words.question_names[pick(row), spoken]
    if not config.questions:  # the prompts are shorter
        tokens, names = (x[..., : words.prompt_length] for x in (tokens, names))
    # Objects: those that some chunk moves come first.
    length = jnp.linalg.norm(data.moved[..., -1, :, :2].astype(jnp.float32), axis=-1)
    moves = (length > MOVED).any(1)
    rank = 3.0 * moves + jax.random.gumbel(keys[7], moves.shape)
    _, objects = jax.lax.top_k(rank, config.objects)
    wide = lambda x: x[objects][..., : tokens.shape[-1]]
    tokens = jnp.concatenate([tokens, wide(words.prompt)], 1)
    names = jnp.concatenate([names, wide(words.prompt_names)], 1)
    of = lambda x: jnp.take_along_axis(x, at(objects)[..., None], 3)
    place = of(after.block_pose)
    moved = place - of(now.block_pose)
    steps = data.moved[..., :2].astype(jnp.float32)
    steps = steps.reshape(*steps.shape[:3], -1)
    return Batch(
        tokens=tokens,
        names=names,
        present=present_places(data),
        margin=jnp.take_along_axis(margin, at(chosen), 3),
        type_id=pick(kind),
        place=(place[..., :2] - ORIGIN) / UNIT,
        moved=moved,
        action_moved=jnp.concatenate([steps, data.peg_moved.astype(jnp.float32)], -1),
        chunk=data.chunk,
        horizons=horizons,
        feature=data.feature,
    )


def present_places(data: Data):
    """Where blocks and peg are, [S, 9, 2] in `UNIT`s."""
    places = jnp.concatenate([data.pose[..., :2], data.peg[:, None]], 1)
    return (places - ORIGIN) / UNIT


def mention_loss(head, states, names, present):
    """Mean L1 distance, in `UNIT`s, of where the named objects are."""
    out = read(head, rms_norm(0.0, states))
    target = jax.vmap(lambda places, i: places[i])(present, jnp.maximum(names, 0))
    there = (names >= 0).astype(jnp.float32)
    distance = jnp.abs(out - target).sum(-1)
    return (distance * there).sum() / jnp.maximum(there.sum(), 1.0)


def huber(error):
    """Squared below one `STEP_UNIT`, linear above."""
    size = jnp.abs(error)
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5)


def halves(loss, moved):
    """Mean over the moved and mean over the others, half each."""
    moved = moved.astype(jnp.float32)
    mean = lambda w: (loss * w).sum() / jnp.maximum(w.sum(), 1.0)
    return 0.5 * mean(moved) + 0.5 * mean(1 - moved)


def answer_weights(type_id, yes):
    """float32[S, N, K, Q] that sum to 1: types alike, yes and no alike in each."""
    cell = jnp.broadcast_to(type_id[:, None, None], yes.shape) * 2 + yes
    hot = jax.nn.one_hot(cell, 2 * TYPES)
    count = hot.sum((0, 1, 2, 3))
    weight = (hot / jnp.maximum(count, 8.0)).sum(-1)  # of few, none weighs too much
    return weight / jnp.maximum(weight.sum(), 1e-6)


def losses(module, params, batch: Batch, words: Words, config):
    """The loss, and what is logged."""
    mask = batch.tokens > 0
    answers, actions, middle = module.apply(
        {"params": params["model"]},
        *(params["objects"], batch.feature, batch.tokens, mask),
        *(batch.chunk, batch.horizons),
        method=imagine,
    )
    heads, count = params["heads"], config.questions
    asked, prompts = answers[..., :count, :], answers[..., count:, :]
    rows = params["model"]["llm"]["embedder"]["input_embedding"]
    logits = asked @ rows.T
    yes = (batch.margin > 0).astype(jnp.int32)
    weight = answer_weights(batch.type_id, yes)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, words.yes_no[yes])
    answer = (entropy * weight).sum()
    right = logits[..., words.yes_no].argmax(-1) == yes
    bounded = jnp.clip(batch.margin, -MARGIN_LIMIT, MARGIN_LIMIT)
    margin = read(heads["margin"], asked)[..., 0] - bounded / STEP_UNIT
    margin = (huber(margin) * weight).sum()
    out = read(heads["object"], prompts)
    place = jnp.abs(out[..., :2] - batch.place).sum(-1).mean()
    error = out[..., 2:4] - batch.moved[..., :2] / STEP_UNIT
    turn = batch.moved[..., 2:]
    turned = huber(2 * (out[..., 4:] - jnp.clip(turn, -1.5, 1.5))).sum(-1)
    length = jnp.linalg.norm(batch.moved[..., :2], axis=-1)
    object_ = halves(huber(error).sum(-1) + turned, length > MOVED)
    step_error = read(heads["action"], actions) - batch.action_moved / STEP_UNIT
    pairs = step_error.reshape(*step_error.shape[:-1], -1, 2)
    size = batch.action_moved.reshape(pairs.shape)
    action = halves(huber(pairs).sum(-1), jnp.linalg.norm(size, axis=-1) > MOVED)
    w = config.weights
    loss = w.answer * answer + w.margin * margin + w.action * action
    mention = mention_loss(heads["mention"], middle, batch.names, batch.present)
    loss += w.object * (object_ + place) + w.mention * mention
    euclid = jnp.linalg.norm(error, axis=-1) * STEP_UNIT * 1e3
    is_moved = length > MOVED
    mean = lambda x, m: (x * m).sum() / jnp.maximum(m.sum(), 1)
    return loss, {
        "answer": answer,
        "accuracy": (right * weight).sum(),
        "margin": margin,
        "object": object_,
        "action": action,
        "mention_mm": mention * UNIT * 1e3,
        "place_mm": place * UNIT * 1e3,
        "moved_mm": mean(euclid, is_moved),
        "of_mm": mean(length, is_moved) * 1e3,
        "unmoved_mm": mean(euclid, ~is_moved),
    }


def make_steps(config, words: Words, seed: int):
    """Initial state, jitted step (state, data of the starts, number), held-out step."""
    shape = model_config()
    module = SemanticWorldModel(shape)
    optimizer, _ = make_optimizer(config.optimizer, config.steps)

    def init(found):
        """From an eyes run; image tokens begin with what its read-outs say."""
        params = dict(module.init_params(jax.random.key(seed)))
        known = found["eyes"]["kernel"].shape[1]
        kernel = (
            params["img"]["head"]["kernel"].at[:, :known].set(found["eyes"]["kernel"])
        )
        bias = params["img"]["head"]["bias"].at[:known].set(found["eyes"]["bias"])
        params["img"] = {**found["img"], "head": {"kernel": kernel, "bias": bias}}
        votes = slice(1, OBJECTS + 1)
        objects = {
            "kernel": found["eyes"]["kernel"][:, votes],
            "bias": found["eyes"]["bias"][votes],
            "embedding": jax.random.normal(
                jax.random.key(seed + 1), (OBJECTS, shape.width)
            ),
        }
        heads = init_heads(shape.width)
        params = {"model": params, "heads": heads, "objects": objects}
        return params, optimizer.init(_moving(params))

    @jax.jit
    def step(state, data, number):
        params, opt_state = state
        batch = make_batch(
            jax.random.fold_in(jax.random.key(seed), number), data, words, config
        )

        def loss_fn(moving):
            return losses(module, _join(moving, params), batch, words, config)

        moving = _moving(params)
        (loss, parts), gradient = jax.value_and_grad(loss_fn, has_aux=True)(moving)
        updates, opt_state = optimizer.update(gradient, opt_state, moving)
        params = _join(optax.apply_updates(moving, updates), params)
        return (params, opt_state), parts | {"loss": loss}

    @jax.jit
    def held_out(params, data, number):
        key = jax.random.fold_in(jax.random.key(seed + 1), number)
        batch = make_batch(key, data, words, config)
        return losses(module, params, batch, words, config)[1]

    return init, step, held_out


def _moving(params):
    """Everything but the tower, whose head moves."""
    model = {**params["model"], "img": {"head": params["model"]["img"]["head"]}}
    return {**params, "model": model}


def _join(moving, params):
    img = {**params["model"]["img"], **moving["model"]["img"]}
    return {**moving, "model": {**moving["model"], "img": img}}


def _rows(data: Data, rows) -> Data:
    return jax.tree.map(lambda x: x[rows], data)


def starts_of(seed: int, number: int, count: int, starts: int) -> np.ndarray:
    """Rows of step `number`: every epoch a new order."""
    place = number * starts + np.arange(starts)
    rows = np.empty(starts, int)
    for epoch in np.unique(place // count):
        order = np.random.default_rng([seed, int(epoch)]).permutation(count)
        here = place // count == epoch
        rows[here] = order[place[here] % count]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--eyes", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--init", type=Path, help="an earlier run or stage")
    sizes = ("starts", "chunks", "questions", "objects")
    for name in sizes:
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    config = make_config()
    for name in sizes:
        if getattr(options, name) is not None:
            config[name] = getattr(options, name)
    config.steps = options.steps or config.steps
    if options.learning_rate:
        config.optimizer.learning_rate = options.learning_rate
    options.workdir.mkdir(parents=True, exist_ok=True)
    shape = model_config()
    words = Words.make(Tokenizer.load(shape.tokenizer), shape)
    features = make_features(options.eyes, options.workdir / "features")
    data = load_data(options.data, options.shards, features)
    held = 256 * config.held_out
    test, data = _rows(data, slice(held)), _rows(data, slice(held, None))
    count = len(data.peg)
    print(f"{count} starts, {count * CHUNKS} chunks", flush=True)
    init, step, held_out = make_steps(config, words, options.seed)
    state, number = init(load_eyes(options.eyes)), 0
    checkpoint = options.workdir / "state.npz"
    if checkpoint.exists():
        number, state = load_state(checkpoint, state)
        print(f"resumed at step {number}", flush=True)
    elif options.init:
        found = load_initial(options.init, state)
        state = found, state[1]
    else:
        params = state[0]
        for stage in ("names", "places"):
            params = teach_names(params, data, words, config, options, stage)
        state = params, state[1]
    began, first = time.time(), number
    while number < config.steps:
        rows = starts_of(options.seed, number, count, config.starts)
        state, parts = step(state, _rows(data, rows), number)
        number += 1
        if number % 20 == 0:
            done = (number - first) * config.starts * config.chunks
            rate = done / (time.time() - began)
            row = {"step": number, **parts, "chunks_per_second": rate}
            if number % 200 == 0 or number == config.steps:
                row |= validate(held_out, state[0], test, config)
            write_row(options.workdir, row)
        if number % 100 == 0 or number == config.steps:
            save_state(checkpoint, number, state)


def load_initial(path: Path, state):
    """Parameters of another run (its folder) or of a stage (its file)."""
    if path.is_dir():
        return load_state(path / "state.npz", state)[1][0]
    return load_state(path, state[0])[1]


def teach_names(params, data: Data, words: Words, config, options, stage: str):
    """The stages before: where the named objects are.

    `names` reads it off the name's last token half way up, `places` off the answer to
    the prompt as well.
    """
    settings, kept = config[stage], options.workdir / f"{stage}.npz"
    if kept.exists():
        return load_state(kept, params)[1]
    module = SemanticWorldModel(model_config())
    rate = {
        "learning_rate": settings.learning_rate,
        "final_fraction": 0.1,
        "warmup_steps": 20,
    }
    optimizer, _ = make_optimizer(
        ml_collections.ConfigDict({**config.optimizer, **rate}), settings.steps
    )
    length = words.prompt_length
    tokens, names = words.prompt[:, :length], words.prompt_names[:, :length]

    @jax.jit
    def step(params, opt_state, feature, present):
        wide = lambda x: jnp.broadcast_to(x, (len(feature), *x.shape))
        texts = wide(tokens), wide(tokens > 0)

        def loss_fn(moving):
            joined = _join(moving, params)
            model, heads = {"params": joined["model"]}, joined["heads"]
            asked = joined["objects"], feature, *texts
            if stage == "names":
                states, place = module.apply(model, *asked, method=look_up), 0.0
            else:
                still = jnp.zeros((len(feature), 1, HORIZON, 2))
                horizons = jnp.arange(0, HORIZON + 1, HORIZON // 2)
                answers, _, states = module.apply(
                    model, *asked, still, horizons, method=imagine
                )
                out = read(heads["object"], answers[:, 0])[..., :2]
                here = present[:, None, : len(BLOCKS)]
                place = jnp.abs(out - here).sum(-1).mean()
            mention = mention_loss(heads["mention"], states, wide(names), present)
            return mention + place, (mention, place)

        moving = _moving(params)
        gradient, parts = jax.grad(loss_fn, has_aux=True)(moving)
        updates, opt_state = optimizer.update(gradient, opt_state, moving)
        return _join(optax.apply_updates(moving, updates), params), opt_state, parts

    opt_state, began = optimizer.init(_moving(params)), time.time()
    for number in range(settings.steps):
        rows = starts_of(options.seed + 1, number, len(data.peg), settings.starts)
        some = _rows(data, rows)
        present = present_places(some)
        params, opt_state, parts = step(params, opt_state, some.feature, present)
        if (number + 1) % 20 == 0:
            mention, place = (x * UNIT * 1e3 for x in parts)
            row = {f"{stage}_step": number + 1, "mention_mm": mention}
            row |= {"place_mm": place, "seconds": time.time() - began}
            write_row(options.workdir, row)
    save_state(kept, settings.steps, params)
    return params


def validate(held_out, params, test: Data, config) -> dict[str, float]:
    """Means over the held-out starts."""
    size = config.starts
    rows = [slice(i, i + size) for i in range(0, len(test.peg), size)]
    parts = [held_out(params, _rows(test, r), i) for i, r in enumerate(rows)]
    mean = jax.tree.map(lambda *x: float(np.mean(x)), *parts)
    return {f"held_{k}": v for k, v in mean.items()}


if __name__ == "__main__":
    main()
