"""The describe command: what it prints is in the data, what it draws is theirs."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stored_episodes import board_episode, picture, plain_episode, write

from data_pipelines.describe.contact_sheet import contact_sheet, random_examples
from data_pipelines.describe.summary import describe, report
from data_pipelines.schema.episode import Labels
from data_pipelines.schema.read import load_episodes

ROOT = Path(__file__).parents[2]
LABELS = Labels(
    t=np.array([1, 2], np.int32),
    horizon=np.array([3, 0], np.int32),
    question=("Is the lid on?", "Is the lid on?"),
    answer=("no", "yes"),
    confidence=np.array([0.6, 0.9], np.float32),
)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    episodes = [board_episode(n, steps=20 + n) for n in range(9)]
    return write(tmp_path_factory.mktemp("b") / "board", episodes[:7], episodes[7:])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    episodes = [plain_episode(n, labels=LABELS) for n in range(4)]
    return write(tmp_path_factory.mktemp("p") / "plain", episodes[:3], episodes[3:])


def test_text_has_counts_lengths_actions_and_labels(plain):
    episodes = load_episodes(plain)
    text = describe(episodes)
    assert "3 episodes, 75 frames of 16 x 16 px, 72 actions; domain other" in text
    assert "actions per episode: 24 to 24" in text and "'tidy up' (3)" in text
    assert re.search(r"6 labels in 3 episodes, confidence 0\.60 to 0\.90", text)
    assert "Is the lid on? 6: no 3, yes 3" in text
    row = next(line for line in text.splitlines() if line.split()[:1] == ["2"])
    every = episodes.inside()[:, 2]
    told = np.array(row.split()[1:], float)
    wanted = [every.min(), *np.quantile(every, [0.01]), every.mean(), every.std()]
    np.testing.assert_allclose(told[:4], wanted, rtol=1e-2, atol=1e-3)


def test_examples_show_the_frames_that_their_labels_are_about(plain):
    for example in random_examples(load_episodes(plain), 6):
        number = int(example.now[0, 0, 0])
        t = {"NO": 1, "YES": 2}[example.answer.upper()]
        np.testing.assert_array_equal(example.now, picture(number, t))
        later = picture(number, t + example.horizon)
        np.testing.assert_array_equal(example.later, later)
        assert example.horizon == {1: 3, 2: 0}[t]


def test_a_sheet_holds_every_frame_of_its_examples(board):
    examples = random_examples(load_episodes(board), 5)
    sheet = contact_sheet(examples)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    for i, example in enumerate(examples):
        column, row = i % 3, i // 3
        x = 8 + column * (2 * 160 + 2 + 8)
        y = 8 + row * (160 + 58 + 8)
        tile = sheet[y : y + 160, x : x + 160]
        middle = tile[80, 80]  # grey, as the frame's middle is
        np.testing.assert_array_equal(middle, example.now[8, 8])
        assert abs(int(tile[3, 80, 0]) - int(example.now[0, 0, 0])) < 12


def test_report_of_the_board_has_pools_and_counts_damage(board, tmp_path):
    import shutil

    copy = shutil.copytree(board, tmp_path / "copy")
    next(copy.glob("*train*00001-of-00002")).unlink()
    text, _ = report(copy)
    assert "3 damaged episodes, the first: " in text and "is missing" in text
    assert "4 episodes" in text and "peg_touching" in text


def test_command_writes_a_page_that_needs_no_other_file(plain, tmp_path):
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "data_pipelines.describe", plain]
    done = subprocess.run(
        [*command, "--output", page], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "3 episodes, 75 frames" in text and "http" not in text
    png = base64.b64decode(re.search('base64,([^"]+)"', text)[1])
    assert Image.open(io.BytesIO(png)).size[0] > 300
    done = subprocess.run(
        [*command, "--output", "page.pdf"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "expected a .png or .html file" in done.stderr.splitlines()[-1]
