"""Populations of candidate chunks: the first of a replan, and each next one.

Axes: S scenes, N candidates, H actions of a chunk, A action width, M proposals of a
base policy, E candidates kept.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from swm_jax import prng
from swm_jax.arrays import Array
from swm_jax.planning.config import PlannerConfig
from swm_jax.planning.noise import coloured_noise, split_each, strokes
from swm_jax.planning.state import PlannerState


def first_population(
    keys: Key[jax.Array, " S"],
    state: PlannerState,
    config: PlannerConfig,
    proposals: Float[Array, "S M H A"] | None = None,
) -> Float[Array, "S N H A"]:
    """Candidates of the first iteration, clipped to the action limits.

    In order: proposals; with `init="noise"` the last plan and zero actions; `carry`
    kept candidates; noise around last plan, zeros or proposals (or uniform chunks);
    strokes at the end.
    """
    warm = _where(state.warm, state.plan, 0.0)
    shape = (config.candidates, *warm.shape[1:])
    bold, fine = split_each(keys, 2)  # strokes, noise
    if config.init == "uniform":
        population = uniform_chunks(fine, shape, config.action_limit)
    else:
        cloud = _coloured(fine, shape, config.noise_exponent)
        population = config.init_std * cloud + _centres(warm, config, proposals)
    if config.init != "proposals":
        population = _with_strokes(bold, population, config)
    fixed = [] if proposals is None else [proposals]
    if config.init == "noise":
        fixed += [warm[:, None], jnp.zeros_like(warm)[:, None]]
    if config.carry:
        at = sum(x.shape[1] for x in fixed)
        # Without a warm start the places of carried candidates keep their noise.
        drawn = population[:, at : at + config.carry]
        fixed.append(_where(state.warm, state.kept[:, : drawn.shape[1]], drawn))
    if fixed:
        given = jnp.concatenate(fixed, 1)[:, : config.candidates]
        population = jnp.asarray(population).at[:, : given.shape[1]].set(given)
    return jnp.clip(population, -config.action_limit, config.action_limit)


def next_population(
    keys: Key[jax.Array, " S"],
    mean: Float[Array, "S H A"],
    std: Float[Array, "S H A"],
    kept: Float[Array, "S E H A"],
    config: PlannerConfig,
    with_mean: Bool[Array, ""],
) -> Float[Array, "S N H A"]:
    """Kept candidates, then noise around kept candidates and around the mean.

    Args:
      keys: one per scene.
      mean, std: of the refitted distribution.
      kept: best candidates so far, at least `config.keep`.
      config: settings.
      with_mean: put the mean in the last place; only with `config.mean_last`.
    """
    # N = keep + drawn; of the drawn, `local` are around kept candidates.
    drawn = config.candidates - config.keep
    shape = (mean.shape[0], drawn, *mean.shape[1:])
    noise = _coloured(keys, shape[1:], config.noise_exponent)
    centre = jnp.broadcast_to(mean[:, None], shape)
    local = round(config.around_kept * drawn) if config.keep else 0
    if local:
        # `std` may span several modes; around a single candidate finer noise suffices.
        turns = jnp.arange(local) % config.keep
        centre = centre.at[:, :local].set(kept[:, turns])
        fine = jnp.minimum(std, config.init_std / 2)[:, None]
        spread = jnp.broadcast_to(std[:, None], shape).at[:, :local].set(fine)
    else:
        spread = std[:, None]
    population = centre + spread * noise
    if config.keep:
        population = jnp.concatenate([kept[:, : config.keep], population], 1)
    if config.mean_last and drawn:
        last = jnp.where(with_mean, mean, population[:, -1])
        population = population.at[:, -1].set(last)
    return jnp.clip(population, -config.action_limit, config.action_limit)


def uniform_chunks(
    keys: Key[jax.Array, " S"], shape: tuple[int, ...], limit: float
) -> Float[Array, "S ..."]:
    """Chunks uniform in [-limit, limit], drawn for each scene from its key."""
    draw = lambda key: prng.uniform(key, shape, minval=-limit, maxval=limit)
    return jax.vmap(draw)(keys)


def _coloured(keys, shape, exponent):
    return jax.vmap(lambda key: coloured_noise(key, shape, exponent))(keys)


def _centres(warm, config, proposals):
    """Centres of the noise: zeros, then the last plan; or proposals in turn."""
    places = jnp.arange(config.candidates)
    if config.init == "proposals":
        return proposals[:, places % proposals.shape[1]]
    fresh = round(config.fresh_fraction * config.candidates)
    return (places >= fresh)[None, :, None, None] * warm[:, None]


def _with_strokes(keys, population, config):
    _, candidates, *chunk = population.shape
    if not (count := round(config.stroke_fraction * candidates)):
        return population
    draw = lambda key: strokes(key, (count, *chunk), config.action_limit)
    lines = jax.vmap(draw)(keys)
    return population.at[:, candidates - count :].set(lines)


def _where(scene_mask, a, b):
    """`jnp.where` with a mask over the leading scene axis."""
    return jnp.where(scene_mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)
