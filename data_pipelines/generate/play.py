"""Simulation of episodes of any world, with random lengths, policies and starts.

The policies are those of the world (`World.policies`). An episode is a function of
(seed of the data set, number of the episode).

With `config.branches` n, n consecutive episodes are branches: they begin in the same
state, a start of the world after up to `config.lead` steps of a policy, and differ in
policy and actions.

Axes: B episodes, T actions, A action width.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from swm_jax import prng
from swm_jax.envs import AnyScene, Env
from swm_jax.worlds.world import Policies


class Simulated(struct.PyTreeNode):
    """B simulated episodes, padded to the longest; valid up to `length`.

    Attributes:
      scene: numpy scenes with leading axes [B, T + 1].
      action: float32[B, T, A].
      length: int32[B], actions of each episode.
      policy: int32[B], index into the world's policies.
    """

    scene: AnyScene
    action: Float[np.ndarray, "B T A"]
    length: Int[np.ndarray, " B"]
    policy: Int[np.ndarray, " B"]


def play_episodes(
    env: Env,
    policies: Policies,
    seed: int,
    numbers: Sequence[int],
    config: ml_collections.ConfigDict,
) -> Simulated:
    """Simulates the episodes `numbers` of the data set `seed`.

    Args:
      env: with any engine.
      policies: of the env's world.
      seed: of the data set.
      numbers: B episode numbers.
      config: `min_steps`, `max_steps`, `mixture` (policy -> weight), `branches`,
        `lead`, and the fields that the world's `starts` read.
    """
    weights = np.array([config.mixture.get(name, 0.0) for name in policies.names])
    drawn = config.min_steps, config.max_steps, tuple(weights / weights.sum())
    rows = np.asarray(numbers)
    keys = episode_keys(prng.key(seed), jnp.asarray(rows))
    length, policy, _, act_keys = _draw(keys, *drawn)
    first_memory, act = _batched(policies.first_memory, policies.act)
    play = _play_jitted if env.traceable else _play_stepwise
    # Branches share the start of the first one's number.
    first, share = np.unique(rows - rows % config.branches, return_inverse=True)
    keys = episode_keys(prng.key(seed), jnp.asarray(first))
    _, lead_policy, start_keys, lead_keys = _draw(keys, *drawn)
    start = policies.starts(env, start_keys, config)
    if config.lead:
        # Another key than that of the branch with this number, which acts differently.
        lead_keys = jax.vmap(lambda key: prng.fold_in(key, 1))(lead_keys)
        most = config.lead
        scenes, _ = play(env, start, lead_policy, lead_keys, most, first_memory, act)
        steps = jax.vmap(lambda key: prng.randint(key, (), 0, most + 1))
        steps = np.asarray(steps(lead_keys))
        pick = lambda x: np.asarray(x)[np.arange(len(steps)), steps]
        start = env.state_from_scene(jax.tree.map(pick, scenes))
    start = jax.tree.map(lambda x: x[share], start)
    scenes, actions = play(
        env, start, policy, act_keys, config.max_steps, first_memory, act
    )
    return Simulated(scenes, actions, np.asarray(length), np.asarray(policy))


@functools.cache
def _batched(first_memory, act):
    """The functions of one episode, batched over B and cached, so compiled once."""
    return jax.jit(jax.vmap(first_memory)), jax.jit(jax.vmap(act, (0, None, 0, 0, 0)))


@jax.jit
def episode_keys(key, numbers):
    # fold_in by number, so that an episode is the same in any shard.
    return jax.vmap(lambda n: prng.fold_in(key, n))(numbers)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(keys, min_steps, max_steps, weights):
    """Length, policy and keys of each episode."""

    def one(key):
        a, b, start, act = prng.split(key, 4)
        length = prng.randint(a, (), min_steps, max_steps + 1)
        policy = prng.choice(b, len(weights), p=jnp.array(weights))
        return length, policy, start, act

    return jax.vmap(one)(keys)


def _play_stepwise(env, states, policy, keys, steps, first_memory, act):
    """Simulates with the C engine: one call per step for all episodes."""
    memory = first_memory(keys)
    scenes, actions = [env.scene(states)], []
    for t in range(steps):
        action, memory = act(keys, t, policy, scenes[-1], memory)
        actions.append(np.asarray(action))
        states = env.step_batch(states, actions[-1])
        scenes.append(env.scene(states))
    stacked = jax.tree.map(lambda *x: np.stack(x, 1), *scenes)
    return stacked, np.stack(actions, 1)


def _play_jitted(env, states, policy, keys, steps, first_memory, act):
    """Simulates with MJX: whole episodes in one jitted program."""
    play = _player(env, steps, first_memory, act)
    return jax.tree.map(np.asarray, play(states, policy, keys))


@functools.cache
def _player(env, steps, first_memory, act):
    """Jitted program of whole episodes, cached for all shards of a run."""

    def step(carry, t):
        states, memory, policy, keys = carry
        scene = env.scene(states)
        action, memory = act(keys, t, policy, scene, memory)
        return (env.step_batch(states, action), memory, policy, keys), (scene, action)

    @jax.jit
    def play(states, policy, keys):
        carry = (states, first_memory(keys), policy, keys)
        carry, (scenes, actions) = jax.lax.scan(step, carry, jnp.arange(steps))
        # The scan emits the scene before each action: append the final one.
        last = jax.tree.map(lambda x: x[None], env.scene(carry[0]))
        scenes = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), scenes, last)
        return jax.tree.map(lambda x: x.swapaxes(0, 1), (scenes, actions))

    return play
