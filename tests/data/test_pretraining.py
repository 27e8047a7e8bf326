"""Rendered batches: what they name lies where the pixels show it."""

import functools

import jax
import numpy as np

from data_pipelines.batches.config import Data
from data_pipelines.batches.pretraining import make_sampler, named_objects
from swm_jax import worlds
from swm_jax.envs import BLOCK_NAMES
from swm_jax.models import Tokenizer, get_config
from swm_jax.worlds.board.random_scenes import random_scenes

BOARD = worlds.language("board")

MODEL = get_config("tiny")
TOKENS = Tokenizer.load("tiny")


@functools.cache
def sampler():
    return make_sampler(Data("rendered", images=4), MODEL, TOKENS)


def colour_centre(image, name):
    """Mean pixel of the block's hue in a frame, as shares of the image; slow."""
    pixels = image.astype(float)
    wanted = {"red": 0, "green": 1, "blue": 2}.get(name.split()[0])
    if wanted is None:
        mask = np.minimum(pixels[..., 0], pixels[..., 1]) > 1.5 * pixels[..., 2]
    else:
        others = np.delete(pixels, wanted, -1).max(-1)
        mask = pixels[..., wanted] > 1.5 * others
    rows, columns = np.nonzero(mask & (pixels.max(-1) > 60))
    return np.stack([columns, rows], -1) / len(image)


def test_names_are_found_at_their_last_token():
    texts = [
        "Is the red moon touching the blue cube?",
        "Does the peg touch the green star?",
        "Did the peg move?",
        "describe the top left of the board",
    ]
    named = named_objects(texts, TOKENS, 12)
    for text, row in zip(texts, named):
        words = text.replace("?", " ?").split()
        for t, found in enumerate(row):
            if found < 0:
                continue
            name = "peg" if found == len(BLOCK_NAMES) else BLOCK_NAMES[found]
            assert words[: t + 1][-len(name.split()) :] == name.split()
    assert [int((row >= 0).sum()) for row in named] == [2, 2, 1, 0]


def test_mentioned_blocks_lie_where_their_colour_is_seen():
    batch = jax.tree.map(np.asarray, sampler()(3, 0))
    checked = 0
    for b, r, t in np.argwhere(batch.mentions.mask):
        text = TOKENS.decode(batch.question_tokens[b, r, : t + 1])
        name = " ".join(text.split()[-2:])
        if name not in BLOCK_NAMES:
            continue  # the peg
        seen = colour_centre(batch.image[b], name)
        x, y = batch.mentions.centre[b, r, t]
        near = np.abs(seen - [x, y]).max(-1) < 0.035  # under half a block
        assert near.sum() >= 3, (name, x, y)
        checked += 1
    assert checked > 40


def test_places_of_touching_blocks_are_closer_than_the_threshold():
    checked = 0
    for step in range(3):
        batch = jax.tree.map(np.asarray, sampler()(5, step))
        for b, r in np.ndindex(*batch.query_type.shape):
            text = TOKENS.decode(batch.question_tokens[b, r])
            if not text.endswith("?"):
                continue
            asked, places = BOARD.parse(text), batch.places.place[b, r]
            has_second = asked.type.startswith("block") and len(asked.blocks) == 2
            assert batch.places.mask[b, r].tolist() == [True, has_second, True]
            said = TOKENS.decode(batch.answer_tokens[b, r, :1]) == "yes"
            if asked.type == "block_touching":
                assert said == (np.linalg.norm(places[0] - places[1]) < 0.05)
                checked += 1
            if asked.type == "peg_touching":
                assert said == (np.linalg.norm(places[0] - places[2]) < 0.05)
                checked += 1
    assert checked > 20


def test_random_scenes_use_every_key_once():
    with jax.debug_key_reuse(True):
        scene = random_scenes(jax.random.key(0), 2, tuple(range(8)))
    assert scene.block_pose.shape == (2, 8, 3)
