"""Our towers against big_vision's own modules, where a checkout is on PYTHONPATH."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_cases import (
    CASES,
    assert_same_gradient,
    assert_same_outputs,
    leaves,
    our_outputs,
    random_batch,
    random_params,
    real_tokens,
)

from swm_jax.models import SemanticWorldModel

pytestmark = pytest.mark.big_vision
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def towers(case):
    """big_vision's image tower and decoder with the sizes of a case."""
    vit = pytest.importorskip("big_vision.models.vit")
    gemma = pytest.importorskip("big_vision.models.ppp.gemma")
    c, options = case.config, {}
    if c.post_norms:
        if "post_norms" not in gemma.Model.__dataclass_fields__:
            pytest.skip("this checkout of big_vision is older than Gemma 2")
        options = dict(
            post_norms=True,
            final_logits_softcap=c.final_softcap,
            attn_logits_softcap=c.attention_softcap,
        )
        if c.query_width:
            assert c.query_width == c.width // c.heads
            options["query_pre_attn_norm"] = "rsqrt_emb_per_head"
    image_tower = vit.Model(
        num_classes=c.width,
        patch_size=(c.patch_size, c.patch_size),
        width=c.vision_width,
        depth=c.vision_depth,
        mlp_dim=c.vision_mlp,
        num_heads=c.vision_heads,
        pool_type="none",
        head_zeroinit=False,
        scan=True,
    )
    decoder = gemma.Model(
        variant=case.name,
        width=c.width,
        depth=c.depth,
        mlp_dim=c.mlp,
        num_heads=c.heads,
        num_kv_heads=c.kv_heads,
        head_dim=c.head_dim,
        norm_eps=1e-6,
        vocab_size=c.vocab_size,
        scan=True,
        **options,
    )
    return image_tower, decoder


def their_outputs(case, params, batch):
    """What `our_outputs` gives but for the states half way up; horizons must be 0."""
    paligemma = pytest.importorskip("big_vision.models.proj.paligemma.paligemma")
    c, (image_tower, decoder) = case.config, towers(case)
    real = real_tokens(case, batch)
    shape, answer = real.shape, batch.answer_tokens.shape[-1]
    pick = lambda x: np.take_along_axis(x, batch.query_question[..., None], 1)
    gap = np.zeros((*shape[:2], batch.actions.shape[1]), np.int32)  # no actions here
    column = lambda token: np.full((*shape[:2], 1), token, np.int32)
    text = np.concatenate(
        [
            gap,
            column(c.bos_id),
            pick(batch.question_tokens),
            column(c.newline_id),
            batch.answer_tokens[..., :-1],
        ],
        -1,
    )
    causal = np.arange(shape[-1]) > shape[-1] - answer
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    mask = paligemma.make_attn_mask(
        flat(real), jnp.broadcast_to(causal, flat(real).shape).astype(int)
    )
    positions = flat(np.cumsum(real, -1) - 1)
    pixels = batch.image.astype(np.float32) / 127.5 - 1

    def loss(params):
        image, aux = image_tower.apply({"params": params["img"]}, pixels)
        run = lambda *args, **kw: decoder.apply({"params": params["llm"]}, *args, **kw)
        words = run(flat(text), embed_only=True)
        prompt = jnp.repeat(image, shape[1], 0)
        inputs = jnp.concatenate([prompt, words], 1)
        nothing = jnp.zeros((len(inputs), 0), jnp.int32)
        logits, out = run(
            nothing, embedded_prefix=inputs, positions=positions, mask=mask
        )
        logits = logits[:, -answer:].reshape(*shape[:2], answer, -1)
        log_probs = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_probs, batch.answer_tokens[..., None], -1)
        total = -(picked[..., 0] * batch.answer_mask).sum() / batch.answer_mask.sum()
        features = aux["encoded"]
        states = inputs, out["pre_logits"]
        return total, (image, features, *states, logits, log_probs[:, :, 0])

    params = {name: params[name] for name in ("img", "llm")}
    (total, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    image, features, inputs, hidden, logits, first = map(np.asarray, aux)
    return dict(
        features=features,
        image_tokens=image,
        inputs=inputs[flat(real)],
        hidden=hidden[flat(real)],
        logits=logits[batch.answer_mask],
        first_log_probs=first,
        loss=np.asarray(total),
        gradient={k: np.asarray(g) for k, g in leaves(gradient).items()},
    )


@every_case
def test_outputs_and_gradients_equal_big_vision_s(case):
    params, batch = random_params(case), random_batch(case, actions=False)
    ours, theirs = our_outputs(case, params, batch), their_outputs(case, params, batch)
    assert_same_outputs(ours, theirs)
    assert_same_gradient(ours["gradient"], theirs["gradient"])


@every_case
def test_parameter_tree_is_big_vision_s_own(case):
    c, (image_tower, decoder), key = case.config, towers(case), jax.random.key(0)
    image = jnp.zeros((1, c.image_size, c.image_size, 3))
    token = jnp.zeros((1, 1), jnp.int32)
    theirs = dict(
        img=jax.eval_shape(image_tower.init, key, image)["params"],
        llm=jax.eval_shape(decoder.init, key, token)["params"],
    )
    ours = dict(jax.eval_shape(SemanticWorldModel(c).init_params, key))
    del ours["action"]
    shapes = lambda tree: {k: v.shape for k, v in leaves(tree).items()}
    assert shapes(ours) == shapes(theirs)
