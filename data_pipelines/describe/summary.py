"""Summary of a data set: episodes, lengths, actions, pools, balance, labels."""

import base64
import html
import io
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.batches.normalise import action_statistics
from data_pipelines.describe.contact_sheet import contact_sheet, random_examples
from data_pipelines.saqa.balance import pool_report
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.schema.arrays import EpisodeArrays
from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.output_folder import write_whole
from data_pipelines.schema.read import load_episodes, open_dataset
from swm_jax import worlds

NEAR = 0.05  # metres between centres that count as touching
MOVED = 0.04  # metres over an episode that count as moved
_SHOWN = 5  # instructions and questions listed
_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:2em auto;
padding:0 1em;background:#fafaf8;color:#191919}}pre{{overflow-x:auto;font-size:13px}}
img{{max-width:100%}}</style>
<h1>{title}</h1><pre>{text}</pre>
<h2>Random tuples of the training split</h2>
<img alt="pairs of frames with a question and its answer"
src="data:image/png;base64,{png}">
"""


def describe(episodes: EpisodeArrays) -> str:
    """Counts, lengths, policies, instructions, actions and labels of a split."""
    length = episodes.length
    height, width = episodes.frames.shape[1:3]
    lines = [
        f"{len(episodes)} episodes, {int((length + 1).sum())} frames of "
        f"{width} x {height} px, {length.sum()} actions; domain {episodes.domain}",
        f"actions per episode: {length.min()} to {length.max()}, "
        f"mean {length.mean():.1f}, median {np.median(length):.0f}",
    ]
    lines += _policies(episodes)
    told = Counter(text for text in episodes.instruction if text)
    if told:
        some = "; ".join(f"{text!r} ({n})" for text, n in told.most_common(_SHOWN))
        lines.append(f"{len(told)} different instructions: {some}")
    lines += _actions(episodes)
    lines += _labels(episodes)
    return "\n".join(lines)


def _policies(episodes: EpisodeArrays) -> list[str]:
    with_scene = get_domain(episodes.domain).scene is not None
    robot = worlds.language(episodes.domain).robot if with_scene else ""
    head = f"{'policy':12}{'episodes':>10}{'step':>10}"
    if with_scene:
        head += f"{f'{robot} near':>14}{'pair near':>10}{'moved':>8}"
    lines = [head]
    inside = np.arange(episodes.action.shape[1]) < episodes.length[:, None]
    size = np.linalg.norm(episodes.action, axis=-1)
    for index, name in enumerate(episodes.policies):
        rows = np.flatnonzero(episodes.policy == index)
        if not len(rows):
            continue
        step = size[rows][inside[rows]].mean()
        line = f"{name:12}{len(rows):10}{step:10.4f}"
        if with_scene:
            near, pair, moved = _events(episodes, rows)
            line += f"{near:14.2f}{pair:10.2f}{moved:8.2f}"
        lines.append(line)
    told = "step: mean length of an action in its own units"
    if with_scene:
        told += (
            f"; {robot} near, pair near: share of frames with it and a block, or two "
            f"blocks, within {NEAR} m; moved: blocks per episode that ended more than "
            f"{MOVED} m from their start"
        )
    return [*lines, told]


def _events(episodes: EpisodeArrays, rows: np.ndarray) -> tuple[float, float, float]:
    """Shares of frames with a robot or pair contact, and blocks moved per episode."""
    language = worlds.language(episodes.domain)
    hand = getattr(episodes, language.robot)[rows, :, None, : language.axes]
    inside = np.arange(hand.shape[1]) <= episodes.length[rows, None]
    place = episodes.block_pose[rows, ..., : language.axes]
    to_robot = np.linalg.norm(place - hand, axis=-1).min(-1)
    apart = np.linalg.norm(place[..., :, None, :] - place[..., None, :, :], axis=-1)
    # The identity adds 1 m on the diagonal: an object is not its own neighbour.
    apart = (apart + np.eye(place.shape[2])).min((-1, -2))
    moved = np.linalg.norm(place[:, -1] - place[:, 0], axis=-1) > MOVED
    near = lambda distance: float((distance < NEAR)[inside].mean())
    return near(to_robot), near(apart), float(moved.sum(-1).mean())


def _actions(episodes: EpisodeArrays) -> list[str]:
    statistics = action_statistics(episodes.inside())
    lines = ["action " + "".join(f"{name:>11}" for name in statistics)]
    for i in range(episodes.action.shape[-1]):
        row = "".join(f"{values[i]:11.4g}" for values in statistics.values())
        lines.append(f"{i:6} {row}")
    return lines


def _labels(episodes: EpisodeArrays) -> list[str]:
    labels = [one for one in episodes.labels if len(one)]
    if not labels:
        return []
    pairs = Counter(p for one in labels for p in zip(one.question, one.answer))
    confidence = np.concatenate([one.confidence for one in labels])
    asked = Counter(question for question, _ in pairs.elements())
    lines = [
        f"{len(confidence)} labels in {len(labels)} episodes, confidence "
        f"{confidence.min():.2f} to {confidence.max():.2f}, "
        f"mean {confidence.mean():.2f}"
    ]
    for question, count in asked.most_common(_SHOWN):
        answers = {a: n for (q, a), n in pairs.items() if q == question}
        split = ", ".join(f"{a} {n}" for a, n in sorted(answers.items()))
        lines.append(f"  {question} {count}: {split}")
    if len(asked) > _SHOWN:
        lines.append(f"  and {len(asked) - _SHOWN} other questions")
    return lines


def report(directory: Path, examples: int = 0) -> tuple[str, np.ndarray | None]:
    """Text about a folder, and a contact sheet of `examples` tuples (None for 0).

    Raises:
      DataError: the folder cannot be opened, or a split has no intact episode.
    """
    splits = sorted(open_dataset(directory).info.splits)
    size = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    lines, skipped, loaded, sampler = (
        [f"{directory}: {size / 1e6:.1f} MB"],
        [],
        {},
        None,
    )
    for split in splits:
        loaded[split] = load_episodes(
            directory, split, frames="compressed", skipped=skipped
        )
        lines.append(f"\n[{split}] {describe(loaded[split])}")
    if skipped:
        lines.append(f"\n{len(skipped)} damaged episodes, the first: {skipped[0]}")
    train = loaded.get("train", loaded[splits[0]])
    if get_domain(train.domain).scene is not None:
        try:
            sampler = SaqaSampler(train)
            lines += ["\nquestions, train split", pool_report(sampler)]
        except ValueError as error:
            lines.append(f"\nno questions can be drawn: {error}")
    elif not any(map(len, train.labels)):
        lines.append(
            "\nno answers: this domain has no predicates and the episodes no labels; "
            f"make some with `python -m data_pipelines.label {directory} NEW_FOLDER`"
        )
    sheet = None
    if examples and (sampler is not None or get_domain(train.domain).scene is None):
        sheet = contact_sheet(random_examples(train, examples, sampler=sampler))
    return "\n".join(lines), sheet


def write(text: str, sheet: np.ndarray, output: Path, title: str) -> None:
    """Writes the sheet as PNG, or with the text as a self-contained HTML page.

    Raises:
      DataError: a failed write, e.g. a full disk.
    """
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    content = buffer.getvalue()
    if output.suffix == ".html":
        page = _PAGE.format(
            title=html.escape(title),
            text=html.escape(text),
            png=base64.b64encode(content).decode(),
        )
        content = page.encode()
    write_whole(output, lambda file: file.write(content))
