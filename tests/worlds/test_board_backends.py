"""MJX and the C engine: one model, one interface, the same poses."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swm_jax import worlds

STEPS = 50
# After 50 control steps of pushing: contacts amplify the rounding of float32.
MEDIAN_TOLERANCE = 0.0003  # metres, over worlds, of the worst block of a world
WORST_TOLERANCE = 0.005  # metres

HANG_CODE = """
import jax, jax.numpy as jnp
from swm_jax import worlds
env = worlds.load_env(backend="mjx")
states = env.reset_batch(jax.random.split(jax.random.key(0), 64))
act = jnp.full((64, 2), 0.02)
run = jax.jit(lambda s: jax.lax.fori_loop(0, 3, lambda _, s: env.step_batch(s, act), s))
end = run(states)
print(end.step.tolist() == [3] * 64, bool(jnp.isfinite(end.qpos).all()))
"""


@pytest.fixture(scope="module")
def both():
    return worlds.load_env(backend="mjx"), worlds.load_env(backend="mujoco")


def pushes(scene, steps, rng):
    """Open-loop pushes of 0.02 m per step from block to block."""
    peg = scene.peg.copy()
    out = np.zeros((len(peg), steps, 2), np.float32)
    for t in range(steps):
        way = scene.block_pose[:, t // 12 % 8, :2] - peg
        way /= np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
        out[:, t] = 0.02 * way + rng.normal(0, 0.004, way.shape)
        peg += out[:, t]
    return out


def test_backends_agree_after_50_steps_of_pushing(both):
    mjx, engine = both
    keys = jax.random.split(jax.random.key(0), 8)
    state = mjx.reset_batch(keys)
    jax.tree.map(np.testing.assert_array_equal, state, engine.reset_batch(keys))
    actions = pushes(
        engine.scene(engine.native(state)), STEPS, np.random.default_rng(0)
    )
    ours = jax.tree.map(np.asarray, mjx.rollout_batch(state, actions))
    theirs = engine.rollout_batch(state, actions)
    assert ours.block_pose.shape == theirs.block_pose.shape == (8, STEPS + 1, 8, 3)
    moved = theirs.block_pose[:, -1] - theirs.block_pose[:, 0]
    assert np.linalg.norm(moved[..., :2], axis=-1).max(1).min() > 0.02
    error = (ours.block_pose - theirs.block_pose)[:, -1, :, :2]
    error = np.linalg.norm(error, axis=-1).max(1)
    assert np.median(error) < MEDIAN_TOLERANCE
    assert error.max() < WORST_TOLERANCE
    np.testing.assert_allclose(ours.peg, theirs.peg, atol=1e-3)


@pytest.mark.parametrize(
    "optimised", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_batched_mjx_in_a_loop_finishes_in_a_fresh_process(optimised):
    """With a pool of two threads this waits for ever; the package prevents it."""
    keep = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH")
    if not optimised:  # a third of the time to compile
        keep += ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    fresh = {name: os.environ[name] for name in keep if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", HANG_CODE],
        env={**fresh, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.split()[-2:] == ["True", "True"], done.stderr[-2000:]


def test_mjx_refuses_bad_actions_without_and_within_jit(both):
    mjx, _ = both
    state = mjx.reset(jax.random.key(0))
    with pytest.raises(ValueError, match=r"action\[0\] is nan"):
        mjx.step(state, jnp.array([jnp.nan, 0.0]))
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
        jax.eval_shape(mjx.step, state, jnp.zeros(3))


def test_cpu_hosts_get_the_c_engine():
    assert jax.default_backend() == "cpu"
    assert worlds.load_env().backend == "mujoco"
