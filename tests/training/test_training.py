"""Training: losses against closed forms, resume bit for bit, errors in one line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.batches.pretraining import make_sampler
from experiments import board_tiny
from experiments.benchmarks.parts.workloads import random_batch
from swm_jax.checkpoints import CheckpointError, export_model, load_model
from swm_jax.models import (
    DenseTargets,
    MentionTargets,
    PlaceTargets,
    SemanticWorldModel,
    Tokenizer,
    TrainBatch,
    get_config,
)
from swm_jax.training import Experiment, Model
from swm_jax.training.build import build, initial_state
from swm_jax.training.optimizer import Optimizer, make_optimizer, make_schedule
from swm_jax.training.sharding import make_mesh, shard_batch
from swm_jax.training.step import TrainState, make_train_step
from swm_jax.training.world_model.losses import (
    answer_loss,
    dense_loss,
    mention_loss,
    place_loss,
)
from swm_jax.training.world_model.model import TrainableWorldModel, load_start


def batch_of(logits, targets, mask, types):
    images, queries, _ = targets.shape
    zeros = jnp.zeros((images, queries), jnp.int32)
    return TrainBatch(
        image=jnp.zeros((images, 8, 8, 3), jnp.uint8),
        actions=jnp.zeros((images, 1, 2)),
        question_tokens=zeros[..., None],
        question_mask=zeros[..., None] > 0,
        query_question=zeros,
        query_horizon=zeros,
        answer_tokens=jnp.asarray(targets),
        answer_mask=jnp.asarray(mask),
        query_type=jnp.asarray(types),
    )


@given(st.integers(0, 2**31 - 1))
def test_answer_loss_is_the_mean_over_queries_of_their_mean_token_loss(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, 2, 5)) * 3
    targets = rng.integers(0, 5, (2, 3, 2))
    mask = rng.random((2, 3, 2)) < 0.7
    types = rng.integers(0, 4, (2, 3))
    loss, scores = answer_loss(
        jnp.asarray(logits), batch_of(logits, targets, mask, types), 4
    )
    queries, right, kinds = [], [], []
    for b in range(2):
        for r in range(3):
            tokens = [token for token in range(2) if mask[b, r, token]]
            if not tokens:
                continue
            each = []
            for token in tokens:
                p = np.exp(logits[b, r, token])
                each.append(-np.log(p[targets[b, r, token]] / p.sum()))
            queries.append(np.mean(each))
            right.append(
                all(logits[b, r, t].argmax() == targets[b, r, t] for t in tokens)
            )
            kinds.append(types[b, r])
    expected = np.mean(queries) if queries else 0.0
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    for kind in range(4):
        chosen = [i for i, k in enumerate(kinds) if k == kind]
        assert scores.count[kind] == len(chosen)
        assert scores.correct[kind] == sum(right[i] for i in chosen)


def test_dense_loss_is_zero_for_a_sure_and_right_reader_only():
    targets = DenseTargets(
        object_id=jnp.array([[0, 3, 1, 0]]),
        centre=jnp.array([[[0, 0], [0.2, 0.4], [0.9, 0.1], [0, 0]]]),
    )
    sure = 40.0 * jax.nn.one_hot(targets.object_id, 22)
    loss, accuracy = dense_loss(sure, targets.centre, targets, 4.0)
    np.testing.assert_allclose([loss, accuracy], [0.0, 1.0], atol=1e-6)
    shifted = targets.centre + jnp.array([0.1, 0.0])
    loss, _ = dense_loss(sure, shifted, targets, 4.0)
    np.testing.assert_allclose(loss, 0.4, rtol=1e-5)  # 4 x 0.1 on covered patches
    _, accuracy = dense_loss(jnp.zeros((1, 4, 22)), targets.centre, targets, 4.0)
    assert accuracy == 0.0


def test_places_are_scored_by_both_distances_of_what_counts():
    rng = np.random.default_rng(0)
    out, target = rng.normal(size=(2, 2, 4, 3, 2))
    mask = rng.random((2, 4, 3)) < 0.6
    away = [out[*i] - target[*i] for i in np.argwhere(mask)]
    l1 = np.mean([abs(x) + abs(y) for x, y in away])
    euclidean = np.mean([np.hypot(x, y) for x, y in away])
    for loss, targets in ((place_loss, PlaceTargets), (mention_loss, MentionTargets)):
        got = loss(jnp.asarray(out), targets(mask, target))
        np.testing.assert_allclose(got, [l1, euclidean], rtol=1e-5)
        nothing = targets(np.zeros_like(mask), target)
        assert loss(jnp.asarray(out), nothing) == (0.0, 0.0)
    # A read-out that is exactly right has a gradient too.
    right = PlaceTargets(mask, out)
    slope = jax.grad(place_loss, has_aux=True)(jnp.asarray(out), right)[0]
    assert np.isfinite(slope).all()


def test_read_outs_are_logged_in_units_that_their_names_say():
    """A read-out that is 3 and 4 cm off is 50 mm off; one that is right, 0 sides."""
    small = dict(vision_width=32, vision_mlp=32, width=32, mlp=32)
    small |= dict(image_size=16, patch_size=8, depth=1, vision_depth=1)
    config = get_config("tiny", **small)
    model = SemanticWorldModel(config)
    trainable = TrainableWorldModel(model, dense_weight=1.0)
    params = trainable.init(jax.random.key(0))
    drawn = random_batch(config, images=2, questions=2, queries=3)
    mask = np.ones((*drawn.query_type.shape, 3), bool)
    off = np.broadcast_to(np.float32([0.03, -0.04]), (*mask.shape, 2))
    batch = drawn.replace(places=PlaceTargets(mask, off))  # read-outs begin at 0
    step = make_train_step(trainable, optax.sgd(0.0))
    state = TrainState(jnp.int32(0), params, optax.sgd(0.0).init(params))
    _, metrics = step(state, batch)
    logged = metrics.scalars
    np.testing.assert_allclose(logged["place_error_mm"], 50.0, rtol=1e-5)
    np.testing.assert_allclose(logged["place_loss"], 0.07, rtol=1e-5)
    assert {"mention_error_sides", "dense_loss", "gradient_norm"} < {*logged}


def test_muon_moves_every_weight_matrix_by_an_orthogonal_step():
    config = Optimizer("muon", schedule="constant", warmup_steps=0, weight_decay=0.0)
    optimizer, _ = make_optimizer(config, 10)
    model = SemanticWorldModel(get_config("tiny", depth=1, vision_depth=1))
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype("f4"), shapes)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    llm, img = updates["llm"]["layers"], updates["img"]["Transformer"]["encoderblock"]
    vision = img["MultiHeadDotProductAttention_0"]
    heads_last = lambda w: np.moveaxis(np.asarray(w[0]), 0, 1).reshape(128, -1)
    matrices = {
        "query": heads_last(llm["attn"]["q_einsum"]["w"]),
        "out": np.asarray(llm["attn"]["attn_vec_einsum"]["w"][0]).reshape(-1, 128),
        "key": np.asarray(llm["attn"]["kv_einsum"]["w"][0, 0, 0]),
        "gate": np.asarray(llm["mlp"]["gating_einsum"][0, 0]),
        "up": np.asarray(llm["mlp"]["gating_einsum"][0, 1]),
        "down": np.asarray(llm["mlp"]["linear"][0]),
        "vision query": np.asarray(vision["query"]["kernel"][0]).reshape(128, -1),
        "vision out": np.asarray(vision["out"]["kernel"][0]).reshape(-1, 128),
        "vision mlp": np.asarray(img["MlpBlock_0"]["Dense_0"]["kernel"][0]),
    }
    for name, matrix in matrices.items():
        step = config.muon_rms * config.learning_rate * max(matrix.shape) ** 0.5
        scale = np.linalg.svd(matrix, compute_uv=False) / step
        # A random matrix has values from 0 to 2; the smallest are not reached.
        assert np.quantile(scale, 0.05) > 0.4 and scale.max() < 1.4, (name, scale)
    norm = np.asarray(updates["llm"]["final_norm"]["scale"])
    gradient = params["llm"]["final_norm"]["scale"]
    step = np.abs(norm).max()  # the first step of AdamW is the gradient's sign
    np.testing.assert_allclose(norm, -step * np.sign(gradient), rtol=1e-2)


@pytest.mark.parametrize("layout", ["branched", "block", "full"])
def test_question_features_are_those_of_the_questions_own_tokens(layout):
    small = dict(depth=1, vision_depth=1, image_size=24, max_horizon=3)
    model = SemanticWorldModel(get_config("tiny", layout=layout, **small))
    rng = np.random.default_rng(1)
    logits = np.zeros((2, 4, 2, 8))
    tokens, mask = rng.integers(5, 400, (2, 4, 2)), np.ones((2, 4, 2), bool)
    batch = batch_of(logits, tokens, mask, np.zeros((2, 4), int))
    asked = rng.integers(5, 400, (2, 4, 6))
    batch = batch.replace(
        question_tokens=jnp.asarray(asked),
        question_mask=jnp.ones(asked.shape, bool),
        query_question=jnp.array([[3, 1, 0, 2]] * 2),
        mentions=MentionTargets(
            jnp.ones(asked.shape, bool), jnp.zeros((*asked.shape, 2))
        ),
    )
    params = jax.jit(model.init_params)(jax.random.key(0))
    features = model.apply({"params": params}, batch).question_features
    table = np.asarray(params["llm"]["embedder"]["input_embedding"])
    expected = table[asked[:, [3, 1, 0, 2]]] * 128**0.5  # before layer 1 // 2 = 0
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_schedules_warm_up_and_end_where_they_should():
    for name, end in (("linear", 0.05), ("cosine", 0.05), ("constant", 1.0)):
        config = Optimizer(warmup_steps=200, schedule=name, final_fraction=0.05)
        schedule = make_schedule(config, 1000)
        assert schedule(0) == 0.0
        np.testing.assert_allclose(schedule(100), config.learning_rate / 2, rtol=1e-5)
        np.testing.assert_allclose(schedule(200), config.learning_rate, rtol=1e-5)
        np.testing.assert_allclose(
            schedule(1000), config.learning_rate * end, rtol=1e-4
        )


def test_unknown_names_are_answered_with_the_nearest():
    config = board_tiny.get_config()
    config.optimizer.name = "adamv"
    with pytest.raises(ValueError, match=r"adamv.*did you mean 'adamw'"):
        Experiment.parse(config)
    with pytest.raises(ValueError, match="did you mean 'pretrain'"):
        board_tiny.get_config("pretrian")


def test_mesh_and_batch_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="does not fit 1 devices"):
        make_mesh({"data": 3})
    with pytest.raises(ValueError, match="-1"):
        make_mesh({"data": -1, "fsdp": -1})
    mesh = make_mesh({"data": -1})
    batch = shard_batch({"x": np.arange(4)}, mesh)
    np.testing.assert_array_equal(batch["x"], np.arange(4))


def test_a_stage_begins_with_the_backbone_and_read_outs_of_zero(undisturbed):
    experiment = Experiment.parse(board_tiny.get_config("debug"))
    params = begun(experiment, undisturbed)
    backbone = load_model(undisturbed).params
    for part, tree in backbone.items():
        jax.tree.map(np.testing.assert_array_equal, params[part], tree)
    assert set(params) == {*backbone, "dense"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(params["dense"]))
    with pytest.raises(CheckpointError, match=r"mlp.* has shape .*, expected"):
        sizes = dataclasses.replace(experiment.model.overrides, mlp=64)
        begun(
            dataclasses.replace(experiment, model=Model(overrides=sizes)), undisturbed
        )


def begun(experiment, checkpoint):
    """Parameters of step 0 with a checkpoint to start from."""
    trainable = TrainableWorldModel.of(experiment)
    built = build(experiment, trainable, make_mesh({"data": -1}))
    start = lambda params, shardings: load_start(params, str(checkpoint), shardings)
    return initial_state(experiment, trainable, built, start).params


def test_without_read_outs_the_answers_alone_are_scored():
    config = board_tiny.get_config("pretrain_debug")
    config.dense_weight = 0.0
    experiment = Experiment.parse(config)
    trainable = TrainableWorldModel.of(experiment)
    params = trainable.init(jax.random.key(0))
    assert "dense" not in params
    data, model_config = experiment.data, experiment.model.config()
    sample = make_sampler(data, model_config, Tokenizer.load("tiny"))
    built = build(experiment, trainable, make_mesh({"data": -1}))
    scores = built.evaluate(params, sample(0, 0))
    asked = data.rendered
    queries = asked.detections + asked.descriptions + asked.present_questions
    assert scores.count.sum() == data.images * queries
    assert np.isfinite(scores.loss).all() and scores.loss.sum() > 0


def test_exported_model_holds_the_same_parameters_and_no_optimizer(
    undisturbed, tmp_path
):
    shipped = export_model(undisturbed, tmp_path / "model")
    assert sorted(p.name for p in shipped.iterdir()) == ["metadata", "params"]
    left, right = load_model(undisturbed), load_model(shipped)
    assert left.config == right.config
    assert left.metadata["step"] == 6
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)
    assert "dense" not in right.params


def test_unusable_checkpoints_are_named_in_one_line(undisturbed, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "half" / "params").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no metadata in it"):
        load_model(tmp_path / "half")
    damaged = export_model(undisturbed, tmp_path / "damaged")
    for file in (damaged / "params").rglob("*"):
        if file.is_file() and file.name not in ("_METADATA", "manifest.ocdbt"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(damaged)
    other = export_model(undisturbed, tmp_path / "other")
    path = other / "metadata" / "metadata"
    metadata = json.loads(path.read_text())
    metadata["model"]["overrides"]["mlp"] = 64
    path.write_text(json.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"has shape .*, expected .*64"):
        load_model(other)


def test_a_workdir_of_another_config_is_refused(undisturbed, runs):
    code, _, error = runs.run(undisturbed, "--config.model.layout=block")
    assert code == 1
    assert "holds a run of another config" in error.strip().splitlines()[-1]
