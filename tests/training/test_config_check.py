"""Configs that cannot be trained end in one line, before anything is compiled."""

import pytest

from experiments import board_3b, board_and_cube, board_tiny, cube_3b, ogbench_cube
from swm_jax.training import Experiment, train

WRONG = {
    "log_every": (0, "config.log_every is 0, expected a whole number from 1 on"),
    "validate_every": (-1, "config.validate_every is -1, expected a whole"),
    "checkpoint_every": (None, "config.checkpoint_every is None, expected a whole"),
    "accumulate": (0, "config.accumulate is 0, expected a whole"),
    "steps": (2.5, "config.steps is 2.5, expected a whole number from 1 on"),
    "data.images": (0, "config.data.images is 0, expected a whole"),
    "data.answer_eos": ("yes", "config.data.answer_eos is 'yes', expected True or"),
    "data.saqa.hard_share": (1.5, "hard_share is 1.5, expected a number from 0 to 1"),
    "data.saqa.types": (("touch",), "config.data.saqa: unknown question type 'touch'"),
    "data.dir": (({"dri": "a"},), "config.data: source .* has unknown field 'dri'"),
    "data.queries": (3, "config.data: 3 queries cannot cover 12 questions"),
    "data.source": ("simulated", "config.data: simulated.generation is empty"),
    "on_nan": ("ignore", "unknown config.on_nan 'ignore'; known: stop, skip"),
    "stage": ("swn", "unknown config.stage 'swn' .did you mean 'swm'.*: swm, pretrain"),
    "optimizer.name": ("muno", "unknown config.optimizer.name 'muno' .did you mean"),
    "optimizer.clip_norm": (0.0, "clip_norm is 0.0, expected a number above 0"),
    "model.variant": ("tyni", "config.model: unknown model variant 'tyni'"),
    "model.overrides.vision_heads": (3, "config.model: .*multiple of vision_heads=3"),
    "planner.name": ("mpi", "config: unknown planner 'mpi'"),
    "planner.horizon": (9, "config: planner horizon 9 must be a multiple"),
    "keep_best.metric": (
        "validation/acuracy",
        "keep_best.metric 'validation/acuracy' .did you mean 'validation/accuracy'",
    ),
}


@pytest.mark.parametrize("field", WRONG)
def test_what_would_fail_hours_later_is_refused_at_the_start(field, tmp_path):
    value, message = WRONG[field]
    config = board_tiny.get_config("pretrain_debug")
    if field in ("data.dir", "data.queries"):
        config = board_tiny.get_config("debug")
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "unknown field of config 'stpes' .did you mean 'steps'"),
        ("optimizer", "unknown field of config.optimizer 'stpes'"),
        ("data.saqa.buckets", "unknown field of config.data.saqa.buckets 'stpes'"),
        ("finetune", "unknown field of config.finetune 'stpes'"),
    ],
)
def test_a_field_that_nobody_reads_is_named_with_the_nearest(place, message):
    config = part = board_tiny.get_config("debug")
    for name in filter(None, place.split(".")):
        part = part[name]
    part.stpes = 3
    with pytest.raises(ValueError, match=message):
        Experiment.parse(config)


def test_a_config_that_lacks_fields_has_their_defaults():
    config = board_tiny.get_config("debug")
    del config.checkpoint_every, config.data.rendered.detections
    experiment = Experiment.parse(config)
    assert experiment.checkpoint_every == Experiment().checkpoint_every == 200
    assert experiment.data.rendered.detections == 9
    assert Experiment.parse({}) == Experiment()


@pytest.mark.parametrize(
    "file", [board_tiny, board_3b, cube_3b, board_and_cube, ogbench_cube]
)
def test_every_variant_of_the_experiments_is_read_and_written_alike(file):
    for arg in file.ARGS:
        experiment = Experiment.parse(file.get_config(arg))
        assert Experiment.parse(experiment.to_config()) == experiment
        assert experiment.name == file.__name__.split(".")[-1]


def test_every_setting_of_model_planner_and_questions_is_a_field_of_the_config():
    """Fields that are None in a preset take the type they have beside None."""
    config = board_3b.get_config()
    config.model.overrides.depth = 3
    config.planner.temperature = 0.7
    config.data.saqa.canonical_share = 0.1
    config.data.saqa.buckets.shares = (0.4, 0.2, 0.2, 0.2)
    config.head_weights.mention = 2.0
    experiment = Experiment.parse(config)
    assert experiment.model.config().depth == 3
    assert experiment.make_planner().config.temperature == 0.7
    assert experiment.data.saqa.canonical_share == 0.1
    assert experiment.data.saqa.buckets.shares[0] == 0.4
    assert experiment.head_weights.mention == 2.0
    with pytest.raises(TypeError, match="depth"):
        config.model.overrides.depth = "deep"
