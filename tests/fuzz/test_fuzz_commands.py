"""Every flag of every command with values that nobody meant: success, or one line."""

import os
import random

import pytest
import stored_episodes as stored
from fuzzed_commands import COMMANDS, ROOT, check, every_case
from fuzzing import SEED, forms

SHORT = 80
LONG = int(os.environ.get("FUZZ_COMMANDS", "10000"))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    episodes = [stored.board_episode(n, 20) for n in range(3)]
    stored.write(folder / "data", episodes[:2], episodes[2:])
    (folder / "questions.txt").write_text("Is the red moon left of the peg?\n")
    (folder / "work").mkdir()
    return {
        "data": str(folder / "data"),
        "checkpoint": str(ROOT / "swm_jax/assets/board_tiny"),
        "questions": str(folder / "questions.txt"),
        "out": str(folder / "work/out"),
    }


@forms
def test_a_command_line_ends_in_success_or_in_one_line(form, places, monkeypatch):
    output = places["out"]
    monkeypatch.chdir(os.path.dirname(output))
    cases = every_case(places)
    rng = random.Random(SEED)
    rng.shuffle(cases)
    if form == "short":  # as many of every command
        each = SHORT // len(COMMANDS)
        chosen = [
            case
            for command in COMMANDS
            for case in [c for c in cases if c.command is command][:each]
        ]
    else:
        chosen = cases[:LONG]
    wrong = [f"{case}\n{told}" for case in chosen if (told := check(case, output))]
    assert not wrong, f"{len(wrong)} of {len(chosen)}\n\n" + "\n\n".join(wrong[:8])
