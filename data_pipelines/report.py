"""What a data set holds: `python -m data_pipelines.report DIR`.

Prints, per split, episodes, frames, lengths, who acted and how eventful it was, then
the pools that questions are drawn from and the balance of the batches drawn.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, logging

from data_pipelines.arrays import EpisodeArrays
from data_pipelines.episodes import DataError
from data_pipelines.load import load_episodes, open_dataset
from data_pipelines.saqa import SaqaSampler
from data_pipelines.saqa_balance import pool_report

NEAR = 0.05  # metres between centres that count as touching
MOVED = 0.04  # metres over an episode that count as moved


def describe(episodes: EpisodeArrays) -> str:
    """Counts, lengths, policies and events of a split, as text."""
    length = episodes.length
    lines = [
        f"{len(episodes)} episodes, {len(episodes.frames)} frames of "
        f"{episodes.frames.shape[2]} x {episodes.frames.shape[1]} px, "
        f"{length.sum()} actions",
        f"actions per episode: {length.min()} to {length.max()}, "
        f"mean {length.mean():.1f}",
        f"{'policy':10}{'episodes':>10}{'step, mm':>10}{'peg near':>10}"
        f"{'pair near':>10}{'moved':>8}",
    ]
    for index, name in enumerate(episodes.policies):
        rows = np.flatnonzero(episodes.policy == index)
        if len(rows):
            step, peg, pair, moved = _events(episodes, rows)
            lines.append(
                f"{name:10}{len(rows):10}{1000 * step:10.1f}{peg:10.2f}{pair:10.2f}"
                f"{moved:8.2f}"
            )
    lines.append(
        "step: mean length of an action; peg near, pair near: share of frames with "
        f"the peg and a block, or two blocks, within {NEAR} m; moved: blocks per "
        f"episode that ended more than {MOVED} m from their start"
    )
    return "\n".join(lines)


def _events(
    episodes: EpisodeArrays, rows: np.ndarray
) -> tuple[float, float, float, float]:
    """Mean action length, shares of frames with contacts, blocks moved."""
    inside = np.arange(episodes.peg.shape[1]) <= episodes.length[rows, None]
    place = episodes.block_pose[rows, ..., :2]
    to_peg = np.linalg.norm(place - episodes.peg[rows, :, None], axis=-1).min(-1)
    apart = np.linalg.norm(place[..., :, None, :] - place[..., None, :, :], axis=-1)
    apart = (apart + np.eye(8)).min((-1, -2))
    steps = np.linalg.norm(episodes.action[rows], axis=-1)[inside[:, 1:]]
    moved = np.linalg.norm(place[:, -1] - place[:, 0], axis=-1) > MOVED
    near = lambda distance: float((distance < NEAR)[inside].mean())
    return float(steps.mean()), near(to_peg), near(apart), float(moved.sum(-1).mean())


def main(argv: list[str]) -> None:
    """Prints the report of the folder named on the command line."""
    if len(argv) != 2:
        raise app.UsageError("usage: python -m data_pipelines.report DIR")
    logging.set_verbosity(logging.WARNING)
    try:
        directory = Path(argv[1])
        splits = sorted(open_dataset(directory).info.splits)
        loaded = {split: load_episodes(directory, split) for split in splits}
        size = sum(path.stat().st_size for path in directory.iterdir())
        print(f"{directory}: {size / 1e6:.1f} MB")
        for split, episodes in loaded.items():
            print(f"\n[{split}] {describe(episodes)}")
        print("\nquestions, train split")
        print(pool_report(SaqaSampler(loaded["train"])))
    except (DataError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
