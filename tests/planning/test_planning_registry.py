"""Planners and baselines of one's own: mistakes in a module are named."""

import sys

import pytest

from swm_jax.choices import gathered
from swm_jax.planning.planners.sampling import refit_cem
from swm_jax.planning.preset import Preset, searching


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
