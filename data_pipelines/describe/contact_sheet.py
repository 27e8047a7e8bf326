"""Contact sheet of random tuples: frame now, frame later, question and answer.

Axes: n tuples; h w pixels of a stored frame.
"""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.domains import get_domain

_TILE = 160  # pixels, width of one frame on the sheet
_TEXT = 58  # pixels, height of the words below a pair
_GAP = 8
_COLUMNS = 3
_PAPER, _INK, _FAINT = (250, 250, 248), (25, 25, 25), (120, 120, 120)


class Example(NamedTuple):
    """One tuple of a contact sheet.

    Attributes:
      now, later: uint8[h, w, 3].
      horizon: actions between them.
      question, answer: words.
      source: episode and frame, as text.
    """

    now: UInt8[np.ndarray, "h w 3"]
    later: UInt8[np.ndarray, "h w 3"]
    horizon: int
    question: str
    answer: str
    source: str


def random_examples(
    episodes: EpisodeArrays,
    count: int,
    seed: int = 0,
    sampler: SaqaSampler | None = None,
) -> list[Example]:
    """Tuples as training draws them: from predicates, or from stored labels.

    Episodes with neither give frames without a question.

    Args:
      episodes: of one split.
      count: n.
      seed: of the draw.
      sampler: of these episodes; None makes one.
    """
    rng = np.random.default_rng(seed)
    if get_domain(episodes.domain).scene is not None:
        sampler = sampler or SaqaSampler(episodes)
        batch = sampler.sample_batch(seed, 0, count, 4, 8)
        asked = batch.questions()
        rows = []
        for b in range(count):
            r = rng.choice(np.flatnonzero(batch.query_valid[b]))
            question = asked[b][batch.query_question[b, r]]
            answer = question.answers[batch.query_answer[b, r]]
            place = int(batch.episode[b]), int(batch.t[b])
            horizon = int(batch.query_horizon[b, r])
            rows.append((*place, horizon, question.text, answer))
    else:
        rows = [
            (i, int(labels.t[j]), int(labels.horizon[j]), question, answer)
            for i, labels in enumerate(episodes.labels)
            for j, (question, answer) in enumerate(zip(labels.question, labels.answer))
        ]
        if rows:
            rows = [
                rows[i] for i in rng.choice(len(rows), min(count, len(rows)), False)
            ]
        for _ in range(count - len(rows)):
            i = int(rng.integers(len(episodes)))
            h = int(min(rng.integers(1, 17), episodes.length[i]))
            t = int(rng.integers(episodes.length[i] - h + 1))
            words = episodes.instruction[i] or "(no question)"
            rows.append((i, t, h, words, ""))
    return [
        Example(
            episodes.image(i, t),
            episodes.image(i, t + h),
            h,
            question,
            answer,
            f"episode {episodes.episode[i]}, frame {t}",
        )
        for i, t, h, question, answer in rows
    ]


def contact_sheet(examples: Sequence[Example]) -> UInt8[np.ndarray, "H W 3"]:
    """Draws tuples side by side, `_COLUMNS` in a row."""
    ratio = examples[0].now.shape[0] / examples[0].now.shape[1]
    tile = (_TILE, max(round(_TILE * ratio), 1))
    width, height = 2 * tile[0] + 2, tile[1] + _TEXT
    rows = -(-len(examples) // _COLUMNS)
    columns = min(_COLUMNS, len(examples))
    sheet = Image.new(
        "RGB",
        (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP),
        _PAPER,
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    small = ImageFont.load_default(size=10)
    for i, example in enumerate(examples):
        x = _GAP + (i % _COLUMNS) * (width + _GAP)
        y = _GAP + (i // _COLUMNS) * (height + _GAP)
        for offset, image in ((0, example.now), (tile[0] + 2, example.later)):
            picture = Image.fromarray(image).resize(tile, Image.Resampling.BICUBIC)
            sheet.paste(picture, (x + offset, y))
        words = f"{example.question} {example.answer.upper()}".strip()
        for line, text in enumerate(textwrap.wrap(words, 50)[:2]):
            draw.text((x, y + tile[1] + 3 + 15 * line), text, _INK, font)
        about = f"{example.source}, after {example.horizon} actions"
        draw.text((x, y + tile[1] + 38), about, _FAINT, small)
    return np.asarray(sheet)
