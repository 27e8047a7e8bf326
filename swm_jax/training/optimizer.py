"""Optimizers and learning-rate schedules from a config.

AdamW as in PaliGemma fine-tuning; Muon (momentum orthogonalised by Newton-Schulz,
AdamW for vectors and embeddings) as the faster choice for models trained from
nothing. Gradients are clipped by their global norm.
"""

import difflib
from typing import Any

import jax
import ml_collections
import optax
from optax.contrib import MuonDimensionNumbers

from swm_jax.models.backbones.registry import declared

SCHEDULES = ("constant", "cosine", "linear")
OPTIMIZERS = ("adamw", "muon")
SCHEDULE_FIELDS = ("learning_rate", "warmup_steps", "schedule", "final_fraction")
# Root mean square of a weight matrix's step, in learning rates. 0.2 is AdamW's (Liu
# et al., "Muon is scalable for LLM training"); small models take larger steps.
MUON_RMS = 0.6


def _check(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"unknown {kind} '{name}'{hint}; known: {', '.join(known)}"
        ) from None


def make_schedule(config: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up from zero, then the named decay to `final_fraction`.

    Args:
      config: learning_rate, warmup_steps, schedule, final_fraction.
      steps: training steps in all, warm-up included.
    """
    _check("schedule", config.schedule, SCHEDULES)
    peak, warmup = config.learning_rate, min(config.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    decay = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, rest),
    }[config.schedule]
    ramp = optax.linear_schedule(0.0, peak, max(warmup, 1))
    return optax.join_schedules([ramp, decay], [warmup])


def _muon_dimensions(params: Any) -> Any:
    """Dimension numbers of the weights that Muon updates, None for AdamW's."""

    def rule(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        w = declared(name, leaf.shape)
        if not w.inputs:
            return None
        return MuonDimensionNumbers(w.places(w.inputs), w.places(w.outputs))

    return jax.tree.map_with_path(rule, params)


def make_optimizer(
    config: ml_collections.ConfigDict,
    steps: int,
    pace: optax.GradientTransformation | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its learning-rate schedule (the latter for the log).

    Args:
      config: name, learning_rate, warmup_steps, schedule, final_fraction, b1, b2,
        weight_decay, clip_norm.
      steps: training steps in all.
      pace: multiplies updates in place of the schedule, for parts that move at
        their own rates (`Finetune.scale_by_pace`).

    Raises:
      ValueError: an unknown optimizer or schedule.
    """
    _check("optimizer", config.name, OPTIMIZERS)
    schedule = make_schedule(config, steps)
    rate = schedule if pace is None else 1.0
    if config.name == "adamw":
        update = optax.adamw(
            rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay
        )
    else:
        update = optax.contrib.muon(
            rate,
            adam_b1=config.b1,
            adam_b2=config.b2,
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_muon_dimensions,
            consistent_rms=MUON_RMS,
        )
    update = [update] if pace is None else [update, pace]
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), *update), schedule
