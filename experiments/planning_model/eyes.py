"""Eyes first: the image tower alone, on fresh rendered scenes.

    python -m experiments.planning_model.eyes --workdir DIR [--steps N] [--seed S]

Linear, zero-initialised read-outs of the normed patch features say which object owns
a patch and where that object lies; every object's place is also read as a vote: the
softmax over patches of its own logit, times the patches' places. Twins, the two blocks
of one colour, are told apart by a loss of their own. A step is a function of
(seed, step); a killed run goes on from its checkpoint when started again.

Axes: B images, P patches, K = 9 objects (the peg, then the slots).
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
from jaxtyping import Array, Float

from data_pipelines.pretraining import dense_targets
from data_pipelines.random_scenes import random_scenes
from experiments.planning_model.run_folder import load_state, save_state, write_row
from swm_jax.envs import BLOCK_SETS
from swm_jax.envs.render import render
from swm_jax.envs.scene import COLOUR_OF_BLOCK
from swm_jax.models import get_config
from swm_jax.models.preprocess import preprocess_image
from swm_jax.models.siglip import ImageTower
from swm_jax.training.optimizer import make_optimizer

BLOCKS = BLOCK_SETS["standard"]
OBJECTS = 1 + len(BLOCKS)
UNIT = 0.1  # metres
ORIGIN = np.float32([0.375, 0.0])  # middle of the board
HELD_OUT_SEED, HELD_OUT = 987_654, 16  # batches of scenes that no run trains on
_colour = COLOUR_OF_BLOCK[list(BLOCKS)]
# Object -> the other object of its colour; the peg has none and stands for itself.
TWIN = np.array(
    [0]
    + [
        1 + next(j for j in range(len(BLOCKS)) if j != i and _colour[j] == _colour[i])
        for i in range(len(BLOCKS))
    ]
)


def make_config() -> ml_collections.ConfigDict:
    """The recipe."""
    return ml_collections.ConfigDict(
        {
            "images": 32,
            "steps": 3000,
            "supersample": 2,
            "twin_weight": 1.0,
            "optimizer": {
                "name": "muon",
                "learning_rate": 6e-3,
                "warmup_steps": 100,
                "schedule": "cosine",
                "final_fraction": 0.02,
                "b1": 0.9,
                "b2": 0.98,
                "weight_decay": 1e-4,
                "clip_norm": 1.0,
            },
        }
    )


def init_heads(width: int) -> dict[str, Any]:
    """Zero read-outs of the patches: owner logits (bare first), then x and y."""
    zeros = jnp.zeros
    return {"kernel": zeros((width, OBJECTS + 3)), "bias": zeros(OBJECTS + 3)}


def read_patches(
    heads: dict[str, Any], features: Float[Array, "B P D"]
) -> tuple[Float[Array, "B P 10"], Float[Array, "B P 2"], Float[Array, "B 9 2"]]:
    """Owner logits, the owner's place and the objects' votes, in `UNIT`s."""
    out = features.astype(jnp.float32) @ heads["kernel"] + heads["bias"]
    logits, place = out[..., : OBJECTS + 1], out[..., OBJECTS + 1 :]
    votes = jnp.einsum("bpk,bpx->bkx", jax.nn.softmax(logits[..., 1:], 1), place)
    return logits, place, votes


def make_batch(key, config, model_config):
    """Pictures, owners [B, P] (0 bare, 1 peg, 2 + slot) and places [B, 9, 2]."""
    scene = random_scenes(key, config.images, BLOCKS)
    size = model_config.image_size
    image = render(scene, size, size, supersample=config.supersample)
    slots = jnp.broadcast_to(jnp.arange(len(BLOCKS)), scene.block_id.shape)
    dense = dense_targets(scene.replace(block_id=slots), size, model_config.patch_size)
    places = jnp.concatenate([scene.peg[:, None], scene.block_pose[..., :2]], 1)
    return image, dense.object_id, (places - ORIGIN) / UNIT


def eyes_loss(logits, place, votes, owner, places, twin_weight):
    """Owners, their places, votes and twins; covered and bare patches half each."""
    covered = (owner > 0).astype(jnp.float32)
    share = covered / jnp.maximum(covered.sum(), 1.0)
    bare = (1 - covered) / jnp.maximum((1 - covered).sum(), 1.0)
    classes = optax.softmax_cross_entropy_with_integer_labels(logits, owner)
    classes = (classes * (share + bare) * 0.5).sum()
    who = jnp.maximum(owner - 1, 0)
    target = jnp.take_along_axis(places, who[..., None], 1)
    own_place = (jnp.abs(place - target).sum(-1) * share).sum()
    vote = jnp.abs(votes - places).sum(-1).mean()
    is_block = (owner > 1).astype(jnp.float32)
    of = lambda k: jnp.take_along_axis(logits, (1 + k)[..., None], -1)[..., 0]
    confused = jax.nn.softplus(of(jnp.asarray(TWIN)[who]) - of(who))
    twin = (confused * is_block).sum() / jnp.maximum(is_block.sum(), 1.0)
    loss = classes + own_place + vote + twin_weight * twin
    return loss, {
        "classes": classes,
        "own_place": own_place,
        "vote": vote,
        "twin": twin,
    }


def measure(votes, places) -> dict[str, float]:
    """Euclidean errors of blocks in millimetres; the peg's apart."""
    votes, places = np.asarray(votes), np.asarray(places)
    error = np.linalg.norm(votes - places, axis=-1) * UNIT * 1e3
    blocks = error[:, 1:]
    large = blocks > 30
    # A large error is a twin's where the vote lies on the line to the twin.
    way = places[:, TWIN[1:]] - places[:, 1:]
    length = np.linalg.norm(way, axis=-1)
    off = votes[:, 1:] - places[:, 1:]
    along = (off * way).sum(-1) / np.maximum(length, 1e-6)
    across = np.sqrt(np.maximum((off**2).sum(-1) - along**2, 0))
    twin = large & (along > 0) & (across < 0.25 * along + 0.1)
    return {
        "mean_mm": blocks.mean(),
        "median_mm": np.median(blocks),
        "over_30mm": large.mean(),
        "twin_over_30mm": twin.mean(),
        "peg_mm": error[:, 0].mean(),
    }


def make_steps(config, model_config, seed: int):
    """Initial state, jitted step (state, number) and jitted held-out votes."""
    tower = ImageTower(model_config)
    optimizer, _ = make_optimizer(config.optimizer, config.steps)
    size = model_config.image_size
    see = lambda params, image: tower.apply(
        {"params": params["img"]}, preprocess_image(image, size)
    )[1]

    def init():
        image = jnp.zeros((1, size, size, 3))
        params = {
            "img": tower.init(jax.random.key(seed), image)["params"],
            "eyes": init_heads(model_config.vision_width),
        }
        return params, optimizer.init(params)

    @jax.jit
    def step(state, number):
        params, opt_state = state
        key = jax.random.fold_in(jax.random.key(seed), number)
        image, owner, places = make_batch(key, config, model_config)

        def loss_fn(params):
            out = read_patches(params["eyes"], see(params, image))
            return eyes_loss(*out, owner, places, config.twin_weight)

        (loss, parts), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), parts | {"loss": loss}

    @jax.jit
    def held_out(params, number):
        key = jax.random.fold_in(jax.random.key(HELD_OUT_SEED), number)
        image, _, places = make_batch(key, config, model_config)
        return read_patches(params["eyes"], see(params, image))[2], places

    return init, step, held_out


def validate(held_out, params) -> dict[str, float]:
    """`measure` over the held-out scenes."""
    pairs = [held_out(params, i) for i in range(HELD_OUT)]
    return measure(*(np.concatenate(x) for x in zip(*pairs)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning_rate", type=float)
    options = parser.parse_args()
    config, model_config = make_config(), get_config("tiny")
    config.steps = options.steps or config.steps
    if options.learning_rate:
        config.optimizer.learning_rate = options.learning_rate
    options.workdir.mkdir(parents=True, exist_ok=True)
    checkpoint = options.workdir / "state.npz"
    init, step, held_out = make_steps(config, model_config, options.seed)
    state, number = init(), 0
    if checkpoint.exists():
        number, state = load_state(checkpoint, state)
        print(f"resumed at step {number}", flush=True)
    began, first = time.time(), number
    while number < config.steps:
        state, parts = step(state, number)
        number += 1
        if number % 50 == 0:
            rate = (number - first) * config.images / (time.time() - began)
            row = {"step": number, **parts, "images_per_second": rate}
            if number % 250 == 0 or number == config.steps:
                row |= validate(held_out, state[0])
            write_row(options.workdir, row)
        if number % 250 == 0 or number == config.steps:
            save_state(checkpoint, number, state)


if __name__ == "__main__":
    main()
