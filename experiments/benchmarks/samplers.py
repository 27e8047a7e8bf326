"""Benchmark of the host's and the device's sampler of tuples, both on the CPU.

    JAX_PLATFORMS=cpu python -m experiments.benchmarks.samplers

Time per batch of draws and labels, without images: numpy as in the host's workers, and
the jitted program of `config.data.source = "simulated"`. If the program is at least as
fast, it could replace the numpy sampler.
"""

import jax
from absl import flags

from data_pipelines.generate.pose_cache import simulated_episodes
from data_pipelines.saqa.device_batches import DeviceBatches
from data_pipelines.saqa.device_draw import draw_one
from experiments import board_tiny, generate_board
from experiments.benchmarks.parts.timing import machine, side_by_side
from swm_jax import prng
from swm_jax.cli import define_path, run_command
from swm_jax.models import Tokenizer, get_config
from swm_jax.training import Experiment

_POSES = define_path(
    "poses", "data/poses.npz", "File of simulated episodes; made if not there."
)
_EPISODES = flags.DEFINE_integer("episodes", 200, "Episodes in that file.", 2)
_TURNS = flags.DEFINE_integer("turns", 7, "Of each sampler; the shortest counts.", 1)


def main(argv: list[str]) -> None:
    del argv
    data = Experiment.parse(board_tiny.get_config("device")).data
    simulate = generate_board.get_config()
    simulate.episodes = _EPISODES.value
    episodes = simulated_episodes(simulate, _POSES.value, "train")
    batches = DeviceBatches.make(
        episodes, data, Tokenizer.load("tiny"), get_config("tiny"), seed=0
    )
    shape = data.questions, data.queries
    longest = batches.sampler.horizons.longest

    @jax.jit
    def draw(tables, key):
        one = lambda key: draw_one(tables, key, data.saqa, longest, *shape)[1]
        return jax.vmap(one)(prng.split(key, data.images))

    host = lambda: batches.sampler.sample_batch(0, 0, data.images, *shape)
    device = lambda: draw(batches.tables, prng.key(0))
    numpy, program = side_by_side(host, device, turns=_TURNS.value)
    print(machine())
    print(f"{data.images} images, {shape[0]} questions, {shape[1]} queries each")
    print(f"numpy    {1e3 * numpy:8.1f} ms a batch, one core")
    print(f"program  {1e3 * program:8.1f} ms a batch, all cores")
    print(f"the program draws at {numpy / program:.2f} of numpy's rate")


if __name__ == "__main__":
    run_command(main)
