"""Benchmark of physics, rendering and training batches of the board on a device.

    python -m experiments.benchmarks.simulation
    python -m experiments.benchmarks.simulation --worlds 1024,4096,16384  # on a GPU

Per number of worlds: control steps/s of MJX (`physics_steps` physics steps each),
frames/s of the renderer per image size, and images/s of whole training batches (drawn,
labelled, tokenised and rendered in one program). Times are the shortest of `--repeats`
after a call that compiles.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import flags

from data_pipelines.generate.pose_cache import simulated_episodes
from data_pipelines.saqa import device_batches as device_saqa
from experiments import board_tiny, generate_board
from experiments.benchmarks.parts.timing import side_by_side
from swm_jax import prng, worlds
from swm_jax.cli import define_path, no_arguments, run_command
from swm_jax.envs import Env
from swm_jax.models import Tokenizer, get_config
from swm_jax.training import Experiment
from swm_jax.worlds.board.render.device import render

_WORLDS = flags.DEFINE_list("worlds", ["64"], "Worlds side by side.")
_SIZES = flags.DEFINE_list("sizes", ["64", "96", "224"], "Pixels per side.")
_STEPS = flags.DEFINE_integer("steps", 4, "Control steps of a timed call.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "The shortest time counts.", 1)
_POSES = define_path(
    "poses", None, "File of simulated episodes for the batches; made if not there."
)
_EPISODES = flags.DEFINE_integer("episodes", 200, "Episodes in that file.", 2)


def seconds(call: Callable[[], object]) -> float:
    """Shortest time of a call, without the first one, which compiles."""
    return side_by_side(call, turns=_REPEATS.value, seconds=math.inf)[0]


def steps_per_second(env: Env, count: int) -> float:
    """Control steps/s of all worlds together, with random actions."""
    states = env.reset_batch(prng.split(prng.key(0), count))
    shape = (count, _STEPS.value, 2)
    actions = prng.uniform(prng.key(1), shape, minval=-0.03, maxval=0.03)
    roll = lambda: env.rollout_batch(states, actions)
    return count * _STEPS.value / seconds(roll)


def frames_per_second(env: Env, count: int, size: int) -> float:
    """Rendered images/s, 2 x 2 samples a pixel."""
    states = env.reset_batch(prng.split(prng.key(0), count))
    scene = jax.tree.map(jnp.asarray, env.scene(states))
    draw = jax.jit(lambda scene: render(scene, size, size, supersample=2))
    return count / seconds(lambda: draw(scene))


def batches_per_second(images: int) -> tuple[float, int]:
    """Batches/s of the `tiny` model's data, and queries per image."""
    config = board_tiny.get_config("device")
    config.data.images = images
    data = Experiment.parse(config).data
    simulate = generate_board.get_config()
    simulate.episodes = _EPISODES.value
    episodes = simulated_episodes(simulate, _POSES.value, "train")
    batches = device_saqa.DeviceBatches.make(
        episodes, data, Tokenizer.load("tiny"), get_config("tiny"), seed=0
    )
    return 1 / seconds(lambda: batches(0)), data.queries


def main(argv: list[str]) -> None:
    """Prints a row as soon as it is measured."""
    no_arguments(argv)
    env = worlds.load_env("board", backend="mjx")
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}; MJX, {env.physics_steps} physics steps "
          "per control step")  # fmt: skip
    for count in (int(n) for n in _WORLDS.value):
        rate = steps_per_second(env, count)
        print(f"{count:6} worlds {rate:12,.0f} control steps/s", flush=True)
        for size in (int(n) for n in _SIZES.value):
            rate = frames_per_second(env, count, size)
            print(f"{count:6} scenes {rate:12,.0f} frames/s at {size} px", flush=True)
        if _POSES.value:
            rate, queries = batches_per_second(count)
            print(
                f"{count:6} images {rate * count:12,.0f} images/s in batches, "
                f"{rate * count * queries:,.0f} queries/s",
                flush=True,
            )


if __name__ == "__main__":
    run_command(main)
