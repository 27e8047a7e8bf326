"""Baseline world models by name, collected from the modules of this folder.

simulator   exact answers by simulation, the upper bound
random      random actions without a world model, the lower bound

A module's `BASELINES` maps names to baselines (`answerer.Baseline`).
"""

import functools

from swm_jax.baselines.answerer import Answerer, Baseline
from swm_jax.choices import gathered, known
from swm_jax.envs import Env

__all__ = ["Answerer", "Baseline", "baselines", "load"]


@functools.cache
def baselines() -> dict[str, Baseline]:
    """Collects `BASELINES` of all modules of this folder, see `choices.gathered`.

    Raises:
      ValueError: also a baseline called swm, the name of the checkpoint's model.
    """
    hint = "Baseline(lambda env: Answerer(name, env.world, Model(env)), Model)"
    found = gathered(__name__, __path__, "BASELINES", Baseline, hint)
    if "swm" in found:
        raise ValueError("a baseline is called 'swm', the name of the learned model")
    return found


def load(name: str, env: Env) -> Answerer:
    """Makes the baseline of a name for an env.

    Raises:
      ValueError: an unknown name (the message suggests the nearest), or a baseline
        whose `make` does not return an Answerer of its `model`.
    """
    baseline = baselines()[known("baseline", name, baselines())]
    made = baseline.make(env)
    if not isinstance(made, Answerer):
        raise ValueError(f"baseline {name!r} makes {made!r}, expected an Answerer")
    if not isinstance(made.model, baseline.model):
        raise ValueError(
            f"baseline {name!r} makes a {type(made.model).__name__}, but declares a "
            f"{baseline.model.__name__}: name the class that it makes"
        )
    return made
