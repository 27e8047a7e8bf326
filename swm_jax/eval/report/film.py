"""Film of one episode: the scene, the model's input image and its predicted answers.

Next to the image are the goal's questions with the model's probabilities of the desired
answers some steps ahead, given the executed actions, and a mark for each that came
true.

Axes: T + 1 frames of an episode, Q questions of the goal, H steps ahead.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from swm_jax.baselines.answerer import Answerer, painter
from swm_jax.envs import AnyScene
from swm_jax.models.ask import read_answers
from swm_jax.planning.goals.question_batch import question_batch
from swm_jax.questions import Language, Question

WIDTH, HEIGHT = 1120, 560  # of a frame; codecs want multiples of 16
STAGE = (640, 360)  # of the large picture
INK, MUTED, PAPER, PANEL = (
    (24, 32, 44),
    (102, 112, 133),
    (250, 250, 252),
    (236, 239, 244),
)
BLUE, GREEN, RED = (37, 99, 201), (20, 147, 108), (200, 67, 79)
LINE = 46
BATCH = 16  # frames per call of the model


@dataclasses.dataclass(frozen=True)
class Said:
    """Predictions of a world model along an episode.

    Attributes:
      questions: at each frame, Q questions.
      desired: int[T + 1, Q], index of the desired answer.
      probability: float32[T + 1, Q], of the desired answer `ahead` steps later.
      truth: bool[T + 1, Q], whether the desired answer came true.
      ahead: H.
    """

    questions: list[tuple[Question, ...]]
    desired: np.ndarray
    probability: Float[np.ndarray, "T Q"]
    truth: np.ndarray
    ahead: int


def listen(
    answerer: Answerer,
    language: Language,
    scenes: AnyScene,
    aims: Sequence,
    told: np.ndarray | None = None,
    ahead: int = 8,
    room: int | None = None,
) -> Said:
    """Predicted and true answers to the goal's questions at every frame of an episode.

    The model gets the actions executed after a frame, and zeros after the episode's
    end.

    Args:
      answerer: the model.
      language: for the true answers.
      scenes: scene with leading axis T + 1.
      aims: a `swm_jax.questions.Goal` per frame, all with Q questions.
      told: float32[>= T, A], the actions; None takes the motion of the robot, in worlds
        whose actions are motions.
      ahead: horizon in steps.
      room: padded number of questions, so that all films share one compilation.
    """
    frames = scenes.batch_shape[0]
    still = lambda x: np.concatenate([x, np.repeat(x[-1:], ahead, 0)])
    if told is None:
        motion = np.diff(still(getattr(scenes, language.robot)), axis=0)
    else:
        motion = np.zeros((frames + ahead, told.shape[1]), np.float32)
        motion[: frames - 1] = told[: frames - 1]
    actions = np.stack([motion[t : t + ahead] for t in range(frames)])[:, None]
    later = jax.tree.map(lambda x: still(np.asarray(x))[ahead:], scenes)
    asked = [aim.questions for aim in aims]
    batch = question_batch(asked, answerer.tokenizer, answerer.question_length, room)
    desired = np.stack([aim.answers for aim in aims])
    count = desired.shape[1]
    probability = []
    for begin in range(0, frames, BATCH):
        rows = np.minimum(np.arange(begin, begin + BATCH), frames - 1)
        now, part = jax.tree.map(
            lambda x, rows=rows: np.asarray(x)[rows], (scenes, batch)
        )
        seen = answerer.observe(now)
        inputs = answerer.model, seen, part, actions[rows], (ahead,)
        log_probs = read_answers(*inputs, normalise="answers")
        log_probs = np.asarray(log_probs)[: frames - begin, 0, 0, :count]
        wanted = desired[begin : begin + BATCH, :, None]
        probability.append(np.exp(np.take_along_axis(log_probs, wanted, 2)[..., 0]))
    now, later = (
        jax.tree.map(lambda x: np.asarray(x)[:, None], each) for each in (scenes, later)
    )
    answer = language.answer(batch.type_id, batch.args, now, later)
    return Said(
        questions=asked,
        desired=desired,
        probability=np.concatenate(probability),
        truth=np.asarray(answer)[:, :count] == desired,
        ahead=ahead,
    )


def large_pictures(world: str, scenes: AnyScene) -> UInt8[np.ndarray, "T h w 3"]:
    """Large images of every frame, rendered in pieces to limit memory."""
    width, height = STAGE
    paint = painter(world, height, width)
    frames = scenes.batch_shape[0]
    pictures = []
    for begin in range(0, frames, 8):
        # Pad the last part with repeats, a fixed shape for a single compilation.
        rows = np.minimum(np.arange(begin, begin + 8), frames - 1)
        part = jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], scenes)
        pictures.append(np.asarray(paint(part))[: frames - begin])
    return np.concatenate(pictures)


def compose(
    title: str, pictures: np.ndarray, seen: np.ndarray | None, said: Said, success: bool
) -> list[Image.Image]:
    """Frames of the film.

    Args:
      title: names of task and world model.
      pictures: uint8[T + 1, 360, 640, 3].
      seen: uint8[T + 1, h, w, 3], the world model's input; None if it reads scenes.
      said: its answers.
      success: whether the episode was solved.
    """
    last = len(pictures) - 1
    return [
        _frame(title, pictures[t], None if seen is None else seen[t], said, t,
               last, success)
        for t in range(last + 1)
    ]  # fmt: skip


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _frame(title, picture, seen, said: Said, t: int, last: int, success: bool):
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((24, 18), title, INK, _font(22))
    image.paste(Image.fromarray(picture), (24, 60))
    x, y, wide = 24, 60 + STAGE[1] + 10, STAGE[0]
    draw.rectangle((x, y, x + wide, y + 6), PANEL)
    draw.rectangle((x, y, x + wide * t / max(last, 1), y + 6), BLUE)
    done = t == last
    state = ("solved" if success else "not solved") if done else "under way"
    colour = (GREEN if success else RED) if done else MUTED
    draw.text((x, y + 16), f"step {t} of {last}, {t / 10:.1f} s", MUTED, _font(16))
    draw.text((x + wide, y + 16), state, colour, _font(16), anchor="ra")
    note = f"bar: probability of the answer wanted, {said.ahead} steps ahead"
    draw.text((x, y + 52), note, MUTED, _font(14))
    draw.text(
        (x, y + 72), "dot: green if it came true",
        MUTED, _font(14),
    )  # fmt: skip
    left, top = 24 + STAGE[0] + 28, 60
    if seen is not None:
        view = Image.fromarray(seen).resize((168, 168), Image.Resampling.NEAREST)
        image.paste(view, (left, top))
        size = f"{seen.shape[1]} x {seen.shape[0]} pixels"
        for i, text in enumerate(("what the model sees,", size)):
            draw.text((left + 182, top + 4 + 20 * i), text, MUTED, _font(15))
        top += 190
    else:
        draw.text((left, top), "told the true poses", MUTED, _font(15))
        top += 34
    _answers(draw, said, t, left, top)
    return image


def _answers(draw: ImageDraw.ImageDraw, said: Said, t: int, left: int, top: int):
    width = WIDTH - left - 24
    room = max((HEIGHT - top - 12) // LINE, 1)
    for q in range(min(len(said.questions[t]), room)):
        y = top + LINE * q
        p = float(np.clip(said.probability[t, q], 0.0, 1.0))
        wanted = said.questions[t][q].answers[int(said.desired[t, q])]
        draw.text((left, y), said.questions[t][q].text, INK, _font(15))
        draw.text((left + width, y), wanted, MUTED, _font(15), anchor="ra")
        draw.rectangle((left, y + 22, left + width - 64, y + 34), PANEL)
        draw.rectangle((left, y + 22, left + (width - 64) * p, y + 34), BLUE)
        draw.text((left + width - 22, y + 19), f"{p:.2f}", INK, _font(15), anchor="ra")
        dot = (left + width - 13, y + 22, left + width - 1, y + 34)
        draw.ellipse(dot, GREEN if said.truth[t, q] else PANEL, MUTED)
