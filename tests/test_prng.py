"""A seed means the same numbers whatever JAX's settings are."""

import ast
import contextlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swm_jax import prng, worlds
from swm_jax.envs.package_env import numpy_seed, seed_of
from swm_jax.eval.episodes.setup import keys_of

ROOT = pathlib.Path(__file__).parents[1]
# Settings that change what `jax.random` gives for a seed.
SETTINGS = {
    "generator": lambda: jax.default_prng_impl("rbg"),
    "counting": lambda: jax.threefry_partitionable(False),
    "width": lambda: jax.enable_x64(True),
}
NO_NUMBERS = ("key_data", "wrap_key_data")
OURS = ("board", "cube", "pusht")


@contextlib.contextmanager
def seeds_moved_by(offset):
    before = jax.config.jax_random_seed_offset
    jax.config.update("jax_random_seed_offset", offset)
    try:
        yield
    finally:
        jax.config.update("jax_random_seed_offset", before)


SETTINGS["offset"] = lambda: seeds_moved_by(7)


def draws(random, key):
    """Numbers of every sampler of a module, with the same arguments."""
    first, *keys = random.split(key, 9)
    low = jnp.asarray([0.1, 0.2, 0.3], jnp.float32)
    return {
        "uniform": random.uniform(first, (3,), minval=low, maxval=1.0),
        "normal": random.normal(keys[0], (5,)),
        "gumbel": random.gumbel(keys[1], (5,)),
        "exponential": random.exponential(keys[2], (5,)),
        "randint": random.randint(keys[3], (5,), 3, 1000),
        "categorical": random.categorical(keys[4], jnp.log(jnp.arange(1.0, 9.0))),
        "with replacement": random.choice(keys[5], 8, (5,), p=jnp.arange(8) / 28),
        "without": random.choice(keys[6], 8, (5,), replace=False),
        "permutation": random.permutation(random.fold_in(keys[7], 2), low),
    }


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], name)


def test_numbers_are_those_of_jax_under_its_own_settings():
    equal(draws(prng, prng.key(5)), draws(jax.random, jax.random.key(5)))


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_setting_of_jax_changes_a_draw(setting):
    expected = draws(prng, prng.key(5))
    with SETTINGS[setting]():
        equal(draws(prng, prng.key(5)), expected)
        jitted = jax.jit(lambda key: draws(prng, key))(prng.key(5))
    equal(jitted, expected)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", OURS)
def test_a_seed_is_one_board_under_every_setting(name, setting):
    env = worlds.load_env(name, backend="mujoco")
    world = worlds.load(name)

    def starts():
        key = prng.key(5000)
        yield env.reset(key)
        for task in world.tasks.names:
            yield world.make_task(task, 5000, env).reset(env, key)
        yield env.reset_batch(prng.split(key, 2))

    expected = list(starts())
    with SETTINGS[setting]():
        found = list(starts())
    for a, b in zip(expected, found, strict=True):
        equal(vars(a), vars(b))


def test_all_64_bits_of_a_seed_count():
    words = [
        tuple(jax.random.key_data(prng.key(seed)).tolist())
        for seed in (7, 7 + 2**32, 7 + 2**33, 2**64 - 1)
    ]
    assert words == [(0, 7), (1, 7), (2, 7), (2**32 - 1, 2**32 - 1)]


def test_seeds_of_episodes_and_packages_count_with_all_bits():
    key = prng.key(0)
    keys = keys_of(key, np.array([5, 5 + 2**32, 5 + 2**40]))
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 3
    alone = jax.random.key_data(keys_of(key, np.array([5])))
    np.testing.assert_array_equal(jax.random.key_data(keys)[:1], alone)
    assert seed_of(prng.key(5)) == 5 and seed_of(prng.key(2**33 + 5)) == 2**33 + 5
    draw = lambda seed: np.random.RandomState(numpy_seed(seed)).randint(2**31)
    assert draw(5) == np.random.RandomState(5).randint(2**31)
    assert len({draw(5), draw(5 + 2**32), draw(5 + 2**33)}) == 3


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_told(seed):
    with pytest.raises(ValueError, match=rf"seed is {seed}, expected 0 to 2\*\*64 - 1"):
        prng.key(seed)


def sampled_by_jax(path):
    """Samplers that a file takes from `jax.random`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or node.attr in NO_NUMBERS:
            continue
        if ast.unparse(node.value) == "jax.random":
            yield node.attr


def test_all_draws_of_the_packages_are_those_of_prng():
    paths = [
        path
        for package in ("swm_jax", "data_pipelines", "experiments")
        for path in (ROOT / package).rglob("*.py")
        if path != ROOT / "swm_jax/prng.py"
    ]
    found = {str(p.relative_to(ROOT)): list(sampled_by_jax(p)) for p in paths}
    assert not {path: names for path, names in found.items() if names}
