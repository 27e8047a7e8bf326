"""LoRA: low-rank adapters beside a model's own parameters.

The adapter of a weight W is a pair of factors a and b of rank r; the model runs with
W + (alpha / r) a b. Adapters are a tree of their own, under the same names, so that the
model's tree stays big_vision's and its arrays are not touched: `apply({"params": base,
"lora": adapters})`. b starts at zero: an adapted model begins as its base, bit for bit.
Source: "LoRA: Low-Rank Adaptation of Large Language Models".

A product of factors is added to its weight inside a layer, in float32, whatever the
weight's axes are (`Weight.product`). That is exactly what the merged model computes,
and with layers rematerialised neither the sum nor its gradient exists for more than
one layer at a time. What LoRA saves here is memory: gradients and optimizer states.
"""

import dataclasses
import difflib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

from swm_jax.models.backbones.registry import declared
from swm_jax.models.backbones.weights import Adapted


@dataclasses.dataclass(frozen=True)
class LoraRule:
    """Adapters for the matrices whose whole name matches a pattern.

    Attributes:
      pattern: regular expression of names such as "llm/layers/attn/q_einsum/w".
      rank: r, at least 1.
      alpha: the product of the factors is multiplied by alpha / rank.
    """

    pattern: str
    rank: int
    alpha: float

    def __post_init__(self):
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(
                f"lora rule {self.pattern!r} needs a rank of at least 1 and an alpha "
                f"above 0, got {self.rank} and {self.alpha}"
            )


def lora_rules(entries: Iterable[Sequence]) -> tuple[LoraRule, ...]:
    """Rules from a config's list of (regex, {"rank": r, "alpha": alpha}).

    Raises:
      ValueError: other fields, or numbers that make no adapter.
    """
    rules = []
    for pattern, fields in entries:
        if set(fields) != {"rank", "alpha"}:
            raise ValueError(
                f"lora rule {pattern!r} has the fields {sorted(fields)}, expected "
                "alpha and rank"
            )
        rules.append(LoraRule(pattern, int(fields["rank"]), float(fields["alpha"])))
    return tuple(rules)


def first_match(patterns: Iterable[str], name: str) -> int | None:
    """Index of the first pattern that matches a whole name, big_vision's rule."""
    for i, pattern in enumerate(patterns):
        if re.fullmatch(pattern, name):
            return i
    return None


def check_patterns(what: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Raises a ValueError that names a pattern that matches none of the names."""
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{what} {pattern!r} is no regular expression: {error}"
            ) from error
        if not any(map(compiled.fullmatch, names)):
            close = difflib.get_close_matches(pattern, names, 1, 0.0)
            raise ValueError(
                f"{what} {pattern!r} matches no parameter; the whole name must match, "
                f"for example '{close[0] if close else ''}'"
            )


def init_adapters(
    key: PRNGKeyArray, params: Mapping, rules: Sequence[LoraRule]
) -> dict[str, Any]:
    """Fresh adapters of every matrix that a rule matches; the first match counts.

    Args:
      key: an adapter depends on it and on its own name and shape only.
      params: the model's tree, arrays or shape structs.
      rules: other parameters than matrices of a layer are passed over.

    Returns:
      The model's tree, thinned out, with `a` (normal, std fan-in^-0.5) and `b` (zero)
      in place of each weight.

    Raises:
      ValueError: a rule that matches no matrix.
    """
    weights: dict[str, Any] = flatten_dict(dict(params), sep="/")
    made = {name: declared(name, leaf.shape) for name, leaf in weights.items()}
    matrices = [name for name in weights if made[name].inputs]
    patterns = [rule.pattern for rule in rules]
    check_patterns("lora rule", patterns, list(weights))
    check_patterns("lora rule for matrices", patterns, matrices)
    adapters = {}
    for name in matrices:
        which = first_match(patterns, name)
        if which is None:
            continue
        a, b = made[name].factor_shapes(rules[which].rank)
        fan_in = made[name].fan_in
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        adapters[f"{name}/a"] = jax.random.normal(own, a) * fan_in**-0.5
        adapters[f"{name}/b"] = jnp.zeros(b)
    return unflatten_dict(adapters, sep="/")


def scale_adapters(adapters: Mapping, rules: Sequence[LoraRule]) -> dict[str, Any]:
    """Adapters as the model takes them: b multiplied by its rule's alpha / rank."""
    flat: dict[str, Any] = flatten_dict(dict(adapters), sep="/")
    patterns = [rule.pattern for rule in rules]
    for name in flat:
        if name.endswith("/b"):
            which = first_match(patterns, name.removesuffix("/b"))
            assert which is not None  # an adapter was made by a rule
            rule = rules[which]
            flat[name] = flat[name] * (rule.alpha / rule.rank)
    return unflatten_dict(flat, sep="/")


def merge_adapters(
    params: Mapping, adapters: Mapping, rules: Sequence[LoraRule]
) -> dict[str, Any]:
    """The model's tree with every adapter added to its weight.

    Args:
      params: the base, without adapters; not changed.
      adapters: as trained, not scaled yet.
      rules: those that they were made with.
    """
    weights: dict[str, Any] = flatten_dict(dict(params), sep="/")
    factors: dict[str, Any] = flatten_dict(scale_adapters(adapters, rules), sep="/")
    for name in [n.removesuffix("/a") for n in factors if n.endswith("/a")]:
        a, b = factors[f"{name}/a"], factors[f"{name}/b"]
        product = declared(name, weights[name].shape).product
        weights[name] = Adapted(weights[name], a, b, product).merged()
    return unflatten_dict(weights, sep="/")
