"""What the documents show is run, and the commands and flags they name exist."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines import sources
from swm_jax import baselines, worlds
from swm_jax.models import backbones
from swm_jax.models.backbones import registry
from swm_jax.planning import planners

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a language, indentation of lists taken off."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S
    )
    return [re.sub(rf"^{pad}", "", text, flags=re.M) for pad, text in found]


def test_the_readmes_python_runs_from_top_to_bottom(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names, run = {}, 0
    for text in blocks(ROOT / "README.md", "python"):
        if any(path in text for path in ("downloads/", "runs/")):
            continue
        exec(compile(text, "README.md", "exec"), names)
        run += 1
    assert run >= 3
    assert names["log_probs"].shape == (1, 1, 2, 1, 2)
    assert "Did the peg move? yes" in capsys.readouterr().out
    assert set(names["told"].alternatives) == set(names["choices"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documents_is_python(page):
    for text in blocks(page, "python"):
        compile(text, page.name, "exec")


def commands() -> dict[str, set[str]]:
    """Module of every `python -m` in the documents -> flags it is shown with."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for module, rest in re.findall(r"python -m ([a-z_.0-9]+)([^`\n]*)", text):
            if module.split(".")[0] in ("swm_jax", "data_pipelines", "experiments"):
                flags = re.findall(r"(?<![\w-])--([a-z][\w-]*)", rest)
                found.setdefault(module.rstrip("."), set()).update(flags)
    return found


COMMANDS = commands()


# Imports what commands share and defines no flag, then runs one command in a copy of
# itself per line that it reads. Flags of two commands may have one name.
HELP = """
import os, runpy, sys
import data_pipelines.batches.stream, swm_jax.training, swm_jax.checkpoints.convert
for line in sys.stdin:
    module, path = line.split()
    if not os.fork():
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 1)
        sys.argv = [module, "--helpfull"]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.wait()
    print(flush=True)
"""


@pytest.fixture(scope="module")
def help_of(tmp_path_factory):
    """Output of `python -m module --helpfull`."""
    output = tmp_path_factory.mktemp("help") / "help"
    command = [sys.executable, "-c", HELP]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:

        def ask(module):
            print(module, output, file=process.stdin, flush=True)
            process.stdout.readline()
            told = output.read_text()
            output.unlink()
            return told

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("module", sorted(COMMANDS))
def test_commands_of_the_documents_have_the_flags_they_are_shown_with(module, help_of):
    assert importlib.util.find_spec(module), f"no module {module}"
    if not COMMANDS[module]:
        return
    told = set(re.findall(r"--(?:\[no\])?([\w-]+)", help_of(module)))
    shown = {
        flag.removeprefix("no") if flag not in told else flag
        for flag in COMMANDS[module]
    }
    assert shown - {"config"} <= told | {"config"}, shown - told


# Pages whose code blocks stand below the name of the file that they are.
EXTENDING = sorted((ROOT / "docs" / "extending").glob("*.md"))


@pytest.fixture
def writable_packages(monkeypatch, tmp_path):
    """A folder of further modules for the packages that gather theirs."""
    for package in (worlds, planners, baselines, backbones, sources):
        extra = tmp_path / package.__name__.replace(".", "/")
        extra.mkdir(parents=True)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(extra)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # what the pages added
        del sys.modules[name]
    monkeypatch.undo()
    baselines.baselines.cache_clear()
    sources.kinds.cache_clear()
    worlds.question_types.cache_clear()


@pytest.mark.parametrize("page", EXTENDING, ids=lambda page: page.stem)
def test_one_file_adds_what_the_page_says(page, writable_packages, monkeypatch, capsys):
    text = page.read_text()
    files = dict(
        re.findall(r"^`(\S+\.py)`:\n\n```python\n(.*?)^```", text, re.M | re.S)
    )
    for path, code in files.items():
        place = writable_packages / path
        place.parent.mkdir(exist_ok=True)
        place.write_text(code)
    monkeypatch.setitem(worlds._FOLDERS, "dot", "swm_jax.worlds.dot")
    monkeypatch.setattr(planners, "PLANNERS", planners.gather())
    baselines.baselines.cache_clear()
    sources.kinds.cache_clear()
    if page.stem == "backbone":
        from swm_jax.models.backbones import unplaced

        new = registry.Backbone(unplaced.ImageTower, unplaced.Decoder)
        monkeypatch.setitem(registry.BACKBONES, "unplaced", new)
    monkeypatch.chdir(writable_packages)
    names: dict = {}
    for code in blocks(page, "python"):
        if code not in files.values():
            exec(compile(code, page.name, "exec"), names)
    said = capsys.readouterr().out
    assert len(files) == (page.stem != "question")
    check = {
        "world": lambda: [each.success for each in names["results"]] == [True] * 3,
        "question": lambda: said.count(" m)") == 2,
        "planner": lambda: names["result"].success,
        "baseline": lambda: said == "False\n",
        "backbone": lambda: said == "(2, 32)\n",
        "data_source": lambda: said == "npz folder 12\n",
    }
    assert check[page.stem](), said
