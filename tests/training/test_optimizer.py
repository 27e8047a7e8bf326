"""Weight decay shrinks matrices, not norms, biases and embeddings; rules say else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from swm_jax.models import SemanticWorldModel, get_config
from swm_jax.models.backbones.weights import named_leaves
from swm_jax.training.optimizer import Optimizer, check_decay, make_optimizer

SMALL = dict(vision_width=32, vision_depth=1, vision_mlp=32, width=32, depth=1, mlp=32)
# By hand: what multiplies states, pixels or actions.
MATRICES = {
    "action/kernel",
    "img/embedding/kernel",
    "img/head/kernel",
    *(
        f"img/Transformer/encoderblock/{name}/kernel"
        for name in (
            *(
                f"MultiHeadDotProductAttention_0/{part}"
                for part in ("query", "key", "value", "out")
            ),
            "MlpBlock_0/Dense_0",
            "MlpBlock_0/Dense_1",
        )
    ),
    "llm/layers/attn/q_einsum/w",
    "llm/layers/attn/kv_einsum/w",
    "llm/layers/attn/attn_vec_einsum/w",
    "llm/layers/mlp/gating_einsum",
    "llm/layers/mlp/linear",
}


@pytest.fixture(scope="module")
def params():
    model = SemanticWorldModel(get_config("tiny", **SMALL))
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes)


def settings(**changes):
    rest = dict(learning_rate=0.1, warmup_steps=0, schedule="constant", clip_norm=1e9)
    return Optimizer("adamw", weight_decay=0.5, **{**rest, **changes})


def moved(params, config):
    """Names of parameters that a step without gradients moves."""
    optimizer, _ = make_optimizer(config, 10)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    return {name for name, x in named_leaves(updates).items() if np.any(x)}


def test_matrices_decay_and_nothing_else(params):
    assert moved(params, settings()) == MATRICES


def test_a_step_is_that_of_optax_with_the_mask_by_hand(params):
    mask = jax.tree.map_with_path(
        lambda path, x: (
            jax.tree_util.keystr(path, simple=True, separator="/") in MATRICES
        ),
        params,
    )
    theirs = optax.adamw(0.1, b1=0.9, b2=0.98, weight_decay=0.5, mask=mask)
    ours, _ = make_optimizer(settings(), 10)
    rng = np.random.default_rng(1)
    grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), params)
    a, state = ours.update(grads, ours.init(params), params)
    b, _ = theirs.update(grads, theirs.init(params), params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)
    # Checkpoints of runs without the mask go on: the state has optax's own form.
    plain = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.5)
    )
    scheduled = jax.tree.map(jnp.shape, state)
    form = jax.tree.map(jnp.shape, plain.init(params))
    assert named_leaves(form).items() <= named_leaves(scheduled).items()


def test_rules_say_otherwise(params):
    rules = (("img/pos_embedding|.*norm.*/bias", True), ("llm/.*", False))
    expected = {name for name in MATRICES if not name.startswith("llm/")}
    expected |= {"img/pos_embedding", "img/Transformer/encoder_norm/bias"}
    assert moved(params, settings(decay=rules)) >= expected
    assert not [n for n in moved(params, settings(decay=rules)) if n[:4] == "llm/"]


def test_muon_decays_its_matrices_but_for_what_rules_say(params):
    config = settings(decay=(("llm/layers/mlp/.*", False),))
    muon = Optimizer(**{**vars(config), "name": "muon"})
    found = moved(params, muon)
    assert "llm/layers/attn/q_einsum/w" in found
    assert not [name for name in found if "mlp/" in name and name.startswith("llm/")]
    check_decay(muon, params)
    wrong = Optimizer(**{**vars(muon), "decay": ((".*/pos_embedding", True),)})
    with pytest.raises(ValueError, match="img/pos_embedding, which is no matrix: Muon"):
        check_decay(wrong, params)


def test_rules_without_effect_or_form_are_named(params):
    with pytest.raises(ValueError, match="decay rule 'llm/head' matches no parameter"):
        check_decay(settings(decay=(("llm/head", True),)), params)
    with pytest.raises(ValueError, match=r"decay holds 'llm', expected a pair"):
        settings(decay=("llm",))
