"""What every token sees: measured influence against the rule in words.

The influence of token s on token t is the gradient of t's last hidden state by s's
input, through the whole decoder. It must be exactly zero where s may not be seen.
Tokens here are tuples: ("image", i), ("question", query or question, j), ("action",
t), ("answer", query, m).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_models import (
    ACTIONS,
    ANSWER,
    MICRO,
    QUERIES,
    QUESTION_LENGTHS,
    batch_of_queries,
    quick_jit,
)

from swm_jax.models import SemanticWorldModel, get_config


@functools.cache
def measured_influence(layout_name):
    """Matrix [target, source] of gradient sizes, and the layout's segments."""
    model = SemanticWorldModel(get_config("tiny", layout=layout_name, **MICRO))
    variables = {"params": quick_jit(model.init_params)(jax.random.key(0))}
    batch = batch_of_queries()

    def build(model, batch):
        return model.training_layout(batch, model.embed_image(batch.image)[0])

    layout = model.apply(variables, batch, method=build)
    names = tuple(layout)

    def run(tokens):
        def decode(model):
            segments = {
                name: dataclasses.replace(segment, tokens=tokens[name])
                for name, segment in layout.items()
            }
            return model.llm(segments, read=names)[0]

        hidden = model.apply(variables, method=decode)
        flat = jnp.concatenate([hidden[n].reshape(-1, 16) for n in names])
        return flat @ jax.random.normal(jax.random.key(1), (16,))

    tokens = {name: segment.tokens for name, segment in layout.items()}
    gradient = quick_jit(jax.jacrev(run))(tokens)
    count = sum(t.size // 16 for t in tokens.values())
    blocks = [jnp.abs(gradient[n]).reshape(count, -1, 16).sum(-1) for n in names]
    return np.concatenate(blocks, 1), layout


def segment_tokens(layout_name):
    """Names of all tokens in the order of the segments, and which are padding."""
    image = [("image", i) for i in range(4)]
    action = [("action", t) for t in range(ACTIONS)]
    answer = [("answer", r, m) for r in range(len(QUERIES)) for m in range(ANSWER)]
    owners = range(2 if layout_name == "branched" else len(QUERIES))
    question = [("question", q, j) for q in owners for j in range(3)]
    return [*image, *action, *question, *answer]


def is_padding(layout_name, token):
    if token[0] != "question":
        return False
    asked = token[1] if layout_name == "branched" else QUERIES[token[1]][0]
    return token[2] >= QUESTION_LENGTHS[asked]


def may_see(layout_name, target, source):
    if target == source:
        return True
    if is_padding(layout_name, source):
        return False
    if source[0] == "image":
        return True
    if target[0] == "image":
        return False
    if source[0] == "action":
        if target[0] == "action":
            return source[1] <= target[1]
        if target[0] == "question" and layout_name == "branched":
            return False
        return source[1] < QUERIES[target[1]][1]
    if target[0] == "action":
        return False
    if source[0] == "question":
        owner = target[1]
        if target[0] == "answer" and layout_name == "branched":
            owner = QUERIES[target[1]][0]
        return source[1] == owner
    return target[0] == "answer" and target[1] == source[1] and source[2] <= target[2]


@pytest.mark.parametrize("layout_name", ["branched", "block"])
def test_tokens_are_moved_by_exactly_what_they_may_see(layout_name):
    influence, layout = measured_influence(layout_name)
    assert list(layout) == ["image", "action", "question", "answer"]
    tokens = segment_tokens(layout_name)
    expected = np.array(
        [[may_see(layout_name, t, s) for s in tokens] for t in tokens], bool
    )
    assert influence.shape == expected.shape
    for t, s in np.argwhere((influence != 0.0) != expected):
        verb = "must" if expected[t, s] else "must not"
        pytest.fail(f"{tokens[t]} {verb} see {tokens[s]}: {influence[t, s]}")


def test_full_layout_is_a_bidirectional_prefix_with_a_causal_answer():
    influence, layout = measured_influence("full")
    assert list(layout) == ["answer"]
    length = 4 + ACTIONS + 1 + 3 + ANSWER
    influence = influence.reshape(len(QUERIES), length, len(QUERIES), length)
    newline = length - ANSWER
    for query, (asked, horizon) in enumerate(QUERIES):
        padding = [4 + t for t in range(horizon, ACTIONS)]
        padding += [9 + j for j in range(QUESTION_LENGTHS[asked], 3)]
        for target in range(length):
            for source in range(length):
                sees = source <= newline or source <= target
                sees = (sees and source not in padding) or source == target
                moved = influence[query, target, query, source] != 0.0
                assert moved == sees, (query, target, source)
        others = [r for r in range(len(QUERIES)) if r != query]
        assert not influence[query][:, others].any()


def test_image_states_depend_on_actions_in_the_full_layout_only():
    influence, _ = measured_influence("branched")
    assert (influence[:4, 4:] == 0.0).all()
    influence, _ = measured_influence("full")
    length = 4 + ACTIONS + 1 + 3 + ANSWER
    assert (influence[:4, 4:6] != 0.0).all()  # query 0 has horizon 2
    assert (influence[:4, 6:8] == 0.0).all()
    assert influence.shape[0] == len(QUERIES) * length


@pytest.mark.parametrize("scan", [True, False])
def test_segments_are_the_same_in_whatever_order_they_are_read(scan):
    sizes = {**MICRO, "scan": scan}
    model = SemanticWorldModel(get_config("tiny", layout="branched", **sizes))
    variables = {"params": quick_jit(model.init_params)(jax.random.key(0))}
    batch = batch_of_queries()

    def read(*names):
        def run(model):
            image = model.embed_image(batch.image)[0]
            return model.llm(model.training_layout(batch, image), read=names).hidden

        return model.apply(variables, method=run)

    alone = {**read("action"), **read("answer")}
    for names in (("action", "answer"), ("answer", "action")):
        together = read(*names)
        for name in names:
            np.testing.assert_allclose(together[name], alone[name], 2e-5, 1e-6)


def test_full_layout_counts_real_tokens_from_one():
    _, layout = measured_influence("full")
    positions = np.asarray(layout["answer"].positions)[0]
    asked, horizon = QUERIES[1]
    assert horizon == 0  # no action between image and bos
    real = [0, 1, 2, 3, 8, *range(9, 9 + QUESTION_LENGTHS[asked]), 12, 13]
    assert positions[1][real].tolist() == list(range(1, len(real) + 1))


def test_shared_layouts_stand_by_the_position_rule():
    _, layout = measured_influence("branched")
    wide = lambda name: np.asarray(layout[name].positions)
    assert wide("image").tolist() == [0, 1, 2, 3]
    assert wide("question").tolist() == [4, 5, 6]
    assert wide("action").tolist() == [8, 9, 10, 11]
    assert wide("answer")[0].tolist() == [[8 + h, 9 + h] for _, h in QUERIES]
