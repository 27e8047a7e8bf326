"""Small models with random weights and inputs that need nothing but numpy to make.

The live parity tests run them through `transformers`, big_vision and our model; the
fixtures under `tests/fixtures` keep what `transformers` gave, so that every test run
holds the model against it. Axes: B images, R queries, L answer tokens.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from micro_models import quick_jit

from swm_jax.models import ModelConfig, SemanticWorldModel, TrainBatch, get_config

_GEMMA = dict(
    layout="full",
    image_size=28,
    patch_size=14,
    resize="bicubic",
    vision_width=24,
    vision_depth=2,
    vision_mlp=40,
    vision_heads=2,
    width=32,
    depth=2,
    mlp=48,
    heads=4,
    kv_heads=1,
    head_dim=16,
    vocab_size=96,
    max_question_tokens=5,
    max_horizon=4,
    action_size=2,
    action_scale=1.0,
    scan=True,
)
# Another shape everywhere, grouped keys, layers unrolled.
_WIDE = dict(
    _GEMMA,
    image_size=56,
    vision_width=36,
    vision_depth=3,
    vision_heads=3,
    width=48,
    depth=3,
    heads=6,
    kv_heads=2,
    head_dim=8,
    action_size=5,
    scan=False,
)
_GEMMA2 = dict(attention_softcap=50.0, final_softcap=30.0, post_norms=True)
# Caps that these small logits reach, and queries scaled by the width per head.
_GEMMA2_TIGHT = dict(
    attention_softcap=1.5, final_softcap=2.0, post_norms=True, query_width=48 // 6
)
# Two of six layers see all positions, the others the last five; four patches a token.
_GEMMA3 = dict(
    _GEMMA,
    backbone="gemma3",
    image_size=56,
    depth=6,
    kv_heads=2,
    post_norms=True,
    pool=2,
    window=5,
    global_every=3,
    rope_base=1_000_000.0,
    rope_scale=8.0,
    causal_text=True,
)
# A window of less than the image, unscaled positions, other heads, layers unrolled.
_GEMMA3_TIGHT = dict(
    _GEMMA3,
    image_size=84,
    pool=3,
    width=48,
    depth=3,
    heads=6,
    head_dim=12,
    query_width=8,
    window=3,
    global_every=2,
    rope_base=5_000.0,
    rope_scale=1.0,
    scan=False,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One model with its inputs.

    Attributes:
      name: of the case and its fixture.
      overrides: fields of the config.
      seed: of weights and inputs.
    """

    name: str
    overrides: dict
    seed: int

    @property
    def config(self) -> ModelConfig:
        return get_config("tiny", **self.overrides)


STATES = (
    "features",
    "image_tokens",
    "inputs",
    "middle",
    "hidden",
    "logits",
    "first_log_probs",
    "loss",
)
CASES = (
    Case("gemma", _GEMMA, 1),
    Case("gemma_wide", _WIDE, 2),
    Case("gemma2", {**_GEMMA, **_GEMMA2, "kv_heads": 2}, 3),
    Case("gemma2_tight", {**_WIDE, **_GEMMA2_TIGHT, "head_dim": 12}, 4),
)
GEMMA3_CASES = (
    Case("gemma3", _GEMMA3, 5),
    Case("gemma3_tight", _GEMMA3_TIGHT, 6),
)


def leaves(tree) -> dict[str, np.ndarray]:
    """A parameter tree as path -> leaf."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in flat}


def random_params(case: Case) -> dict:
    """Weights of a case; none of them is 0 or 1, which would hide mistakes."""
    # The legacy generator: its stream is frozen across numpy's releases.
    rng = np.random.RandomState(case.seed)

    def draw(path, leaf):
        path = "/".join(key.key for key in path)
        x = rng.standard_normal(leaf.shape)
        if path.startswith("img/Transformer") and path.endswith("scale"):
            x = 1 + 0.2 * x
        elif path.endswith("input_embedding"):
            x = x * leaf.shape[-1] ** -0.5
        elif path == "img/embedding/kernel":
            x = x * np.prod(leaf.shape[:-1]) ** -0.5
        else:
            x = x * 0.2
        return x.astype(np.float32)

    model = SemanticWorldModel(case.config)
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_batch(case: Case, actions: bool) -> TrainBatch:
    """Two images, two questions of unequal lengths, three queries each.

    Args:
      case: whose model is asked.
      actions: whether horizons differ; else all queries ask about the present.
    """
    c, rng = case.config, np.random.RandomState(100 + case.seed)
    tokens = lambda *shape: rng.randint(5, c.vocab_size, shape).astype(np.int32)
    image = rng.randint(0, 256, (2, c.image_size, c.image_size, 3)).astype(np.uint8)
    lengths = np.array([[5, 3], [2, 4]])
    answers = np.array([[3, 1, 2], [2, 3, 1]])
    horizons = np.array([[0, 2, 4], [3, 0, 1]]) * int(actions)
    question_mask = np.arange(5) < lengths[..., None]
    answer_mask = np.arange(3) < answers[..., None]
    return TrainBatch(
        image=image,
        actions=rng.standard_normal((2, 4, c.action_size)).astype(np.float32),
        question_tokens=tokens(2, 2, 5) * question_mask,
        question_mask=question_mask,
        query_question=np.array([[0, 1, 1], [1, 0, 0]], np.int32),
        query_horizon=horizons.astype(np.int32),
        answer_tokens=tokens(2, 3, 3) * answer_mask,
        answer_mask=answer_mask,
        query_type=np.zeros((2, 3), np.int32),
    )


def real_tokens(case: Case, batch: TrainBatch) -> np.ndarray:
    """bool[B, R, S]: which tokens of our sequences are no padding."""
    rows, (images, queries) = np.arange(2)[:, None], batch.query_horizon.shape
    always = lambda n: np.ones((images, queries, n), bool)
    return np.concatenate(
        [
            always(case.config.image_tokens),
            np.arange(batch.actions.shape[1]) < batch.query_horizon[..., None],
            always(1),
            batch.question_mask[rows, batch.query_question],
            batch.answer_mask,  # token l is read where target l is known
        ],
        -1,
    )


def our_outputs(case: Case, params: dict, batch: TrainBatch) -> dict[str, np.ndarray]:
    """What our model gives: everything that the fixtures hold."""
    model, real = SemanticWorldModel(case.config), real_tokens(case, batch)

    def forward(model):
        image, features = model.embed_image(batch.image)
        layout = model.training_layout(batch, image)
        out = model.llm(layout, read=("answer",), middle=("answer",))
        states = dict(
            inputs=layout["answer"].tokens,
            middle=out.middle["answer"],
            hidden=out.hidden["answer"],
        )
        answers = states["hidden"][..., -batch.answer_tokens.shape[-1] :, :]
        return image, features, states, model.llm.unembed(answers)

    def loss(params):
        image, features, states, logits = model.apply(
            {"params": params}, method=forward
        )
        log_probs = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_probs, batch.answer_tokens[..., None], -1)
        total = -(picked[..., 0] * batch.answer_mask).sum() / batch.answer_mask.sum()
        return total, (image, features, states, logits, log_probs)

    run = quick_jit(jax.value_and_grad(loss, has_aux=True))
    (total, aux), gradient = run(params)
    image, features, states, logits, log_probs = jax.tree.map(np.asarray, aux)
    return dict(
        features=features,
        image_tokens=image,
        **{name: state[real] for name, state in states.items()},
        logits=logits[batch.answer_mask],
        first_log_probs=log_probs[:, :, 0],
        loss=np.asarray(total),
        gradient={k: np.asarray(g) for k, g in leaves(gradient).items()},
    )


def sketch(gradient: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Each leaf's norm and its products with four random directions."""
    rng, result = np.random.RandomState(seed), {}
    for name in sorted(gradient):
        g = np.float64(gradient[name]).ravel()
        directions = rng.standard_normal((4, g.size)) / np.sqrt(g.size)
        result[name] = np.concatenate([[np.linalg.norm(g)], directions @ g])
    return result


def assert_same_outputs(ours: dict, theirs: dict, atol: float = 1e-4) -> None:
    """Everything but the gradient; what `theirs` lacks is not compared."""
    for name in STATES:
        if name in theirs:
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=0, atol=atol, err_msg=name
            )


def assert_same_gradient(ours: dict, theirs: dict) -> None:
    """Every leaf within 1e-3 of its largest entry.

    Some true gradients are 0 (a key's bias moves all logits of a query alike): noise is
    allowed up to 1e-7 of the largest entry of the whole gradient.
    """
    largest = max(np.abs(g).max() for g in theirs.values())
    for name, expected in theirs.items():
        size = max(np.abs(expected).max(), 1e-4 * largest)
        error = np.abs(ours[name] - expected).max()
        assert error <= 1e-3 * size, (name, error, size)


# Gemma 1 and 2 as PaliGemma, and both with actions as the published world model; then
# Gemma 3.
FIXTURES = (*zip(CASES, (False, True, True, False)), (GEMMA3_CASES[0], False))


def fixture_path(case: Case) -> Path:
    return Path(__file__).parents[1] / "fixtures" / f"{case.name}.npz"


def read_fixture(case: Case) -> dict[str, np.ndarray]:
    with np.load(fixture_path(case), allow_pickle=False) as arrays:
        return dict(arrays)
