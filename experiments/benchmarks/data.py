"""Benchmark of reading and generating data.

    python -m experiments.benchmarks.data [--episodes 240] [--seconds 10]
        [--data DIR] [--world board] [--parts read,generate] [--output FILE.json]

read      SAQA tuples per second from disk with 1 and 2 workers: our stream as training
          uses it (many questions share an image), our stream with one question per
          image, and a PyTorch DataLoader over the same tuples in an HDF5 file as robot
          data are published (`hdf5_loader`). Needs the extras bench and parity (torch).
generate  episodes, env steps and frames per second; the share of physics, rendering,
          PNG and disk; and the rate of each stage alone on the same cores. Runs on
          JAX's default device.

Rates are medians over rounds in which the variants take turns, so that other load
affects all alike. Absolute numbers depend on the machine; quote the ratios.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags, logging

from data_pipelines.batches.config import Data
from data_pipelines.batches.stream import make_train_iterator
from data_pipelines.generate import shards as generation
from data_pipelines.generate.config import make_env, resolve
from data_pipelines.saqa.horizons import horizons_of
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.saqa.tokens import QuestionTokens
from data_pipelines.schema import store as folder
from data_pipelines.schema.episode import decode_frame, encode_png
from data_pipelines.schema.read import load_episodes
from experiments import generate_board, generate_cube
from swm_jax.cli import define_path, no_arguments, run_command
from swm_jax.eval.journal import write_json
from swm_jax.models import Tokenizer, get_config

ROUNDS = 3
WORKERS = (1, 2)
_TOKENIZERS = {"board": "tiny", "cube": "board_cube"}


def config_of(world: str, episodes: int) -> ml_collections.ConfigDict:
    """Default generation config of the world, reduced in size."""
    source = {"board": generate_board, "cube": generate_cube}[world]
    config = source.get_config()
    config.episodes = episodes
    config.episodes_per_shard = min(config.episodes_per_shard, max(episodes // 3, 2))
    return config


def rate(stream: Iterator[Any], size: Callable[[Any], int], seconds: float) -> float:
    """Items per second, without the first batch (start of workers)."""
    next(stream)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        done += size(next(stream))
    return done / (time.perf_counter() - begin)


def endless(loader: Any) -> Iterator[Any]:
    """Iterator over repeated epochs of a loader."""
    while True:
        yield from loader


def measure_reading(directory: str, seconds: float) -> dict[str, dict[str, float]]:
    """name -> workers -> tuples per second, medians of `ROUNDS`."""
    from experiments.benchmarks.references.hdf5_loader import loader, write_hdf5

    episodes = load_episodes(directory, "train", frames="compressed")
    domain = episodes.domain
    tokens = Tokenizer.load(_TOKENIZERS[domain])
    model = get_config("tiny", action_size=episodes.action.shape[-1])
    sampler = SaqaSampler(episodes, horizons=horizons_of(model.max_horizon))
    drawn = [sampler.sample_batch(0, step, 16, 12, 72) for step in range(20)]
    blocks = np.unique(episodes.block_id)
    words = QuestionTokens.make(
        tokens, blocks, model.max_question_tokens, sampler.language
    )
    shapes = {
        "ours, shared images": (16, 12, 72),
        "ours, a question an image": (64, 1, 1),
    }
    modes = ("disk", "compressed", "memory")
    rates: dict[str, dict[str, list[float]]] = {}

    def note(name: str, workers: int, value: float) -> None:
        rates.setdefault(name, {}).setdefault(str(workers), []).append(value)

    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/tuples.hdf5"
        count = write_hdf5(path, episodes, drawn, words)
        print(f"{count} tuples of {len(episodes)} episodes in HDF5", flush=True)
        for _ in range(ROUNDS):
            for workers in WORKERS:
                torch = endless(loader(path, model.max_horizon, 64, workers))
                size = lambda batch: len(batch["answer"])
                note("PyTorch, HDF5", workers, rate(torch, size, seconds))
                del torch
                for name, (images, questions, queries) in shapes.items():
                    for mode in modes:
                        config = Data(
                            images=images,
                            questions=questions,
                            queries=queries,
                            threads=workers,
                            frames=mode,
                        )
                        stream = make_train_iterator(
                            directory, config, tokens, model, seed=0
                        )
                        size = lambda batch: int(batch.answer_mask[..., 0].sum())
                        value = rate(stream, size, seconds)
                        note(f"{name}, {mode}", workers, value)
    return {
        name: {workers: float(np.median(x)) for workers, x in some.items()}
        for name, some in rates.items()
    }


def alone(
    config: ml_collections.ConfigDict, shards: int = 2
) -> tuple[dict[str, float], dict[str, float]]:
    """Rate and cost of each stage of generation run alone.

    Returns:
      Frames per second and core seconds per frame, by stage.
    """
    config = resolve(config)
    env = make_env(config)
    per, schema = config.episodes_per_shard, generation.schema_of(config)
    parts = [range(i * per, (i + 1) * per) for i in range(shards)]
    counts, times = generation.Counts(), {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter(), time.process_time()
        result = work()
        ends = time.perf_counter(), time.process_time()
        times[stage] = np.subtract(ends, begin)
        return result

    simulate = lambda part: generation._simulate(config, env, part, counts)
    simulate(parts[0])  # compiles
    played = timed("physics", lambda: [simulate(part) for part in parts])
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        tempfile.TemporaryDirectory() as scratch,
    ):

        def draw(part, episodes, counts):
            return generation._draw(config, env, part, episodes, threads, counts)

        draw(parts[0], played[0], counts)  # compiles
        painted = generation.Counts()
        made = timed(
            "drawing",
            lambda: [draw(part, p, painted) for part, p in zip(parts, played)],
        )
        files = [image for episodes in made for e in episodes for image in e.image]
        images = [decode_frame(file) for file in files]
        timed("PNG", lambda: list(threads.map(encode_png, images)))
        paths = [Path(scratch) / f"{i}.array_record" for i in range(shards)]
        write = lambda pair: folder.write_shard(*pair, schema)
        timed("disk", lambda: list(map(write, zip(paths, made))))
    times["rendering"] = times.pop("drawing") - times["PNG"]
    return (
        {stage: len(files) / wall for stage, (wall, _) in times.items()},
        {stage: core / len(files) for stage, (_, core) in times.items()},
    )


def measure_generation(env: str, episodes: int, output: str) -> dict[str, Any]:
    """Rates of a whole run compared with those of its stages alone."""
    config = config_of(env, episodes)
    stages, cost = alone(config)
    begin = time.perf_counter()
    counts = generation.generate(config, output)
    spent = time.perf_counter() - begin
    busy = {
        "physics": counts.physics,
        "rendering": counts.rendering,
        "PNG": counts.png,
        "disk": counts.writing,
    }
    slowest = min(stages, key=stages.get)
    return {
        "device": jax.devices()[0].device_kind,
        "episodes_per_second": counts.episodes / spent,
        "env_steps_per_second": counts.steps / spent,
        "frames_per_second": counts.frames / spent,
        "share_of_thread_seconds": {k: v / sum(busy.values()) for k, v in busy.items()},
        "frames_per_second_alone": stages,
        "core_seconds_per_frame": cost,
        # With every stage on the same cores none can run at its own pace.
        "frames_per_second_of_the_cores": os.cpu_count() / sum(cost.values()),
        "slowest": slowest,
        "of_what_the_slowest_allows": counts.frames / spent / stages[slowest],
    }


def main(argv: list[str]) -> None:
    """Prints tables; see the top of this file."""
    no_arguments(argv)
    unknown = [part for part in _PARTS.value if part not in ("generate", "read")]
    if unknown:
        sys.exit(f"error: --parts has '{unknown[0]}', expected generate, read")
    logging.set_verbosity(logging.WARNING)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        made = f"{scratch}/{_WORLD.value}"
        if "generate" in _PARTS.value or not _DATA.value:
            result["generate"] = found = measure_generation(
                _WORLD.value, _EPISODES.value, made
            )
            print(
                f"\n{_WORLD.value} on {found['device']}, {os.cpu_count()} cores: "
                f"{found['episodes_per_second']:.2f} episodes/s, "
                f"{found['env_steps_per_second']:.0f} env steps/s, "
                f"{found['frames_per_second']:.0f} frames/s"
            )
            print(f"{'':12}{'share':>8}{'alone, frames/s':>18}{'core ms/frame':>16}")
            for stage, value in found["frames_per_second_alone"].items():
                share = found["share_of_thread_seconds"][stage]
                cost = 1000 * found["core_seconds_per_frame"][stage]
                print(f"{stage:12}{100 * share:6.1f} %{value:18.0f}{cost:16.2f}")
            print(
                f"the whole runs at {100 * found['of_what_the_slowest_allows']:.0f} % "
                f"of what {found['slowest']} allows alone; all stages together cost "
                f"these cores {found['frames_per_second_of_the_cores']:.0f} frames/s "
                "at best\n",
                flush=True,
            )
        if "read" in _PARTS.value:
            rates = measure_reading(_DATA.value or made, _SECONDS.value)
            result["read"] = rates
            base = rates["PyTorch, HDF5"]
            print(f"\n{'tuples/s':38}" + "".join(f"{w:>9} workers" for w in base))
            for name, some in rates.items():
                cells = (f"{v:9.0f} ({v / base[w]:5.1f}x)" for w, v in some.items())
                print(f"{name:38}" + "".join(cells))
    if _JSON.value:
        write_json(Path(_JSON.value), result)


if __name__ == "__main__":  # flags of commands imported together would clash
    _EPISODES = flags.DEFINE_integer("episodes", 240, "Episodes made and read.")
    _SECONDS = flags.DEFINE_float("seconds", 10.0, "Time per rate and round.")
    _DATA = define_path("data", None, "Read these; None: those just made.")
    _WORLD = flags.DEFINE_enum("world", "board", list(_TOKENIZERS), "What to generate.")
    _PARTS = flags.DEFINE_list("parts", ["generate", "read"], "Which parts.")
    _JSON = define_path("output", None, "Also write the numbers here.")
    run_command(main)
