"""Fine-tuning: frozen parameters, learning rates by part, LoRA adapters.

`config.finetune` has two lists of (regex, rule) as in big_vision; the regex must match
a parameter's full name, and the first match counts:

    config.finetune.schedules = (
        ("img/.*", None),                              # frozen
        ("llm/.*", {"learning_rate": 1e-6}),           # the rest as config.optimizer
        (".*", {}),
    )
    config.finetune.lora = (("llm/layers/.*", {"rank": 16, "alpha": 16.0}),)

Without schedules all parameters are trained with `config.optimizer`; with adapters and
no schedules only the adapters and newly initialised parts (action projector,
pre-training heads). Frozen parameters have neither gradients nor optimizer state.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

from swm_jax.choices import known
from swm_jax.models.backbones.lora import (
    LoraRule,
    check_patterns,
    first_match,
    init_adapters,
    lora_rules,
    scale_adapters,
)
from swm_jax.records import pairs, parse
from swm_jax.training.optimizer import SCHEDULE_FIELDS, Optimizer, make_schedule

_WITH_ADAPTERS = (("(lora|action|dense)/.*", {}), (".*", None))
_BESIDE_THE_MODEL = ("dense", "lora")


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Trained parameters, their learning rates, and LoRA adapters.

    Attributes:
      schedules: (regex, overrides of the optimizer's schedule, or None for frozen);
        empty: all parameters are trained alike.
      lora: rules for adapters; empty: no adapters.
    """

    schedules: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()
    lora: tuple[LoraRule, ...] = ()

    @classmethod
    def from_config(
        cls, finetune: Mapping[str, Any], where: str = "config.finetune"
    ) -> "Finetune":
        """Reads the two lists; either may be missing.

        Raises:
          ValueError: unknown fields, here or in a rule.
        """
        for name in finetune:
            known(f"field of {where}", name, ("schedules", "lora"))
        lora = lora_rules(finetune.get("lora", ()))
        example = "('img/.*', None)"
        schedules = pairs(finetune.get("schedules", ()), f"{where}.schedules", example)
        if lora and not schedules:
            schedules = _WITH_ADAPTERS
        for pattern, fields in schedules:
            if fields is not None and not isinstance(fields, Mapping):
                raise ValueError(
                    f"finetune schedule {pattern!r} is {fields!r}, expected None or "
                    "fields of the optimizer"
                )
            unknown = sorted(set(fields or {}) - set(SCHEDULE_FIELDS))
            if unknown:
                raise ValueError(
                    f"finetune schedule {pattern!r} has the unknown field "
                    f"'{unknown[0]}'; known: {', '.join(SCHEDULE_FIELDS)}"
                )
            parse(Optimizer, dict(fields or {}), f"finetune schedule {pattern!r}")
        rules = [(p, None if f is None else dict(f)) for p, f in schedules]
        return cls(tuple(rules), lora)

    def to_config(self) -> ml_collections.ConfigDict:
        """The two lists, as `from_config` reads them."""
        lora = tuple((r.pattern, {"rank": r.rank, "alpha": r.alpha}) for r in self.lora)
        usual = lora and self.schedules == _WITH_ADAPTERS
        schedules = () if usual else self.schedules
        return ml_collections.ConfigDict({"schedules": schedules, "lora": lora})

    def describe(self) -> dict[str, list]:
        """The rules as JSON, for a checkpoint's metadata."""
        lora = [[r.pattern, {"rank": r.rank, "alpha": r.alpha}] for r in self.lora]
        return {"schedules": [list(rule) for rule in self.schedules], "lora": lora}

    def with_adapters(self, key: PRNGKeyArray, params: Mapping) -> dict[str, Any]:
        """The parameters, with initial adapters under `lora` if there are rules.

        Raises:
          ValueError: a rule that matches nothing, or a parameter without a schedule.
        """
        params = dict(params)
        if self.lora:
            params["lora"] = init_adapters(key, model_params(params), self.lora)
        self._rules(params)
        return params

    def variables(self, params: Mapping) -> dict[str, Any]:
        """Variables for the model's `apply`: "params", and scaled "lora" adapters."""
        variables = {"params": model_params(params)}
        if self.lora:
            variables["lora"] = scale_adapters(params["lora"], self.lora)
        return variables

    def split(self, params: Mapping) -> tuple[dict[str, Any], dict[str, Any]]:
        """Splits a tree into (trained, frozen), nested dicts without empty branches."""
        rules = self._rules(params)
        flat = flatten_dict(dict(params), sep="/")

        def moves(name: str) -> bool:
            rule = rules[name]
            return rule is None or self.schedules[rule][1] is not None

        trained = {name: p for name, p in flat.items() if moves(name)}
        frozen = {name: p for name, p in flat.items() if not moves(name)}
        if not frozen:
            return dict(params), {}
        if not trained:
            raise ValueError("the finetune schedules freeze every parameter")
        return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")

    def pace(self, optimizer: Optimizer, steps: int) -> dict[str, optax.Schedule]:
        """Learning-rate schedules of the rules that are not frozen, by pattern."""
        schedules = {}
        for pattern, fields in self.schedules:
            if fields is not None and pattern not in schedules:
                own = dataclasses.replace(optimizer, **fields)
                schedules[pattern] = make_schedule(own, steps)
        return schedules

    def scale_by_pace(
        self, optimizer: Optimizer, steps: int
    ) -> optax.GradientTransformation:
        """Transformation that scales updates (made at rate 1) by their rule's rate."""
        schedules = self.pace(optimizer, steps)

        def update(updates: Any, state: Any, params: Any = None):
            """The state is int32[], the count of updates."""
            rates: dict[str, Any] = {
                key: pace(state) for key, pace in schedules.items()
            }
            rules = self._rules(updates, strict=False)
            flat: dict[str, Any] = flatten_dict(dict(updates), sep="/")
            for name, rule in rules.items():
                assert rule is not None  # there are schedules
                pace = rates[self.schedules[rule][0]]
                flat[name] *= pace.astype(flat[name].dtype)
            return unflatten_dict(flat, sep="/"), optax.safe_increment(state)

        return optax.GradientTransformation(
            lambda params: jnp.zeros((), jnp.int32), update
        )

    def _rules(self, params: Mapping, strict: bool = True) -> dict[str, int | None]:
        """The schedule rule of every parameter; None without schedules."""
        names = list(flatten_dict(dict(params), sep="/"))
        if not self.schedules:
            return dict.fromkeys(names)
        patterns = [pattern for pattern, _ in self.schedules]
        if strict:
            check_patterns("finetune schedule", patterns, names)
        rules = {name: first_match(patterns, name) for name in names}
        missed = [name for name, rule in rules.items() if rule is None]
        if missed:
            raise ValueError(
                f"no finetune schedule matches {missed[0]} (and {len(missed) - 1} "
                "more parameters); end the list with ('.*', {}) or ('.*', None)"
            )
        return rules


def join(trained: Mapping, frozen: Mapping) -> dict[str, Any]:
    """Inverse of `Finetune.split`."""
    if not frozen:
        return dict(trained)
    flat = flatten_dict(dict(trained), sep="/") | flatten_dict(dict(frozen), sep="/")
    return unflatten_dict(flat, sep="/")


def model_params(params: Mapping) -> dict[str, Any]:
    """The model's tree, without auxiliary heads and adapters."""
    return {k: tree for k, tree in params.items() if k not in _BESIDE_THE_MODEL}


def count_parameters(tree: Any) -> int:
    """Number of elements of a tree of arrays or shape structs."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
