"""Planners and baselines of one's own: mistakes in a module are named."""

import sys

import pytest

from swm_jax import baselines, worlds
from swm_jax.baselines import Answerer, Baseline
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.choices import gathered
from swm_jax.planning import PLANNERS, FakeWorldModel
from swm_jax.planning.planners.sampling import refit_cem
from swm_jax.planning.preset import REDRAWING, Preset, searching


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes modules of a package and gathers their planners."""
    package = tmp_path / "own_planners"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def gather(**modules):
        head = "from swm_jax.planning.planners.sampling import *\n"
        head += "from swm_jax.planning.preset import searching\n"
        for name, code in modules.items():
            (package / f"{name}.py").write_text(head + code)
        return gathered("own_planners", [str(package)], "PLANNERS", Preset, "see x")

    yield gather
    for name in [name for name in sys.modules if name.startswith("own_planners")]:
        del sys.modules[name]


def test_modules_without_planners_are_skipped(folder):
    found = folder(a="PLANNERS = {'mine': searching(refit_cem)}", b="del PLANNERS")
    assert list(found) == ["mine"]


def test_a_name_in_two_modules_names_both(folder):
    code = "PLANNERS = {'mine': searching(refit_cem)}"
    with pytest.raises(ValueError, match=r"'mine'. stands in own_planners.a and"):
        folder(a=code, b=code)


def test_a_function_in_place_of_a_preset_is_named(folder):
    with pytest.raises(ValueError, match=r"'mine'. of own_planners.a is .*see x"):
        folder(a="PLANNERS = {'mine': refit_cem}")


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"setting 'elite' .did you mean 'elites'"):
        searching(refit_cem, uses={"elite"})


def test_a_planner_of_ones_own_says_itself_whether_it_redraws():
    def solve(problem, state, keys, config, proposals):
        raise NotImplementedError

    first = {"init_std", "noise_exponent"}  # the first population has them too
    assert REDRAWING & Preset(solve).used_settings(iterations=3) == first
    mine = Preset(solve, redraws=True)
    assert mine.used_settings(iterations=3) >= REDRAWING
    assert REDRAWING & mine.used_settings(iterations=1) == first
    redraws = {name for name, preset in PLANNERS.items() if preset.redraws}
    climbers = {name for name, preset in PLANNERS.items() if preset.needs_gradient}
    assert redraws == {*PLANNERS} - climbers - {"random"}


def test_a_baseline_has_gradients_if_its_model_has(monkeypatch):
    make = lambda env: Answerer("mine", env.world, SimulatorWorldModel(env))
    assert not Baseline(make, SimulatorWorldModel).differentiable
    assert Baseline(make, FakeWorldModel).differentiable
    mine = {"mine": Baseline(make, FakeWorldModel)}
    monkeypatch.setattr(baselines, "baselines", lambda: mine)
    wrong = "'mine' makes a SimulatorWorldModel, but declares a FakeWorldModel"
    with pytest.raises(ValueError, match=wrong):
        baselines.load("mine", worlds.load_env(backend="mujoco"))
