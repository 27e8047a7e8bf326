"""FLOPs and memory traffic of the model, computed from its shapes.

A product of [M, K] and [K, N] counts 2 M K N operations; norms, RoPE and softmax are
left out. Executed operations are counted: masked keys are multiplied too, and without
`scan` the decoder's last layer is pruned to the tokens that are read. Bytes are lower
bounds on the traffic between memory and compute units.

Letters: D decoder width, F hidden width, N heads, K key heads, H head width.
Source: one term per einsum of `backbones` and `swm`.
"""

from typing import NamedTuple

from swm_jax.models import objects
from swm_jax.models.config import ModelConfig


class _Run(NamedTuple):
    """One segment in a decoder pass.

    Attributes:
      tokens: number of tokens.
      keys: keys that each token attends to.
      read: whether the final hidden states are used.
    """

    tokens: int
    keys: int
    read: bool = False


def decoder_flops_per_token(config: ModelConfig) -> int:
    """FLOPs of one token with the weights of all decoder layers.

    3.96 G for Gemma 2B; excludes attention to keys.
    """
    return config.depth * (_key_value_flops(config) + _rest_flops(config))


def image_tower_flops(config: ModelConfig, images: int = 1) -> int:
    """FLOPs of the image tower and its projection to the decoder's width."""
    c, patches = config, config.patches
    width = c.vision_width
    embed = 2 * 3 * c.patch_size**2 * width
    # Per patch: q, k, v, out (2 D^2 each); logits and values (2 P D each); MLP.
    block = 8 * width**2 + 4 * patches * width + 4 * width * c.vision_mlp
    head = 2 * width * c.width * (c.image_tokens - c.objects)
    seen = patches * (embed + c.vision_depth * block) + head
    return images * (seen + objects.image_flops(c))


def unembed_flops(config: ModelConfig, tokens: int = 1, rows: int | None = None) -> int:
    """FLOPs of the logits of `tokens` states over `rows` of the vocabulary."""
    return 2 * tokens * config.width * (config.vocab_size if rows is None else rows)


def encode_flops(config: ModelConfig, questions: int, question_tokens: int) -> int:
    """FLOPs of encoding one scene and its questions, shared by all candidates.

    Args:
      questions, question_tokens: Q, and T of each, padding included.
    """
    c, image = config, config.image_tokens
    runs = []
    if c.layout != "full":
        runs = [_Run(image, image)]
    if c.layout == "branched":
        runs += [_Run(questions * question_tokens, image + question_tokens)]
    return image_tower_flops(c) + _decoder_flops(c, runs)


class Scoring(NamedTuple):
    """Sizes of scoring the candidates of one scene.

    Attributes:
      candidates, horizons, questions, actions: N, K, Q, H.
      question_tokens: T, padding included.
    """

    candidates: int
    horizons: int
    questions: int
    actions: int
    question_tokens: int


def scoring_flops(config: ModelConfig, asked: Scoring, answers: int = 2) -> int:
    """FLOPs of scoring the candidates of one scene in one pass.

    Args:
      answers: C, rows of the embedding that are read; the vocabulary size for
        probabilities over all tokens.
    """
    queries = asked.candidates * asked.horizons * asked.questions
    projected = 2 * config.action_size * config.width * asked.candidates * asked.actions
    projected += objects.path_flops(
        config, asked.candidates, asked.actions, asked.horizons
    )
    layers = _decoder_flops(config, scoring_runs(config, asked))
    return projected + layers + unembed_flops(config, queries, answers)


def scoring_tokens(config: ModelConfig, asked: Scoring) -> int:
    """Decoder tokens that run for the candidates of one scene."""
    return sum(run.tokens for run in scoring_runs(config, asked))


def scoring_bytes(
    config: ModelConfig, asked: Scoring, passes: int = 1, itemsize: int = 2
) -> int:
    """Least bytes moved while the candidates of one scene are scored.

    Every pass reads all decoder weights and the scene's keys and values once; every
    token's state is read and written once per layer, its keys and values too.

    Args:
      passes: number of sequential passes.
      itemsize: bytes per weight and per activation.
    """
    c = config
    shared = {"full": 0, "block": c.image_tokens}.get(
        c.layout, c.image_tokens + asked.questions * asked.question_tokens
    )
    key_value = 2 * c.kv_heads * c.head_dim
    per_pass = decoder_weights(c) + c.depth * shared * key_value
    per_token = c.depth * (2 * c.width + 2 * key_value)
    moved = passes * per_pass + scoring_tokens(c, asked) * per_token
    return itemsize * moved


def decoder_weights(config: ModelConfig) -> int:
    """Number of weights in the matrices of all decoder layers."""
    return decoder_flops_per_token(config) // 2


def train_step_flops(
    config: ModelConfig,
    images: int,
    actions: int,
    questions: int,
    question_tokens: int,
    queries: int,
    answer_tokens: int,
    recompute: bool = False,
    chunks: int = 0,
    horizons: int = 0,
) -> int:
    """FLOPs of one training step with all weights trained: three forward passes.

    Args:
      images: B.
      actions, questions, queries: H, Q, R per image.
      question_tokens, answer_tokens: T, L, padding included.
      chunks, horizons: N and G of a batch with several chunks per image, else 0.
      recompute: also count the second forward of layers under remat "full": included
        in hardware FLOPs utilisation (HFU), excluded from MFU.
    """
    c, image = config, config.image_tokens
    asked, answered = images * queries * question_tokens, images * queries
    answered *= answer_tokens
    select = 0
    if c.layout == "full":
        length = image + actions + 1 + question_tokens + answer_tokens
        runs = [_Run(images * queries * length, length, True)]
    else:
        runs = [
            _Run(images * image, image),
            _Run(images * max(chunks, 1) * actions, image + actions),
        ]
        sees = image + question_tokens
        if c.layout == "branched":
            runs += [_Run(images * questions * question_tokens, sees)]
            if not chunks:
                # One-hot products that give every query the keys of its question.
                select = 4 * asked * questions * c.kv_heads * c.head_dim * c.depth
        else:
            runs += [_Run(asked, sees + actions)]
        futures = images * (chunks * horizons if chunks else queries) * c.objects
        runs += [_Run(futures, image + actions + c.objects, True)]
        sees += actions + answer_tokens + c.objects
        runs += [_Run(answered, sees, True)]
    layers = image_tower_flops(c, images) + _decoder_flops(c, runs) + select
    projected = 2 * c.action_size * c.width * images * max(chunks, 1) * actions
    ends = projected + unembed_flops(c, answered)
    steps = horizons if chunks else queries
    ends += images * objects.path_flops(c, max(chunks, 1), actions, steps)
    again = layers if recompute and c.remat == "full" else 0
    # Backward: gradients of activations and of weights, a forward's cost each.
    return 3 * (layers + ends) + again


def scoring_runs(c: ModelConfig, asked: Scoring) -> list[_Run]:
    """Segments of the candidates of one scene (`SemanticWorldModel.query_layout`)."""
    candidates, horizons, questions, actions, question_tokens = asked
    image, queries = c.image_tokens, candidates * horizons * questions
    if c.layout == "full":
        length = image + actions + 1 + question_tokens + 1
        return [_Run(queries * length, length, True)]
    sees = image + actions
    runs = [_Run(candidates * actions, sees)]
    runs += [_Run(candidates * horizons * c.objects, sees + c.objects)]
    sees += question_tokens + c.objects
    if c.layout == "block":
        runs += [_Run(queries * question_tokens, sees)]
    return [*runs, _Run(queries, sees + 1, True)]


def _decoder_flops(c: ModelConfig, runs: list[_Run]) -> int:
    total = 0
    for run in runs:
        # Unrolled, the last layer of tokens that are not read gives keys and values
        # only.
        layers = c.depth if c.scan or run.read else c.depth - 1
        rest = run.tokens * _rest_flops(c)
        rest += _attention_layer_flops(c, run.tokens, run.keys)
        total += layers * rest + c.depth * run.tokens * _key_value_flops(c)
    return total


def _key_value_flops(c: ModelConfig) -> int:
    return 4 * c.width * c.kv_heads * c.head_dim


def _rest_flops(c: ModelConfig) -> int:
    """FLOPs of query, output and MLP of one token in one layer."""
    return 4 * c.width * c.heads * c.head_dim + 6 * c.width * c.mlp


def _attention_layer_flops(c: ModelConfig, tokens: int, keys: int) -> int:
    return 4 * tokens * keys * c.heads * c.head_dim
