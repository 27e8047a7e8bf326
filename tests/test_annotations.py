"""Arrays are held against their annotations at every call that could tell otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checked_annotations import checked, jaxtyped
from jaxtyping import Float, Int, TypeCheckError

from swm_jax.arrays import Array
from swm_jax.worlds.pusht.overlap import goal_distance

held = jaxtyped(typechecker=checked)


@held
def scaled(
    x: Float[Array, "n 3"], by: Float[Array, " n"] | float = 1.0, *, keep: bool = True
) -> Float[Array, "n 3"]:
    factor = by if isinstance(by, float) else by[:, None]
    return x * factor if keep else (x * factor)[:1]


@held
def total(*parts: Int[Array, " n"], **more: Int[Array, " n"]) -> Int[Array, " n"]:
    return sum((*parts, *more.values()))


class Thing:
    @held
    def first(self, pair: "tuple[Float[Array, ' n'], Float[Array, ' n']]") -> Array:
        return pair[0]

    @staticmethod
    @held
    def rows(of: list[Float[Array, " 2"]]) -> Float[Array, "n 2"]:
        return np.stack([x[:2] for x in of])


def wrong(call, *args, **kwargs):
    with pytest.raises(TypeCheckError):
        call(*args, **kwargs)


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_good_call_does_not_excuse_a_bad_one(xp):
    rows = lambda n, wide=3: xp.ones((n, wide), xp.float32)
    for _ in range(2):
        assert scaled(rows(4)).shape == (4, 3)
        assert scaled(rows(4), xp.ones(4, xp.float32)).shape == (4, 3)
        wrong(scaled, rows(4, 2))
        wrong(scaled, rows(4), xp.ones(1, xp.float32))
        wrong(scaled, rows(4), by=xp.ones(1, xp.float32))
        wrong(scaled, rows(4).astype(xp.int32))
        wrong(scaled, rows(4), keep=False)  # the result
        wrong(scaled, 3.0)


def test_arguments_of_any_kind_are_held():
    one, two = np.arange(2), np.arange(3)
    for _ in range(2):
        np.testing.assert_array_equal(total(one, one, a=one), 3 * one)
        wrong(total, one, two[:1])
        wrong(total, one, a=one[:1])
        wrong(total, one + 0.5)


def test_methods_quoted_annotations_and_lists_are_held():
    one, two = np.ones(2, np.float32), np.ones(3, np.float32)
    for _ in range(2):
        assert Thing().first((one, one)) is one
        wrong(Thing().first, (one, two))
        assert Thing.rows([one, one, one]).shape == (3, 2)
        wrong(Thing.rows, [two, two])
    for count in range(1, 7):  # one item is looked at, by chance: the next time another
        with pytest.raises(TypeCheckError):
            for _ in range(300):
                Thing.rows([one] * count + [two])


def test_functions_made_within_functions_are_held_each_time():
    def outer(x):
        @held
        def inner(y: Float[Array, " n"]) -> Float[Array, " n"]:
            return y[: len(x)]

        return inner

    y = np.ones(3, np.float32)
    for _ in range(2):
        assert len(outer("abc")(y)) == 3
        wrong(outer("ab"), y)


def test_tracers_are_held():
    wrong(jax.jit(scaled), jnp.ones((4, 2)))
    assert jax.jit(scaled)(jnp.ones((4, 3))).shape == (4, 3)
    assert jax.vmap(scaled)(jnp.ones((5, 4, 3))).shape == (5, 4, 3)
    wrong(jax.vmap(scaled), jnp.ones((5, 4, 2)))


def test_functions_without_arrays_and_classes_stay_as_they_are():
    def plain(x: int, y: str = "") -> list[int]:
        return [x]

    assert held(plain) is plain and held(Thing) is Thing


def test_our_own_functions_are_held_where_make_test_asks_for_it(request):
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("only with --jaxtyping-packages, as in make test")
    assert goal_distance(np.zeros((5, 3), np.float32)).shape == (5,)
    wrong(goal_distance, np.zeros((5, 4), np.float32))
    wrong(goal_distance, np.zeros((5, 3), int))
