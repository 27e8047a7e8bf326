"""Small data sets in the layouts in which others publish theirs.

Every frame is one plain colour that tells its episode and step, so that a reader that
mixes up frames is found out, also behind a lossy video codec.
"""

import json
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.schema.episode import encode_png
from data_pipelines.sources.tfrecords import masked_crc

FPS = 10
CAMERA = "observation.images.top"
SIZE = (32, 48)  # height, width; even, as video codecs want


def colour(episode: int, t: int) -> tuple[int, int, int]:
    return 20 + 40 * episode, 30 + 12 * t, 120


def frame(episode: int, t: int, size=SIZE) -> np.ndarray:
    return np.broadcast_to(np.uint8(colour(episode, t)), (*size, 3)).copy()


def actions(episode: int, steps: int, width: int = 3) -> np.ndarray:
    return np.random.default_rng(episode).normal(size=(steps, width)).astype("float32")


def write_video(
    path: Path, frames, fps=FPS, codec="libx264", pixels="yuv420p", output=()
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    options = {"quality": 9} if codec == "libx264" else {"quality": None}
    if codec == "libsvtav1":  # as LeRobot encodes
        output = ("-g", "2", "-crf", "20", *output)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        macro_block_size=2,
        codec=codec,
        pix_fmt_out=pixels,
        output_params=list(output),
        **options,
    )
    writer.send(None)
    for each in frames:
        writer.send(np.ascontiguousarray(each))
    writer.close()


def lerobot(
    path: Path,
    version: str,
    lengths=(12, 9, 15),
    fps=FPS,
    cameras=(CAMERA,),
    codec="libx264",
    pictures=None,
) -> Path:
    """Version "v2.1" (a file per episode) or "v3.0" (all of them in one).

    Every further camera is 50 levels bluer. With `pictures`, (episode, t) -> bytes, the
    frames are files in the rows instead of videos.
    """
    meta, new = path / "meta", version == "v3.0"
    meta.mkdir(parents=True)
    tasks = ["push the block", "lift it"]
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if new
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/"
        "file-{file_index:03d}.mp4"
        if new
        else "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
        "features": {
            "action": {"dtype": "float32", "shape": [3], "names": None},
            "observation.state": {"dtype": "float32", "shape": [4], "names": None},
            **{
                name: {
                    "dtype": "image" if pictures else "video",
                    "shape": [*SIZE, 3],
                    "names": None,
                }
                for name in cameras
            },
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }
    (meta / "info.json").write_text(json.dumps(info))
    tables, rows, first = [], [], 0
    for episode, steps in enumerate(lengths):
        table = pa.table(
            {
                "action": actions(episode, steps).tolist(),
                "observation.state": actions(100 + episode, steps, 4).tolist(),
                "timestamp": np.arange(steps, dtype=np.float32) / FPS,
                "frame_index": np.arange(steps),
                "episode_index": np.full(steps, episode),
                "index": first + np.arange(steps),
                "task_index": np.full(steps, episode % 2),
            }
        )
        if pictures:
            cells = [
                {"bytes": pictures(episode, t), "path": None} for t in range(steps)
            ]
            for name in cameras:
                table = table.append_column(name, pa.array(cells))
        tables.append(table)
        row = {"episode_index": episode, "length": steps, "tasks": [tasks[episode % 2]]}
        if new:
            row |= {
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": first,
                "dataset_to_index": first + steps,
                "stats/action/mean": [0.0] * 3,
            }
            for name in () if pictures else cameras:
                row |= {
                    f"videos/{name}/chunk_index": 0,
                    f"videos/{name}/file_index": 0,
                    f"videos/{name}/from_timestamp": first / FPS,
                    f"videos/{name}/to_timestamp": (first + steps) / FPS,
                }
        rows.append(row)
        first += steps
    bluer = lambda image, i: image + np.array([0, 0, 50 * i], np.uint8)
    films = {
        name: [[bluer(frame(e, t), i) for t in range(n)] for e, n in enumerate(lengths)]
        for i, name in enumerate(() if pictures else cameras)
    }
    if new:
        (path / "data" / "chunk-000").mkdir(parents=True)
        pq.write_table(
            pa.concat_tables(tables), path / "data" / "chunk-000" / "file-000.parquet"
        )
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(rows),
            meta / "episodes" / "chunk-000" / "file-000.parquet",
        )
        words = pa.table({"task_index": [0, 1], "__index_level_0__": tasks})
        pq.write_table(words, meta / "tasks.parquet")
        for name, parts in films.items():
            film = [each for some in parts for each in some]
            video = path / "videos" / name / "chunk-000" / "file-000.mp4"
            write_video(video, film, fps, codec)
        return path
    (meta / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [json.dumps({"task_index": i, "task": t}) for i, t in enumerate(tasks)]
    (meta / "tasks.jsonl").write_text("\n".join(lines))
    (path / "data" / "chunk-000").mkdir(parents=True)
    for episode, table in enumerate(tables):
        file = f"episode_{episode:06d}"
        pq.write_table(table, path / "data" / "chunk-000" / f"{file}.parquet")
        for name, parts in films.items():
            video = path / "videos" / "chunk-000" / name / f"{file}.mp4"
            write_video(video, parts[episode], fps, codec)
    return path


def edit_info(path: Path, change) -> None:
    """Passes the fields of a LeRobot set's info.json to `change`."""
    file = path / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))


def edit_episodes(path: Path, change) -> None:
    """Replaces the rows of the episodes of either version by `change(rows)`."""
    _edit_table(path / "meta" / "episodes.jsonl", change)
    _edit_table(path / "meta" / "episodes" / "chunk-000" / "file-000.parquet", change)


def edit_tasks(path: Path, change) -> None:
    """Replaces the rows of the tasks of either version by `change(rows)`."""
    for name in ("tasks.jsonl", "tasks.parquet"):
        _edit_table(path / "meta" / name, change)


def _edit_table(file: Path, change) -> None:
    if not file.exists():
        return
    if file.suffix == ".jsonl":
        rows = change([json.loads(line) for line in file.read_text().splitlines()])
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        rows = change(pq.read_table(file).to_pylist())
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name) for row in rows] for name in names}
        pq.write_table(pa.table(columns), file)


def language_table_features(size=(360, 640)) -> tfds.features.FeaturesDict:
    """As the published data sets' features.json has them."""
    tensor = tfds.features.Tensor
    observation = {
        "rgb": tfds.features.Image(
            shape=(*size, 3), dtype=np.uint8, encoding_format="png"
        ),
        "instruction": tensor(shape=(512,), dtype=np.int32),
        "effector_translation": tensor(shape=(2,), dtype=np.float32),
        "effector_target_translation": tensor(shape=(2,), dtype=np.float32),
    }
    step = {
        "observation": tfds.features.FeaturesDict(observation),
        "action": tensor(shape=(2,), dtype=np.float32),
        "reward": tfds.features.Scalar(dtype=np.float32),
        "is_first": tfds.features.Scalar(dtype=np.bool_),
        "is_last": tfds.features.Scalar(dtype=np.bool_),
        "is_terminal": tfds.features.Scalar(dtype=np.bool_),
    }
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)})


def language_table(
    path: Path,
    lengths=(8, 6, 7),
    kind="tfrecord",
    shards=2,
    size=(36, 64),
    instruction="push the red moon to the blue cube, s'il vous plaît",
) -> Path:
    """A folder like `language_table_sim/0.0.1`, written by TFDS's own serializer."""
    path.mkdir(parents=True)
    features = language_table_features(size)
    features.save_config(str(path))
    serializer = ExampleSerializer(features.get_serialized_info())
    words = np.zeros(512, np.int32)
    text = instruction.encode()
    words[: len(text)] = list(text)
    records = []
    for episode, steps in enumerate(lengths):
        move, effector = (actions(episode + k, steps, 2) for k in (0, 50))
        rows = [
            {
                "observation": {
                    "rgb": encode_png(frame(episode, t, size)),
                    "instruction": words,
                    "effector_translation": effector[t],
                    "effector_target_translation": effector[t] + move[t],
                },
                "action": move[t],
                "reward": np.float32(t == steps - 1),
                "is_first": t == 0,
                "is_last": t == steps - 1,
                "is_terminal": False,
            }
            for t in range(steps)
        ]
        encoded = features.encode_example({"steps": rows})
        records.append(serializer.serialize_example(encoded))
    cut = np.array_split(np.arange(len(records)), shards)
    for i, rows in enumerate(cut):
        file = path / f"language_table_sim-train.{kind}-{i:05d}-of-{shards:05d}"
        write_records(file, [records[r] for r in rows], kind)
    info = {
        "name": "language_table_sim",
        "fileFormat": kind,
        "splits": [{"name": "train", "shardLengths": [str(len(rows)) for rows in cut]}],
        "version": "0.0.1",
    }
    (path / "dataset_info.json").write_text(json.dumps(info))
    return path


def write_records(path: Path, records, kind: str) -> None:
    if kind == "array_record":
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return
    with open(path, "wb") as file:
        for record in records:
            length = len(record).to_bytes(8, "little")
            for part in (length, record):
                file.write(part + masked_crc(part).to_bytes(4, "little"))


def ogbench_file(path: Path, lengths=(30, 25), qpos=None) -> Path:
    """A `visual-cube-*` file: all steps of all trajectories one after the other."""
    frames = [
        frame(e, t % 16, (64, 64)) for e, n in enumerate(lengths) for t in range(n)
    ]
    ends = np.zeros(sum(lengths), np.float32)
    ends[np.cumsum(lengths) - 1] = 1
    content = {
        "observations": np.stack(frames),
        "actions": np.clip(actions(7, sum(lengths), 5), -1, 1),
        "terminals": ends,
    }
    if qpos is not None:
        content["qpos"] = qpos
        content["qvel"] = np.zeros((len(qpos), 26), np.float32)
    np.savez_compressed(path, **content)
    return path
