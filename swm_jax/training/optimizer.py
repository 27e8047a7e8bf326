"""Optimizers, learning-rate schedules and their settings.

AdamW as in PaliGemma fine-tuning; Muon (momentum orthogonalised by Newton-Schulz, AdamW
for vectors and embeddings), which is faster for models trained from scratch. Gradients
are clipped by their global norm.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from swm_jax.models.backbones.lora import check_patterns, first_match
from swm_jax.models.backbones.registry import decays, declared
from swm_jax.models.backbones.weights import leaf_name, named_leaves
from swm_jax.records import NonNegative, Positive, Share, Size, pairs

SCHEDULE_FIELDS = ("learning_rate", "warmup_steps", "schedule", "final_fraction")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optimizer settings.

    Attributes:
      name: "muon", or "adamw" for all parameters.
      learning_rate: peak learning rate.
      warmup_steps: linear warm-up from zero.
      schedule: "constant", or "cosine" or "linear" decay to the last step.
      final_fraction: final learning rate as a fraction of the peak.
      b1, b2: decay rates of AdamW's moments.
      weight_decay: decoupled weight decay, multiplied by the learning rate. Norms,
        biases and embeddings do not decay, nor what AdamW updates beside Muon.
      decay: (regex, bool) pairs with precedence over that default: whether parameters
        of matching names decay; the first match counts.
      clip_norm: maximum global norm of the gradients.
      muon_rms: root mean square of a weight matrix's update, in learning rates. 0.2
        matches AdamW (Liu et al., "Muon is scalable for LLM training"); small models
        tolerate more.
    """

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: NonNegative = 1e-3
    warmup_steps: Size = 100
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    final_fraction: Share = 0.05
    b1: Share = 0.9
    b2: Share = 0.98
    weight_decay: NonNegative = 1e-4
    decay: tuple[Any, ...] = ()
    clip_norm: Positive = 1.0
    muon_rms: Positive = 0.6

    def __post_init__(self):
        for pattern, on in pairs(self.decay, "decay", "('.*/bias', True)"):
            if not isinstance(on, bool):
                raise ValueError(f"decay rule {pattern!r} is {on!r}, expected a bool")


def make_schedule(config: Optimizer, steps: int) -> optax.Schedule:
    """Linear warm-up from zero, then the named decay to `final_fraction`.

    Args:
      config: optimizer settings.
      steps: total training steps, warm-up included.
    """
    peak, warmup = config.learning_rate, min(config.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    decay = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, rest),
    }[config.schedule]
    # Without warm-up the ramp is unused: the boundary is step 0.
    ramp = optax.linear_schedule(0.0, peak, max(warmup, 1))
    return optax.join_schedules([ramp, decay], [warmup])


def decay_mask(config: Optimizer, params: Any) -> Any:
    """Whether each parameter decays: the first rule of `config.decay`, or its default.

    Args:
      params: a tree with names from `leaf_name`.
    """
    patterns = [pattern for pattern, _ in config.decay]

    def decaying(path, leaf):
        name = leaf_name(path)
        match = first_match(patterns, name)
        return decays(name, leaf.shape) if match is None else config.decay[match][1]

    return jax.tree.map_with_path(decaying, params)


def check_decay(config: Optimizer, params: Any) -> None:
    """Raises a ValueError for rules of `config.decay` that have no effect.

    Args:
      params: all trained parameters, as a tree.
    """
    patterns = [pattern for pattern, _ in config.decay]
    check_patterns("decay rule", patterns, list(named_leaves(params)))
    if config.name != "muon":
        return
    matrices = named_leaves(_muon_dimensions(params))
    for name in named_leaves(params):
        match = first_match(patterns, name)
        if match is not None and config.decay[match][1] and name not in matrices:
            raise ValueError(
                f"decay rule {patterns[match]!r} for {name}, which is no matrix: Muon "
                "leaves it to AdamW without decay; set optimizer.name=adamw"
            )


def _decay(config: Optimizer) -> optax.GradientTransformation:
    """Adds `weight_decay` times the parameters that decay to the updates; no state."""

    def update(updates, state, params=None):
        add = lambda u, p, on: u + config.weight_decay * p if on else u
        mask = decay_mask(config, params)
        return jax.tree.map(add, updates, params, mask), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _muon_dimensions(params: Any) -> Any:
    """Muon's dimension numbers for every weight; None for those of AdamW."""

    def rule(path, leaf):
        w = declared(leaf_name(path), leaf.shape)
        if not w.inputs:
            return None
        return MuonDimensionNumbers(w.places(w.inputs), w.places(w.outputs))

    return jax.tree.map_with_path(rule, params)


def make_optimizer(
    config: Optimizer,
    steps: int,
    pace: optax.GradientTransformation | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimizer; also returns its learning-rate schedule, for the log.

    Args:
      config: optimizer settings.
      steps: total training steps.
      pace: replaces the schedule: a transformation that scales updates by learning
        rates per part (`Finetune.scale_by_pace`).
    """
    schedule = make_schedule(config, steps)
    rate = schedule if pace is None else 1.0
    mask = functools.partial(decay_mask, config)
    if config.name == "adamw":
        # As `optax.adamw`, whose mask would change the form of the stored state.
        update = optax.chain(
            optax.scale_by_adam(b1=config.b1, b2=config.b2),
            _decay(config),
            optax.scale_by_learning_rate(rate),
        )
    else:
        update = optax.contrib.muon(
            rate,
            adam_b1=config.b1,
            adam_b2=config.b2,
            weight_decay=config.weight_decay,
            weight_decay_mask=mask if config.decay else None,  # else all its matrices
            muon_weight_dimension_numbers=_muon_dimensions,
            consistent_rms=config.muon_rms,
        )
    update = [update] if pace is None else [update, pace]
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), *update), schedule
