"""Benchmark of planning: candidates/s and ms per replan, with the published loop.

    python -m experiments.benchmarks.planner --preset tiny       a minute
    python -m experiments.benchmarks.planner --preset cpu        3B shape, 2 layers
    python -m experiments.benchmarks.planner --preset h200       all of 3B, bfloat16
    python -m experiments.benchmarks.planner --preset sweep      sizes, layouts, N, Q, K

Rows of a table are measured in one run, in turns: our layouts; with the extra `parity`
the published loop in PyTorch with the same weights, tuned and as published. The floor
is the time of plain matrix products of the same shapes in sequence; "rate" is
operations per second as a share of the floor's. Operations and least bytes are counted
from shapes (`swm_jax/models/flops.py`). Weights are random, made on the device.

`--overhead` adds `planner_overhead`: planners by themselves, pytorch-mppi, evosax.
"""

import dataclasses
import functools
import os

import swm_jax  # noqa: F401  (sets NPROC before jax starts)
from swm_jax import prng

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks import planner_overhead
from experiments.benchmarks.parts.timing import installed, machine, side_by_side
from experiments.benchmarks.parts.workloads import (
    HORIZON,
    WORDS,
    matrix_products,
    random_actions,
    random_params,
    random_scene,
)
from swm_jax.cli import run_command
from swm_jax.models import (
    ModelConfig,
    VLMWorldModel,
    flops,
    get_config,
)
from swm_jax.models.chunked_scoring import Query, pass_that_fits
from swm_jax.planning import GoalArrays, get_planner


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of the measurements.

    Attributes:
      variants, layouts, counts, questions, sub_chunks: every combination is a row.
      overrides: of the variants.
      loop: candidates of the published loop, ours and PyTorch's; 0 leaves it out.
      batches: sequences at a time that the PyTorch loop may choose from.
      replan: candidates and iterations of MPPI.
      climb: candidates of a gradient step.
      check: candidates compared between bfloat16 and float32 at two layers.
    """

    variants: tuple[str, ...]
    counts: tuple[int, ...]
    layouts: tuple[str, ...] = ("branched", "block")
    overrides: dict = dataclasses.field(default_factory=dict)
    questions: tuple[int, ...] = (2,)
    sub_chunks: tuple[int, ...] = (2,)
    loop: int = 0
    batches: tuple[int, ...] = (1, 2, 4, 8)
    replan: tuple[int, int] = (0, 0)
    climb: int = 0
    check: int = 0


_CUT = dict(depth=2, vision_depth=2, dtype="float32")
PRESETS = {
    "tiny": Preset(("tiny",), (16, 64), loop=2, replan=(32, 2), climb=8, check=8),
    "cpu": Preset(
        ("paligemma_3b_224",),
        (16, 64),
        overrides=_CUT,
        loop=2,
        batches=(1, 2, 4),
        replan=(64, 2),
        climb=4,
    ),
    "h200": Preset(
        ("paligemma_3b_224",),
        (1024, 4096),
        layouts=("branched",),
        loop=16,
        batches=(16, 64),
        replan=(256, 6),
        climb=64,
        check=64,
    ),
    "sweep": Preset(
        ("tiny", "small"),
        (64, 256, 1024),
        questions=(1, 2, 6),
        sub_chunks=(1, 2, 4),
    ),
}
_PRESET = flags.DEFINE_enum("preset", "tiny", tuple(PRESETS), "What to measure.")
_COUNTS = flags.DEFINE_list("counts", None, "Candidates, instead of the preset's.")
_LOOP = flags.DEFINE_integer("loop", None, "Candidates of the published loop.")
_TURNS = flags.DEFINE_integer("turns", 3, "Times each row runs; the shortest counts.")
_SECONDS = flags.DEFINE_float("seconds", 240.0, "No further turns after these.")
_OVERHEAD = flags.DEFINE_bool("overhead", False, "Planners alone at the end.")


@dataclasses.dataclass(frozen=True)
class Row:
    """Row of a table: a call and its amount of work."""

    name: str
    candidates: int
    call: functools.partial
    flops: int = 0
    bytes: int = 0
    floor: functools.partial | None = None
    floor_flops: int = 0


def main(argv):
    del argv
    preset = PRESETS[_PRESET.value]
    if _COUNTS.value:
        counts = tuple(int(count) for count in _COUNTS.value)
        preset = dataclasses.replace(preset, counts=counts)
    if _LOOP.value is not None:
        preset = dataclasses.replace(preset, loop=_LOOP.value)
    print(machine())
    for variant in preset.variants:
        config = get_config(variant, **preset.overrides)
        print(
            f"\n{variant}: {config.depth} + {config.vision_depth} layers, width "
            f"{config.width}, {config.dtype}, {config.image_tokens} image tokens, "
            f"{HORIZON} actions, questions of {WORDS} tokens"
        )
        if preset.check:
            check_precision(config, preset.check)
        params = random_params(config, config.dtype)
        for questions in preset.questions:
            for sub_chunks in preset.sub_chunks:
                measure(preset, config, params, questions, sub_chunks)
    if _OVERHEAD.value:
        planner_overhead.share_of_planning()
        planner_overhead.planners_alone()


def measure(preset, config: ModelConfig, params, questions: int, sub_chunks: int):
    """Measures and prints one table."""
    horizons = tuple(HORIZON * (k + 1) // sub_chunks for k in range(sub_chunks))
    scene = random_scene(config, questions)
    counts = {layout: preset.counts for layout in preset.layouts}
    if preset.loop:
        counts["full"] = (preset.loop,)
    rows = []
    for layout, wanted in counts.items():
        model = VLMWorldModel(params, dataclasses.replace(config, layout=layout))
        context = jax.jit(VLMWorldModel.encode)(model, *scene)
        for count in wanted:
            rows.append(scoring_row(model, context, count, horizons, questions))
    theirs = published_rows(preset, config, params, scene, horizons)
    model = VLMWorldModel(params, dataclasses.replace(config, layout="branched"))
    rows += theirs + planning_rows(preset, model, scene, horizons)
    floors = [row.floor for row in rows if row.floor]
    turns = dict(turns=_TURNS.value, seconds=_SECONDS.value)
    times = side_by_side(*(row.call for row in rows), *floors, **turns)
    floor_times = iter(times[len(rows) :])
    base = next((r for r in theirs if "tuned" in r.name), None)
    base = base or next((r for r in rows if r.name == "full"), rows[0])
    rate = base.candidates / times[rows.index(base)]
    print(
        f"\n{questions} questions at horizons {horizons}; x: candidates per second "
        f"against {base.name}\n{'':28}{'N':>6}{'ms':>10}{'cand./s':>10}{'x':>8}"
        f"{'TFLOP/s':>9}{'GB/s':>7}{'floor ms':>10}{'rate':>6}"
    )
    for row, seconds in zip(rows, times):
        per_second = row.candidates / seconds
        line = f"{row.name:28}{row.candidates:6d}{seconds * 1e3:10.1f}"
        line += f"{per_second:10.2f}{per_second / rate:8.1f}"
        line += f"{row.flops / seconds / 1e12:9.3f}" if row.flops else " " * 9
        if row.floor:
            floor = next(floor_times)
            share = (row.flops / seconds) / (row.floor_flops / floor)
            line += f"{row.bytes / seconds / 1e9:7.1f}{floor * 1e3:10.1f}{share:6.0%}"
        print(line, flush=True)


def scoring_row(model, context, count, horizons, questions) -> Row:
    """Answers to all questions about `count` candidates."""
    config = model.config
    asked = flops.Scoring(count, len(horizons), questions, HORIZON, WORDS)
    actions = random_actions(config, count)
    score = jax.jit(
        functools.partial(VLMWorldModel.answer_log_probs, horizons=horizons)
    )
    query = Query(1, HORIZON, len(horizons), questions, WORDS)
    passes = -(-count // pass_that_fits(config, query).candidates)
    one_pass = asked._replace(candidates=-(-count // passes))
    tokens = flops.scoring_tokens(config, one_pass)
    return Row(
        config.layout,
        count,
        functools.partial(score, model, context, actions),
        flops.scoring_flops(config, asked),
        flops.scoring_bytes(
            config, asked, passes, 2 if config.dtype == "bfloat16" else 4
        ),
        matrix_products(config, tokens, passes),
        tokens * passes * flops.decoder_flops_per_token(config),
    )


def planning_rows(preset, model, scene, horizons) -> list[Row]:
    """Rows of a whole replan with image encoding, and of one gradient step."""
    rows, (image, batch) = [], scene
    count, rounds = preset.replan
    if count:
        sub_chunk = horizons[0]
        planner = get_planner(
            "mppi",
            candidates=count,
            iterations=rounds,
            sub_chunk=sub_chunk,
            action_size=model.config.action_size,
        )
        asked = batch.type_id.shape
        goal = GoalArrays(jnp.ones(asked, jnp.int32), jnp.ones(asked))
        inputs = model, image, batch, goal, planner.init_state(1), prng.key(1)
        name = f"replan, mppi x {rounds}"
        call = functools.partial(planner.plan, *inputs)
        rows.append(Row(name, count * rounds, call))
    if preset.climb:
        context = jax.jit(VLMWorldModel.encode)(model, image, batch)

        def margin(actions, model, context):
            logits = VLMWorldModel.answer_logits(model, context, actions, horizons)
            return (logits[..., 1] - logits[..., 0]).sum()

        climb = jax.jit(jax.grad(margin))
        inputs = random_actions(model.config, preset.climb), model, context
        call = functools.partial(climb, *inputs)
        rows.append(Row("gradient step", preset.climb, call))
    return rows


def published_rows(preset, config, params, scene, horizons) -> list[Row]:
    """Rows of the published loop; empty if PyTorch is missing."""
    if not preset.loop or not installed("torch", "transformers"):
        return []
    from experiments.benchmarks.references.published_loop import PublishedLoop

    image, batch = scene
    words = np.asarray(batch.tokens[0]), np.asarray(batch.answer_ids[0])
    loop = PublishedLoop(params, config, np.asarray(image.image[0]), *words, horizons)
    actions = np.asarray(random_actions(config, preset.loop))
    features, count = loop.encode(), preset.loop
    tuned = lambda *choice: functools.partial(loop.tuned, actions[0], features, *choice)
    # Its best batch size, then its best number of threads.
    choices = [(size, 0) for size in preset.batches]
    best = fastest(choices, tuned)
    choices = [best] + [(best[0], n) for n in (1, os.cpu_count())]
    best = fastest(choices if loop.on_cpu else [best], tuned)
    ours = VLMWorldModel(params, dataclasses.replace(config, layout="full"))
    context = jax.jit(VLMWorldModel.encode)(ours, *scene)
    score = jax.jit(
        functools.partial(VLMWorldModel.answer_log_probs, horizons=horizons)
    )
    expected = np.asarray(score(ours, context, actions))[0]
    print(
        f"published loop: best at {best[0]} sequences at a time of {preset.batches}, "
        f"{best[1] or 'default'} threads; log-probabilities differ from our full "
        f"layout by at most {np.abs(tuned(*best)() - expected).max():.1e}"
    )
    full = dataclasses.replace(config, layout="full")
    asked = batch.tokens.shape[1:]
    work = sum(
        flops.scoring_flops(full, flops.Scoring(count, 1, asked[0], h, WORDS))
        for h in horizons
    )
    queries = count * len(horizons) * asked[0]
    literal = work + queries * flops.image_tower_flops(config)
    for h in horizons:
        length = config.image_tokens + h + WORDS + 2
        literal += flops.unembed_flops(config, count * asked[0] * length)
    once = functools.partial(loop.literal, actions[0], *best)
    return [
        Row("PyTorch loop, tuned", count, tuned(*best), work),
        Row("PyTorch loop, as published", count, once, literal),
    ]


def fastest(choices, call):
    """Arguments of the fastest program among those that `call(*arguments)` makes."""
    times = side_by_side(*(call(*choice) for choice in choices), turns=1)
    return choices[int(np.argmin(times))]


def check_precision(config: ModelConfig, count: int) -> None:
    """Prints differences of bfloat16 and float32 at two layers and equal weights."""
    cut = dict(depth=2, vision_depth=2, vocab_size=min(1024, config.vocab_size))
    cut = dataclasses.replace(config, layout="branched", **cut)
    params, margins = random_params(cut, "float32"), []
    scene, actions = random_scene(cut, 2), random_actions(cut, count)

    @jax.jit
    def score(model, actions):
        context = model.encode(*scene)
        return model.answer_logits(context, actions, (HORIZON // 2, HORIZON))

    for dtype in ("bfloat16", "float32"):
        weights = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), params)
        model = VLMWorldModel(weights, dataclasses.replace(cut, dtype=dtype))
        with jax.default_matmul_precision("highest"):
            logits = np.asarray(score(model, actions), np.float64)
        margins.append((logits[..., 1] - logits[..., 0]).reshape(count, -1))
    low, high = margins
    spread = high.std(0).mean()
    rank = lambda x: x.argsort(0).argsort(0)
    orders = [np.corrcoef(rank(low)[:, i], rank(high)[:, i])[0, 1] for i in range(4)]
    print(
        f"bfloat16 against float32 at 2 layers: margins of {count} candidates differ "
        f"by {np.abs(low - high).mean():.1e} (their spread is {spread:.1e}); rank "
        f"correlation {np.mean(orders):.3f}"
    )


if __name__ == "__main__":
    run_command(main)
