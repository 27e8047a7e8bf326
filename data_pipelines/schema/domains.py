"""Domains: the fields of a state, the width of an action, limits to check.

All sources share one schema of episodes (`episode`) except for the parts that the
domain defines. Each simulated world (`swm_jax.worlds`) is a domain whose scenes have
exact predicates; recordings without scenes get their answers from a labeller.

    domain           state per frame                         action
    (a world's)      as its `scene` part says                its own
    language_table   effector (2), effector_target (2)       2, metres per step
    other            proprio (any width), or nothing         any width, own units
"""

import dataclasses
import functools
from collections.abc import Mapping

from swm_jax import worlds
from swm_jax.choices import known
from swm_jax.envs.scene import SceneFormat, StoredField


@dataclasses.dataclass(frozen=True)
class Domain:
    """A world, or a kind of recording.

    Attributes:
      name: as stored in every episode.
      state: name -> field; all are required unless `optional`.
      action_size: numbers per action; None for any.
      action_limit: largest absolute action; None for no limit.
      policies: valid names of policies; None for any.
      optional: whether state fields may be missing.
      scene: format of the scenes; None for a domain without predicates.
    """

    name: str
    state: Mapping[str, StoredField]
    action_size: int | None = None
    action_limit: float | None = None
    policies: tuple[str, ...] | None = None
    optional: bool = False
    scene: SceneFormat | None = None


_RECORDINGS = {
    "language_table": Domain(
        name="language_table",
        state={"effector": StoredField((2,)), "effector_target": StoredField((2,))},
        action_size=2,
    ),
    "other": Domain(
        name="other", state={"proprio": StoredField((None,))}, optional=True
    ),
}


def domain_names() -> tuple[str, ...]:
    """Names of all domains: worlds with a domain of their own, then recordings."""
    own = [name for name in worlds.names() if worlds.load(name).scene.domain == name]
    return (*own, *_RECORDINGS)


@functools.cache
def get_domain(name: str) -> Domain:
    """The domain of that name.

    Raises:
      ValueError: an unknown name; suggests the nearest.
    """
    if name in _RECORDINGS:
        return _RECORDINGS[name]
    world = worlds.load(known("domain", name, domain_names()))
    policies = world.policies
    return Domain(
        name=name,
        state=world.scene.state,
        action_size=world.env.action_size,
        action_limit=world.env.action_limit,
        policies=None if policies.others_act else policies.names,
        scene=world.scene,
    )
