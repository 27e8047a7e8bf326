"""LoRA: low-rank adapters.

The adapter of a weight W is a pair of factors a and b of rank r; the model runs with
W + (alpha / r) a b. Adapters are a separate tree with the same names, so the base tree
stays big_vision's: `apply({"params": base, "lora": adapters})`. b starts at zero, so an
adapted model initially equals its base bit by bit.
Source: "LoRA: Low-Rank Adaptation of Large Language Models".

W + a b is computed inside each layer in float32 (`Weight.product`), exactly as in the
merged model; with rematerialised layers the sum and its gradient exist for one layer at
a time. LoRA saves memory here (gradients and optimizer states), not FLOPs.
"""

import dataclasses
import difflib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

from swm_jax import prng
from swm_jax.models.backbones.registry import declared
from swm_jax.models.backbones.weights import Adapted
from swm_jax.records import pairs


@dataclasses.dataclass(frozen=True)
class LoraRule:
    """Rank and scale of the adapters of matrices whose full name matches a pattern.

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
      ValueError: other fields, or a rank or alpha out of range.
    """
    rules = []
    example = "('llm/layers/.*', {'rank': 16, 'alpha': 16.0})"
    for pattern, fields in pairs(entries, "lora", example):
        if not isinstance(fields, Mapping) or set(fields) != {"rank", "alpha"}:
            raise ValueError(
                f"lora rule {pattern!r} has the fields {_words(fields)}, expected "
                "alpha and rank"
            )
        for name, value in fields.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(
                    f"lora rule {pattern!r} has {name} {value!r}, expected a number"
                )
        rules.append(LoraRule(pattern, int(fields["rank"]), float(fields["alpha"])))
    return tuple(rules)


def _words(fields: Any) -> str:
    return str(sorted(fields) if isinstance(fields, Mapping) else repr(fields))


def first_match(patterns: Iterable[str], name: str) -> int | None:
    """Index of the first pattern that matches the full name (big_vision's rule)."""
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
    """Initial adapters of every matrix matched by a rule; the first match counts.

    Args:
      key: random key.
      params: the model's tree, arrays or shape structs.
      rules: parameters other than matrices of a layer are skipped.

    Returns:
      A subtree of the model's tree with `a` (normal, std fan-in^-0.5) and `b` (zero) in
      place of each adapted weight.

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
        # Key from the name: an adapter does not depend on which others there are.
        own = prng.fold_in(key, zlib.crc32(name.encode()))
        adapters[f"{name}/a"] = prng.normal(own, a) * fan_in**-0.5
        adapters[f"{name}/b"] = jnp.zeros(b)
    return unflatten_dict(adapters, sep="/")


def scale_adapters(adapters: Mapping, rules: Sequence[LoraRule]) -> dict[str, Any]:
    """Adapters for `apply`: b multiplied by its rule's alpha / rank."""
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
    """The model's tree with every adapter merged into its weight.

    Args:
      params: the base tree.
      adapters: as trained, before `scale_adapters`.
      rules: the rules they were made with.
    """
    weights: dict[str, Any] = flatten_dict(dict(params), sep="/")
    factors: dict[str, Any] = flatten_dict(scale_adapters(adapters, rules), sep="/")
    for name in [n.removesuffix("/a") for n in factors if n.endswith("/a")]:
        a, b = factors[f"{name}/a"], factors[f"{name}/b"]
        product = declared(name, weights[name].shape).product
        weights[name] = Adapted(weights[name], a, b, product).merged()
    return unflatten_dict(weights, sep="/")
