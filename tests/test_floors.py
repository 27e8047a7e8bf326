"""Imports run down: the floors of the house, read from the code.

The table says which floor a room stands on. A module imports rooms of its own floor and
of floors below. Rooms of one floor must not import each other in a circle.
"""

import ast
import collections
import pathlib

import pytest

from swm_jax import worlds

ROOT = pathlib.Path(__file__).parents[1]
FLOORS = {
    "experiments": 7,
    "swm_jax.eval": 6,
    "swm_jax.tools": 6,
    "swm_jax.demo": 6,
    "swm_jax.serve": 6,
    "swm_jax.train": 6,  # commands
    "swm_jax.convert": 6,
    "swm_jax.training": 5,
    "swm_jax.policies": 5,
    "swm_jax.baselines": 5,
    "data_pipelines": 4,
    "swm_jax.worlds": 3,
    "swm_jax.planning": 2,
    "swm_jax.questions": 2,
    "swm_jax.envs": 2,
    "swm_jax.checkpoints": 2,
    "swm_jax.models": 1,
    "swm_jax.arrays": 0,
    "swm_jax.endings": 0,
    "swm_jax.prng": 0,
    "swm_jax.locks": 0,
    "swm_jax.conditions": 0,
    "swm_jax.records": 0,
    "swm_jax.choices": 0,
    "swm_jax.files": 0,
    "swm_jax.cli": 0,
}
# Rooms that import each other although they stand on one floor: none so far.
CIRCLES: set[frozenset[str]] = set()
# Imports that run up, with the reason.
UP = {
    # `swm_jax.load` is the door of the package, opened when it is called.
    ("swm_jax", "swm_jax.checkpoints"),
}


def modules():
    """(name, path) of every module of the house."""
    for package in ("swm_jax", "data_pipelines", "experiments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(p for p in parts if p != "__init__"), path


def imported(path):
    """Names of the modules that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            # Of a package that holds rooms, the rooms are what is imported.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module):
    """The room of the table that a module is in; None for what is not ours."""
    found = [name for name in FLOORS if f"{module}.".startswith(f"{name}.")]
    return max(found, key=len, default=None)


EDGES = {
    (module, room(module) or module, room(name))
    for module, path in modules()
    for name in imported(path)
    if room(name) not in (None, room(module))
}


def test_every_module_has_a_floor():
    homeless = [m for m, _ in modules() if room(m) is None]
    assert homeless == ["swm_jax"]


def test_imports_run_down():
    wrong = sorted(
        f"{module} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"
        for module, own, other in EDGES
        if own in FLOORS and FLOORS[other] > FLOORS[own]
    )
    assert not wrong, "\n".join(wrong)
    assert {(own, other) for _, own, other in EDGES if own not in FLOORS} <= UP


def test_rooms_of_one_floor_import_each_other_in_no_circle():
    beside = {
        (own, other)
        for _, own, other in EDGES
        if own in FLOORS and FLOORS[own] == FLOORS[other]
    }
    reach = set(beside)
    for _ in FLOORS:
        reach |= {(a, d) for a, b in reach for c, d in beside if b == c}
    circles = {frozenset(pair) for pair in reach if pair[::-1] in reach}
    assert circles <= CIRCLES, circles


# A world is named in its folder, at its registration and by experiments alone, but for:
NAMED = {
    # Formats of others that are called like the world with the same robot.
    "data_pipelines/sources/ogbench_npz.py": {"ogbench", "cube"},
    "data_pipelines/sources/ogbench_play.py": {"ogbench", "cube"},
    "data_pipelines/sources/rlds.py": {"language_table"},
    "data_pipelines/schema/domains.py": {"language_table"},
    # What files say nothing of was the board, the only world of their time.
    "data_pipelines/generate/config.py": {"board"},
    "data_pipelines/schema/arrays.py": {"board"},
    "data_pipelines/schema/episode.py": {"board"},
    "data_pipelines/schema/store.py": {"board"},
    # Tokenizers that ship, by the languages they were trained on.
    "data_pipelines/train_tokenizer.py": {"board", "cube"},
    # Rendered scenes of the first stage of training are the board's.
    "data_pipelines/batches/config.py": {"board"},
    "data_pipelines/batches/pretraining.py": {"board"},
    # Adapters to the real packages have the scenes and tasks of our worlds.
    "swm_jax/worlds/ogbench/__init__.py": {"cube"},
    "swm_jax/worlds/ogbench/env.py": {"cube"},
    "swm_jax/worlds/language_table/__init__.py": {"board"},
    "swm_jax/worlds/language_table/env.py": {"board"},
}


def named(path):
    """Worlds that a file names, by an import or by a text that is their name."""
    tree = ast.parse(path.read_text())
    names = set(worlds.names())
    shapes = {"cube"} if path.name in ("geometry.py", "scene.py", "model.py") else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names - shapes:
            yield node.value
    for name in imported(path):
        parts = name.split(".")
        if parts[:2] == ["swm_jax", "worlds"] and parts[2:3] and parts[2] in names:
            yield parts[2]


def test_a_world_is_named_in_its_own_folder_alone():
    found = {}
    for module, path in modules():
        place = path.relative_to(ROOT).as_posix()
        if module.startswith("experiments") or place == "swm_jax/worlds/__init__.py":
            continue
        own = place.split("/")[2] if place.startswith("swm_jax/worlds/") else ""
        others = set(named(path)) - {own}
        if others - NAMED.get(place, set()):
            found[place] = others
    assert not found, found


@pytest.mark.parametrize("place", NAMED)
def test_the_exceptions_are_needed(place):
    assert set(named(ROOT / place)) >= NAMED[place]


LINES, FILES = 350, 14  # of a file; of a folder, its sub-folders not counted


def test_files_and_folders_stay_small():
    sizes = {path: len(path.read_text().splitlines()) for _, path in modules()}
    assert not {f"{p.relative_to(ROOT)}": n for p, n in sizes.items() if n > LINES}
    folders = collections.Counter(path.parent for path in sizes)
    assert not {f"{p.relative_to(ROOT)}": n for p, n in folders.items() if n > FILES}
