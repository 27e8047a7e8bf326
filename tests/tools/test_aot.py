"""The AOT tool on a small slice: real compiles by libtpu, verdicts, exit status."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import board_3b, cube_3b
from experiments.benchmarks.parts.workloads import random_batch
from swm_jax.models import SemanticWorldModel
from swm_jax.tools import TopologyError
from swm_jax.tools.analysis import Analysis, advice, out_of_memory
from swm_jax.tools.aot import verdict
from swm_jax.tools.programs import (
    Program,
    batch_shapes,
    planner_program,
    train_program,
    train_tokens,
)
from swm_jax.tools.topology import find_libtpu, get_slice
from swm_jax.training import Experiment
from swm_jax.training.sharding import make_mesh

ROOT = Path(__file__).parents[2]


def aot(*flags):
    return subprocess.run(
        [sys.executable, "-m", "swm_jax.tools.aot", *flags],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def a_program(**held):
    return Program("train step", lambda: None, held, 10, 100, 100, {"images": 96})


def test_the_last_line_says_what_fits_and_what_to_change():
    config = Experiment.parse(board_3b.get_config())
    good = Analysis(a_program(), True, {}, 6_000_000_000, 16_000_000_000)
    assert verdict([good], config) == "fits: train step 6.00 GB of 16.00 GB per chip"
    bad = Analysis(a_program(state=4), False, {}, 40_000_000_000, 16_000_000_000)
    line = verdict([good, bad], config)
    assert line.startswith("does not fit: train step needs 40.00 GB of 16.00 GB")
    assert "try config.accumulate=3 (now 1; images per chip at a time: 32)" in line
    assert "\n" not in line
    assert "accumulate=3 (now 1; images per chip at a time: 8)" in advice(
        bad, config, 4
    )
    # Half of the room is for two gradients, one of which is among the 40 GB.
    state = dict(parameters=2 * 10**9, **{"optimizer state": 4 * 10**9})
    full = Analysis(a_program(**state), False, {}, 40 * 10**9, 16 * 10**9)
    assert "accumulate=6 (now 1; images per chip at a time: 16)" in advice(full, config)
    assert advice(full, config, shards=96) == "a slice of more chips"
    much = Analysis(a_program(state=17_000_000_000), False, {}, 10**11, 16 * 10**9)
    assert "split it over more chips (config.mesh.fsdp" in advice(much, config)
    kept = dataclasses.replace(config.model.overrides, remat="dots")
    model = dataclasses.replace(config.model, overrides=kept)
    kept = dataclasses.replace(config, model=model)
    assert "remat='full'" in advice(bad, kept)


@pytest.mark.parametrize("experiment", [board_3b, cube_3b])
@pytest.mark.parametrize("arg", ["branched", "full", "lora"])
def test_the_3b_experiments_have_the_papers_settings(experiment, arg):
    config = Experiment.parse(experiment.get_config(arg))
    model = config.model.config()
    assert (model.variant, model.dtype) == ("paligemma_3b_224", "bfloat16")
    cube = experiment is cube_3b
    assert model.max_horizon == (20 if cube else 60)
    assert model.action_size == (5 if cube else 2)
    assert model.action_scale == 1.0  # actions as they are
    assert model.layout == ("full" if arg == "full" else "branched")
    assert (config.steps, config.data.images) == (64_000, 96)
    o = config.optimizer
    assert (o.name, o.schedule, o.clip_norm, o.weight_decay, o.warmup_steps) == (
        "adamw", "linear", 1.0, 0.0, 0,
    )  # fmt: skip
    if arg != "lora":
        assert o.learning_rate == 1e-5
    with pytest.raises(ValueError, match="did you mean 'branched'"):
        experiment.get_config("branchd")


@pytest.mark.parametrize("experiment", [board_3b, cube_3b])
def test_programs_of_the_experiments_fit_the_mesh_of_this_machine(experiment):
    config = Experiment.parse(experiment.get_config())
    mesh = make_mesh(vars(config.mesh))
    train = train_program(config, mesh)
    extra = 3 * 2048 if experiment is cube_3b else 0  # wider actions
    assert train.parameters == 2_923_335_408 + 3 * 2048 + extra
    assert train.held["parameters"] == 4 * train.parameters // mesh.shape["fsdp"]
    assert 2 * train.held["parameters"] <= train.held["optimizer state"]
    assert train.work["labels"] == 96 * 16
    assert 3 < train.flops / train.model_flops * 3 < 4.01  # one more forward
    plan = planner_program(config, mesh, scenes=2)
    assert plan.held["parameters"] == 2 * plan.parameters  # bfloat16


def test_the_step_that_is_compiled_skips_bad_steps_if_the_one_that_trains_does():
    checks = {}
    for on_nan in ("stop", "skip"):
        config = board_3b.get_config("debug")
        config.on_nan = on_nan
        experiment = Experiment.parse(config)
        program = train_program(experiment, make_mesh(vars(experiment.mesh)))
        checks[on_nan] = program.lower().as_text().count("is_finite")
    assert checks["skip"] > checks["stop"]


def test_tokens_are_those_that_the_decoder_runs():
    config = Experiment.parse(board_3b.get_config("debug"))
    model = config.model.config()
    shapes = batch_shapes(config, make_mesh(vars(config.mesh)))
    batch = random_batch(model, *shapes.query_question.shape[:1], 8, 16)
    params = jax.jit(SemanticWorldModel(model).init_params)(jax.random.key(0))

    def segments_of(swm, batch):
        image, _ = swm.embed_image(batch.image)
        layout = swm.training_layout(batch, image)
        return {name: segment.tokens for name, segment in layout.items()}

    run = lambda b: SemanticWorldModel(model).apply(
        {"params": params}, b, method=segments_of
    )
    segments = jax.eval_shape(run, batch)
    assert train_tokens(model, batch) == sum(
        x.size // x.shape[-1] for x in segments.values()
    )


def test_wrong_questions_end_with_status_2_and_one_line():
    result = aot("--topology", "v5e:4")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: topology 'v5e:4' has no")


needs_libtpu = pytest.mark.tpu_aot


@pytest.fixture(scope="module")
def libtpu():
    try:
        return find_libtpu()
    except TopologyError as error:
        pytest.skip(str(error))


@needs_libtpu
def test_train_step_and_planner_compile_for_a_small_slice(libtpu, tmp_path):
    report = tmp_path / "report.json"
    result = aot(
        "--config", "experiments/board_3b.py:debug", "--topology", "v5e:2x2",
        "--programs", "train,planner", "--json", str(report),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("fits: train step")
    said = json.loads(report.read_text())
    assert said["fits"] and said["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    train, planner = said["programs"]
    assert train["unknown_loops"] == []
    # Gradients are summed over all chips: at least the parameters' bytes go round.
    received = sum(c["received"] for c in train["collectives"] if c["axes"] == ["fsdp"])
    assert received >= 0.5 * train["parameters"] * 4
    assert train["time"]["worst"] >= train["time"]["best"] > 0
    held = train["memory"]
    assert held["parameters"] <= 4 * train["parameters"]
    assert planner["work"] == {"replans": 4}


@needs_libtpu
def test_what_does_not_fit_ends_with_status_3_and_advice_that_helps(libtpu, tmp_path):
    report = tmp_path / "report.json"
    asked = (
        "--config", "experiments/board_3b.py:debug", "--topology", "v5e:1x1",
        "--programs", "train", "--config.data.images=64", "--config.data.queries=32768",
    )  # fmt: skip
    result = aot(*asked, "--json", str(report))
    assert result.returncode == 3, result.stdout + result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith("does not fit: train step needs")
    said = json.loads(report.read_text())
    assert said["verdict"] == last and not said["fits"]
    parts = re.search(r"try config.accumulate=(\d+) ", last)[1]
    result = aot(*asked, f"--config.accumulate={parts}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("fits: train step")


@needs_libtpu
def test_weights_that_alone_are_too_much_need_no_compiler_to_say_so(libtpu):
    result = aot("--topology", "v5e:1x1", "--programs", "train")
    assert result.returncode == 3, result.stdout + result.stderr
    last = result.stdout.splitlines()[-1]
    assert "needs 35.1" in last and "split it over more chips" in last
    assert "refused" not in result.stdout


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:1x1x1", "v5e:1x1", "v5p:1x1x1", "v6e:1x1"])
def test_chips_have_the_memory_that_the_compiler_says(libtpu, name):
    slice_ = get_slice(name)
    place = jax.sharding.SingleDeviceSharding(slice_.devices[0])
    much = jax.ShapeDtypeStruct((2**31 - 8, 128), jnp.float32, sharding=place)
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        jax.jit(lambda x: x + 1).lower(much).compile()
    needed, available = out_of_memory(str(error.value))
    assert needed == 2 * 2**40  # the argument and the result
    assert available == int(slice_.chip.hbm_bytes)


@needs_libtpu
def test_the_closed_loop_compiles_for_a_small_slice(libtpu, tmp_path):
    report = tmp_path / "report.json"
    result = aot(
        "--config", "experiments/board_3b.py:debug", "--topology", "v5e:2x2",
        "--programs", "loop", "--json", str(report),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "control steps" in result.stdout
    (loop,) = json.loads(report.read_text())["programs"]
    # No weights go round: the model lies whole on every chip.
    model = Experiment.parse(board_3b.get_config("debug")).model.config()
    table = 2 * model.vocab_size * model.width
    assert max(each["largest"] for each in loop["collectives"]) < table
