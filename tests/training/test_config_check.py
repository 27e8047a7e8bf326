"""Configs that cannot be trained are refused before anything is made or compiled."""

import pytest

from experiments import board_3b, board_tiny, cube_3b
from swm_jax.training import train
from swm_jax.training.config_check import check_config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("log_every", 0, "config.log_every is 0, expected a whole number from 1 on"),
        ("validate_every", -1, "config.validate_every is -1, expected a whole"),
        ("checkpoint_every", None, "config.checkpoint_every is None, expected a whole"),
        ("accumulate", 0, "config.accumulate is 0, expected a whole"),
        ("data.images", 0, "config.data.images is 0, expected a whole"),
        ("on_nan", "ignore", "config.on_nan is 'ignore', expected stop or skip"),
        (
            "keep_best.metric",
            "validation/acuracy",
            r"'validation/acuracy' \(did you mean 'validation/accuracy'\?\); known: ",
        ),
    ],
)
def test_what_would_fail_hours_later_is_refused_at_the_start(
    field, value, message, tmp_path
):
    config = board_tiny.get_config("pretrain_debug")
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_config_that_lacks_a_field_is_refused_too():
    config = board_tiny.get_config("debug")
    del config.checkpoint_every
    with pytest.raises(ValueError, match=r"config\.checkpoint_every is None"):
        check_config(config)


@pytest.mark.parametrize("file", [board_tiny, board_3b, cube_3b])
def test_every_variant_of_the_experiments_passes(file):
    for arg in file.ARGS:
        check_config(file.get_config(arg))
