"""Answers of several tokens: cached passes against whole forwards, token by token."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from micro_models import MICRO, quick_jit
from micro_scoring import (
    ACTIONS,
    CANDIDATES,
    HORIZONS,
    LAYOUTS,
    QUESTIONS,
    SCENES,
    WINDOWED,
    case,
    plain_score,
    world_model,
)

from swm_jax.models import (
    SemanticWorldModel,
    Tokenizer,
    TrainBatch,
    VLMWorldModel,
    get_config,
)
from swm_jax.models.ask import answer_batch, encode_answers

CHOICES, LENGTH = 3, 4
# One, two and four tokens; two that begin alike; [S, Q, C, L].
IDS = np.array(
    [
        [
            [[5, 0, 0, 0], [5, 6, 0, 0], [9, 8, 7, 1]],
            [[7, 7, 7, 7], [7, 1, 0, 0], [6, 0, 0, 0]],
        ],
        [
            [[12, 3, 1, 0], [30, 0, 0, 0], [30, 1, 0, 0]],
            [[5, 6, 0, 0], [6, 5, 0, 0], [31, 31, 1, 0]],
        ],
    ],
    np.int32,
)
score = quick_jit(plain_score, static_argnums=(4, 5))


@functools.partial(quick_jit, static_argnums=(4,))
def written(model, observation, questions, actions, length, key=None, temperature=1.0):
    context = model.encode(observation, questions)
    return model.write(context, actions, HORIZONS, length, key, temperature)


@functools.cache
def training_forward(layout):
    return quick_jit(SemanticWorldModel(world_model(layout).config).apply)


def forced_log_probs(layout, inputs, answers):
    """[S, N, K, Q, C, L, V] by the training forward, one whole sequence a query.

    Args:
      layout: of the model.
      inputs: of `case`.
      answers: int[S, N, K, Q, C, L], what the model is made to say.
    """
    observation, questions, actions = inputs
    rows = SCENES * CANDIDATES
    repeat = lambda x: np.repeat(x, CANDIDATES, 0)
    queries = np.array(
        [
            (h, q)
            for h in HORIZONS
            for q in range(QUESTIONS)
            for _ in range(answers.shape[4])
        ],
        np.int32,
    )
    queries = np.broadcast_to(queries, (rows, *queries.shape))
    tokens = answers.reshape(*queries.shape[:2], -1)
    batch = TrainBatch(
        image=repeat(observation.image),
        actions=actions.reshape(rows, ACTIONS, 2),
        question_tokens=repeat(questions.tokens),
        question_mask=repeat(questions.mask),
        query_question=queries[..., 1],
        query_horizon=queries[..., 0],
        answer_tokens=tokens.astype(np.int32),
        answer_mask=np.ones(tokens.shape, bool),
        query_type=np.zeros(tokens.shape[:2], np.int32),
    )
    params = world_model(layout).params
    logits = training_forward(layout)({"params": params}, batch).logits
    logits = np.asarray(logits, np.float64).reshape(*answers.shape, -1)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def everywhere(ids):
    """Answers [S, Q, C, L] at every candidate and horizon."""
    shape = (SCENES, CANDIDATES, len(HORIZONS), *ids.shape[1:])
    return np.broadcast_to(ids[:, None, None], shape)


@pytest.mark.parametrize("layout", (*LAYOUTS, *WINDOWED))
def test_cached_answers_score_as_the_whole_forward_forced_to_say_them(layout):
    model, (observation, questions, actions) = world_model(layout), case()
    questions = dataclasses.replace(questions, answer_ids=IDS)
    inputs = observation, questions, actions
    said = everywhere(IDS)
    each = np.take_along_axis(
        forced_log_probs(layout, inputs, said), said[..., None], -1
    )[..., 0]
    expected = np.where(said != 0, each, 0.0).sum(-1)
    assert np.ptp(expected[..., 1] - expected[..., 2]) > 0.01  # not flat
    got = np.asarray(score(model, *inputs, HORIZONS, "vocabulary"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5)
    products = np.exp(np.where(said != 0, each, 0.0)).prod(-1)
    np.testing.assert_allclose(np.exp(got), products, rtol=5e-5)
    share = np.exp(np.asarray(score(model, *inputs, HORIZONS, "answers"), np.float64))
    np.testing.assert_allclose(share.sum(-1), 1.0, atol=1e-6)
    total = products.sum(-1, keepdims=True)
    np.testing.assert_allclose(share, products / total, rtol=1e-4)


@pytest.mark.parametrize("layout", (*LAYOUTS, "gemma3/branched"))
def test_greedy_text_is_that_of_a_loop_which_runs_everything_again(layout):
    model, inputs = world_model(layout), case()
    copies = (
        lambda x: np.broadcast_to(  # to share the compiled forward
            x[..., None, :], (*x.shape[:-1], CHOICES, x.shape[-1])
        )
    )
    shape = (SCENES, CANDIDATES, len(HORIZONS), QUESTIONS)
    tokens = np.zeros((*shape, LENGTH), np.int32)
    each = np.zeros((*shape, LENGTH))
    for step in range(LENGTH):
        log_probs = forced_log_probs(layout, inputs, copies(tokens))[..., 0, step, :]
        tokens[..., step] = log_probs.argmax(-1)
        each[..., step] = log_probs.max(-1)
    # Let the text end where the model most often says its second token.
    eos = np.bincount(tokens[..., 1].ravel()).argmax()
    ended = np.cumsum(tokens == eos, -1) - (tokens == eos) > 0
    tokens[ended], each[ended] = 0, 0.0
    complete = (tokens == eos).any(-1)
    model = model.replace(config=dataclasses.replace(model.config, eos_id=int(eos)))
    got = written(model, *inputs, LENGTH)
    np.testing.assert_array_equal(got.tokens, tokens)
    np.testing.assert_allclose(got.log_probs, each.sum(-1), atol=5e-5)
    np.testing.assert_array_equal(got.complete, complete)
    assert complete.any()
    if layout == "branched":
        one = written(model, *inputs, 1)
        np.testing.assert_array_equal(one.tokens, tokens[..., :1])


def test_one_token_answers_score_alike_with_and_without_a_length_axis():
    model, (observation, questions, actions) = world_model(), case()
    wide = dataclasses.replace(questions, answer_ids=questions.answer_ids[..., None])
    for kind in ("answers", "vocabulary"):
        np.testing.assert_allclose(
            score(model, observation, wide, actions, HORIZONS, kind),
            score(model, observation, questions, actions, HORIZONS, kind),
            atol=1e-5,
        )


def test_answers_come_out_the_same_in_passes_of_any_size():
    observation, questions, actions = case()
    inputs = observation, dataclasses.replace(questions, answer_ids=IDS), actions
    whole, parts = world_model(), world_model(per_pass=1)
    np.testing.assert_allclose(
        score(parts, *inputs, HORIZONS, "vocabulary"),
        score(whole, *inputs, HORIZONS, "vocabulary"),
        atol=1e-5,
    )
    for key in (None, jax.random.key(3)):
        left, right = (written(m, *inputs, LENGTH, key) for m in (whole, parts))
        np.testing.assert_array_equal(left.tokens, right.tokens)


def test_sampled_text_is_a_pure_function_of_the_key():
    model, inputs = world_model(), case()
    first, again, other = (
        written(model, *inputs, LENGTH, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.log_probs, again.log_probs)
    assert (first.tokens != other.tokens).any()
    cold = written(model, *inputs, LENGTH, jax.random.key(0), 1e-4)
    greedy = written(model, *inputs, LENGTH)
    np.testing.assert_array_equal(cold.tokens, greedy.tokens)
    np.testing.assert_allclose(cold.log_probs, greedy.log_probs, atol=1e-6)


def test_tokens_are_sampled_as_often_as_they_are_likely():
    model, (observation, questions, actions) = world_model(per_pass=4000), case()
    one = lambda x: x[:1, :1]
    observation = dataclasses.replace(observation, image=observation.image[:1])
    words = np.broadcast_to(np.arange(32, dtype=np.int32), (1, 1, 32))
    questions = dataclasses.replace(jax.tree.map(one, questions), answer_ids=words)
    scored = score(model, observation, questions, one(actions), (5,), "vocabulary")
    chances = np.exp(np.asarray(scored, np.float64)).ravel()
    same = np.broadcast_to(one(actions), (1, 3000, *actions.shape[2:]))
    drawn = written(model, observation, questions, same, 1, jax.random.key(0))
    for k in (2,):  # the horizon of 5
        counts = np.bincount(np.asarray(drawn.tokens)[0, :, k].ravel(), minlength=32)
        error = np.abs(counts / 3000 - chances)
        assert (error < 4 * np.sqrt(chances * (1 - chances) / 3000) + 1e-3).all()
    picked = np.log(chances)[np.asarray(drawn.tokens)[0, :, 2, 0, 0]]
    np.testing.assert_allclose(drawn.log_probs[0, :, 2, 0], picked, atol=1e-4)


@functools.cache
def talker():
    config = get_config(
        "tiny", **{**MICRO, "vocab_size": 512, "max_question_tokens": 16}
    )
    params = quick_jit(SemanticWorldModel(config).init_params)(jax.random.key(1))
    return VLMWorldModel(params, config)


def test_words_in_words_out():
    model, (observation, _, actions) = talker(), case()
    text = "Is the red moon touching the blue cube?"
    choices = ("red moon", "red", "the blue cube")
    heard = model.answer(observation.image[0], actions[0, 0], text, choices)
    assert tuple(heard.alternatives) == choices and heard.complete
    assert heard.probability == max(heard.alternatives.values())
    assert heard.alternatives[heard.text] == heard.probability
    np.testing.assert_allclose(sum(heard.alternatives.values()), 1.0, atol=1e-6)
    batch = answer_batch(
        model,
        observation.image,
        actions[:, 0],
        [[text, "Is the red moon touching the peg?"]] * 2,
        (0, 5),
        choices,
    )
    assert batch.texts.shape == (2, 2, 2)
    for choice, p in batch.at(0, 1, 0).alternatives.items():
        np.testing.assert_allclose(p, heard.alternatives[choice], atol=1e-6)


def test_written_answers_are_the_decoded_tokens():
    model, tokenizer = talker(), Tokenizer.load("tiny")
    observation, questions, _ = case()
    text = "Is the red moon touching the blue cube?"
    heard = model.answer(observation.image[0], [], text, None, length=3)
    tokens, mask = tokenizer.encode_batch([text], 16)
    one = dataclasses.replace(
        questions,
        tokens=tokens[None],
        mask=mask[None],
        answer_ids=questions.answer_ids[:1, :1],
    )
    seen = dataclasses.replace(observation, image=observation.image[:1])
    still = np.zeros((1, 1, 5, 2), np.float32)
    said = written(model, seen, one, still, 3)
    first = lambda x: np.asarray(x)[0, 0, 0, 0]  # the horizon 0
    assert heard.text == tokenizer.decode(first(said.tokens))
    np.testing.assert_allclose(
        heard.probability, np.exp(first(said.log_probs)), rtol=1e-4
    )
    assert heard.complete == first(said.complete)
    assert heard.alternatives == {heard.text: heard.probability}


def test_answer_sets_are_encoded_by_length_and_refused_by_name():
    tokenizer = Tokenizer.load("tiny")
    (no,), (yes,) = tokenizer.encode("no"), tokenizer.encode("yes")
    assert encode_answers(tokenizer, ("no", "yes")).tolist() == [[no], [yes]]
    assert encode_answers(tokenizer, ("no", "yes"), end=True).tolist() == [
        [no, 1],
        [yes, 1],
    ]
    red, moon = tokenizer.encode("red moon")
    several = encode_answers(tokenizer, ("red", "red moon"))
    assert several.tolist() == [[red, 1, 0], [red, moon, 1]]
    with pytest.raises(ValueError, match="'yes' and 'yes' are the same"):
        encode_answers(tokenizer, ("yes", "yes"))
    with pytest.raises(ValueError, match="at least one answer"):
        encode_answers(tokenizer, ())
    with pytest.raises(ValueError, match="has no token"):
        encode_answers(tokenizer, ("yes", ""))


def test_questions_that_do_not_fit_are_named():
    model, (observation, _, actions) = talker(), case()
    chunk, text = actions[:, 0], "Is the red moon touching the peg?"
    ask = functools.partial(answer_batch, model, observation.image)
    with pytest.raises(ValueError, match=r"horizons \(6,\) do not fit 5 actions"):
        ask(chunk, [[text]] * 2, (6,))
    with pytest.raises(ValueError, match=r"2 images, 2 chunks.* and 1 lists"):
        ask(chunk, [[text]], (5,))
    with pytest.raises(ValueError, match="1 and 2 questions"):
        ask(chunk, [[text], [text, text]], (5,))
    with pytest.raises(ValueError, match="list of questions per scene, got a text"):
        ask(chunk, [text, text], (5,))
    with pytest.raises(ValueError, match=r"action_size=2"):
        ask(chunk[..., :1], [[text]] * 2, (5,))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        ask(chunk, [[text]] * 2, (5,), None, temperature=0.0)
    with pytest.raises(ValueError, match="at least 1 token"):
        ask(chunk, [[text]] * 2, (5,), None, length=0)
