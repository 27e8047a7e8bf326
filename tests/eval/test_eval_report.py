"""The report stands alone and says what the results say; films and charts likewise."""

import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from swm_jax import worlds
from swm_jax.eval import journal as results
from swm_jax.eval import statistics
from swm_jax.eval.report import build as report
from swm_jax.eval.report import charts, film, films, svg

BOARD = worlds.language("board")

SVG = "{http://www.w3.org/2000/svg}"


def fake_results(qa=True, sensitivity=True):
    rng = np.random.default_rng(0)
    cell = dict(method="mppi", steps=20, seconds_per_replan=0.25, detail="red moon")
    episodes = [
        results.Episode("reach", world_model=w, seed=s, success=s < wins,
                        candidates_per_replan=256, **cell)
        for w, wins in (("swm", 3), ("simulator", 4)) for s in range(4)
    ]  # fmt: skip
    truth = rng.random(400) < 0.5
    logit = 3.0 * np.where(truth, 1.0, -1.0) + 4.0 * rng.normal(size=400)
    curve = statistics.reliability(1 / (1 + np.exp(-logit)), truth)
    row = dict(balanced_accuracy=0.81, queries=40, question_horizon_only=0.55)
    return results.to_json(
        dict(
            qa=qa
            and dict(
                balanced_accuracy=0.8125, question_horizon_only=0.5625, no_action=0.625,
                other_image=0.5, per_type={"block_touching": row, "peg_moved": row},
                by_horizon={"0": 0.9, "16": 0.75}, queries=80, episodes=8,
                source="here",
                calibration=dict(temperature=1.37, before=curve, after=curve,
                                 log_loss_before=0.4, log_loss_after=0.3),
            ),
            planning=results.summarise(episodes),
            action_sensitivity=sensitivity
            and dict(
                mean=0.4321, scenes=2, candidates=3,
                per_task={
                    "reach": dict(rho=[0.3, 0.5], mean=0.4, interval95=[0.3, 0.5])
                },
                examples=[dict(task="reach", predicted=[1.0, 2.0, 3.0],
                               true=[1.0, 3.0, 2.0])],
            ),
            config=dict(preset="demo", seeds=[0, 1, 2, 3], goal="shaped"),
            versions={"jax": "1.2.3"}, machine={"cpu_cores": 2}, model=None,
        )
    )  # fmt: skip


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (32, 18)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_report_fetches_nothing_and_says_the_figures(tmp_path):
    path = tmp_path / "reach.mp4"
    path.write_bytes(b"not really a film")
    films = {"reach": dict(caption="reach", frames=[("step 0", jpeg())], video=path)}
    log = [dict(step=s, loss=1.0 / (s + 1), accuracy=0.5) for s in range(4)]
    page = report.render(fake_results(), films, log)
    links = re.findall(r"""(?:src|href)=["']([^"']{1,24})""", page)
    assert links and all(link.startswith("data:") for link in links)
    assert not re.search(r"<script|<link|@import|url\(", page)
    assert not re.search(r"\$[a-z]", page)  # no placeholder of the template is left
    for figure in ("81 %", "75 %", "3 of 4", "0.43", "1.37", "0:4", "1.2.3", "reach"):
        assert figure in page, figure
    assert "prefers-color-scheme: dark" in page
    for heading in ("Planning", "Episodes", "Answers", "Calibration", "Training"):
        assert f"<h2>{heading}</h2>" in page


def test_every_chart_of_the_report_is_well_formed():
    page = report.render(fake_results())
    drawn = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(drawn) == 6
    for text in drawn:
        ElementTree.fromstring(text)


def test_parts_without_results_leave_no_section():
    page = report.render(fake_results(qa=False, sensitivity=False))
    assert "<h2>Planning</h2>" in page
    for heading in ("Answers", "Calibration", "Episodes", "Training", "Does the score"):
        assert heading not in page


def test_hostile_text_is_escaped():
    found = fake_results()
    found["machine"] = {"cpu": "<script>alert(1)</script>"}
    assert "<script>" not in report.render(found)


def rects(text):
    tree = ElementTree.fromstring(text)
    return [r for r in tree.iter("rect")]


def test_bars_are_as_long_as_their_values():
    rows = [dict(label=f"{v}", value=v, colour=0, text="") for v in (0.25, 0.5, 1.0)]
    widths = [float(r.get("width")) for r in rects(charts.bars([("g", rows)], "n"))]
    np.testing.assert_allclose(np.divide(widths, widths[-1]), [0.25, 0.5, 1], atol=1e-3)


def test_whiskers_stand_at_the_interval():
    row = dict(label="a", value=0.5, colour=0, text="", interval=(0.25, 1.0))
    tree = ElementTree.fromstring(charts.bars([("g", [row])], "n"))
    bar = tree.find("rect")
    start, width = float(bar.get("x")), 2 * float(bar.get("width"))
    ends = [
        float(x.get("x1")) for x in tree.iter("line") if x.get("class") == "whisker"
    ]
    np.testing.assert_allclose(min(ends), start + 0.25 * width, atol=0.02)
    np.testing.assert_allclose(max(ends), start + width, atol=0.02)


def test_histogram_counts_every_scene_once():
    text = charts.histogram([("a", [-1.0, 0.0, 0.05, 1.0]), ("b", [0.99])], "n", "x")
    counted = re.findall(r"[ab]: (\d+) scenes", text)
    assert sum(map(int, counted)) == 5


def test_curves_break_where_nothing_is_known():
    text = charts.lines([("a", [0, 1, 2], [1.0, float("nan"), 2.0])], "n", "x", "y")
    assert "nan" not in text
    assert charts.lines([("a", [], [])], "n", "x", "y") == ""


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 7.5), (0.001, 0.0042), (0, 9e5)])
def test_ticks_are_round_and_inside(bounds):
    found = svg.ticks(*bounds)
    assert 2 <= len(found) <= 6
    assert min(found) >= bounds[0] - 1e-9 and max(found) <= bounds[1] * (1 + 1e-9)
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert round(mantissa, 6) in (1, 2, 5)


def said(frames, count=2, probability=0.5):
    asked = tuple(
        BOARD.question("peg_touching", n) for n in ("red moon", "blue cube")[:count]
    )
    shape = (frames, count)
    return film.Said([asked] * frames, np.ones(shape, int), np.full(shape, probability),
                     np.ones(shape, bool), 8)  # fmt: skip


def blue_pixels(image):
    found = (np.asarray(image) == np.array(film.BLUE)).all(-1)
    return found[:, 680:].sum()  # right of the stage: the bars of the answers


def test_frames_show_the_probabilities():
    pictures = np.zeros((2, film.STAGE[1], film.STAGE[0], 3), np.uint8)
    seen = np.full((2, 8, 8, 3), 200, np.uint8)
    half, whole = (
        film.compose("t", pictures, seen, said(2, probability=p), True)[0]
        for p in (0.5, 1.0)
    )
    assert half.size == (film.WIDTH, film.HEIGHT)
    assert film.WIDTH % 16 == film.HEIGHT % 16 == 0
    np.testing.assert_allclose(2 * blue_pixels(half), blue_pixels(whole), rtol=0.02)


def test_film_without_a_view_or_with_many_questions_still_fits():
    pictures = np.zeros((1, film.STAGE[1], film.STAGE[0], 3), np.uint8)
    many = said(1, count=2)
    many = film.Said([many.questions[0] * 12], np.ones((1, 24), int),
                     np.ones((1, 24)), np.zeros((1, 24), bool), 8)  # fmt: skip
    (frame,) = film.compose("t", pictures, None, many, False)
    assert frame.size == (film.WIDTH, film.HEIGHT)


def plain_frames(count, size=(64, 32)):
    return [Image.new("RGB", size, (20 * i, 0, 0)) for i in range(count)]


def test_mp4_reads_back_with_all_frames(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = films.write_video(tmp_path / "film", plain_frames(5))
    assert path.name == "film.mp4"
    reader = ffmpeg.read_frames(str(path))
    assert next(reader)["size"] == (64, 32)
    assert sum(1 for _ in reader) == 5 + films.HOLD
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


def test_gif_where_there_is_no_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "has_ffmpeg", lambda: False)
    path = films.write_video(tmp_path / "film", plain_frames(3))
    with Image.open(path) as image:
        assert image.format == "GIF" and image.n_frames >= 3


def test_the_film_is_of_a_success_from_pixels_if_there_is_one():
    make = lambda world, seed, success, steps=20: results.Episode(
        "reach", "mppi", world, seed, success, steps, 0.1, 256
    )
    order = ("swm", "simulator")
    episodes = [make("simulator", 1, True), make("swm", 2, False), make("swm", 3, True)]
    assert films.choose(episodes, "reach", order).seed == 3
    assert films.choose(episodes[:1], "reach", order).seed == 1
    assert films.choose(episodes, "separate", order) is None


def test_filmstrip_spreads_over_the_episode():
    pictures = np.zeros((21, 36, 64, 3), np.uint8)
    strip = films.filmstrip(pictures)
    assert [caption for caption, _ in strip] == [f"step {4 * i}" for i in range(6)]
    assert len(films.filmstrip(pictures[:2])) == 2
