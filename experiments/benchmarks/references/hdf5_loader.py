"""Reference for data loading: a PyTorch DataLoader over an HDF5 file.

The file has the usual layout of published robot data (robomimic and similar):

    data/demo_0/obs/image   uint8[T + 1, h, w, 3], gzip, one chunk per frame
    data/demo_0/actions     float32[T, A]

and a table of tuples, one item each, with tokenised questions, so that tokenisation is
not timed:

    tuples/demo, t, horizon, answer   int32[n]
    tuples/question                   int32[n, tokens]
"""

import h5py
import numpy as np
import torch

from data_pipelines.saqa.batch import SaqaBatch
from data_pipelines.saqa.tokens import QuestionTokens
from data_pipelines.schema.arrays import EpisodeArrays


def write_hdf5(
    path: str,
    episodes: EpisodeArrays,
    batches: list[SaqaBatch],
    words: QuestionTokens,
) -> int:
    """Writes episodes and the tuples of some batches; returns the number of tuples."""
    rows = []
    with h5py.File(path, "w") as file:
        for i, steps in enumerate(episodes.length):
            image = episodes.image(i, np.arange(steps + 1))
            group = file.create_group(f"data/demo_{i}")
            group.create_dataset(
                "obs/image",
                data=image,
                chunks=(1, *image.shape[1:]),
                compression="gzip",
            )
            group["actions"] = episodes.action[i, :steps]
        for batch in batches:
            tokens, _ = words(batch.type_id, batch.args, batch.phrasing)
            for b, r in np.argwhere(batch.query_valid):
                where = batch.episode[b], batch.t[b], batch.query_horizon[b, r]
                question = tokens[b, batch.query_question[b, r]]
                rows.append((*where, batch.query_answer[b, r], question))
        demo, t, horizon, answer, question = zip(*rows)
        file["tuples/demo"] = np.array(demo, np.int32)
        file["tuples/t"] = np.array(t, np.int32)
        file["tuples/horizon"] = np.array(horizon, np.int32)
        file["tuples/answer"] = np.array(answer, np.int32)
        file["tuples/question"] = np.array(question, np.int32)
    return len(rows)


class Hdf5Tuples(torch.utils.data.Dataset):
    """Data set with one item per tuple; each worker opens the file separately."""

    def __init__(self, path: str, actions: int):
        self._path, self._actions, self._file = path, actions, None
        with h5py.File(path) as file:
            self._table = {name: column[:] for name, column in file["tuples"].items()}

    def __len__(self) -> int:
        return len(self._table["t"])

    def __getitem__(self, index: int):
        if self._file is None:
            self._file = h5py.File(self._path)
        row = {name: column[index] for name, column in self._table.items()}
        demo = self._file[f"data/demo_{row['demo']}"]
        t, horizon = int(row["t"]), int(row["horizon"])
        chunk = np.zeros((self._actions, demo["actions"].shape[1]), np.float32)
        chunk[:horizon] = demo["actions"][t : t + horizon]
        return {
            "image": demo["obs/image"][t],
            "actions": chunk,
            "question": row["question"],
            "horizon": horizon,
            "answer": int(row["answer"]),
        }


def loader(path: str, actions: int, batch: int, workers: int):
    """A shuffling DataLoader, its workers started anew."""
    return torch.utils.data.DataLoader(
        Hdf5Tuples(path, actions),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
