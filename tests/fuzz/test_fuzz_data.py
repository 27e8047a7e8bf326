"""Data sets of others with one field dropped, nulled, retyped or reordered.

A conversion ends with all episodes stored, left out with a line, or in one error line
with nothing half written; stored pictures and actions are those of their episode.
"""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_data import actions, colour, frame, language_table, lerobot, write_records
from fuzzing import applied, changes, forms, run_cases, told

from data_pipelines.label.store import read_questions
from data_pipelines.schema.episode import DataError, decode_frame, encode_png
from data_pipelines.schema.features import Example
from data_pipelines.schema.read import read_episodes
from data_pipelines.sources import open_source
from data_pipelines.sources.convert import Settings, convert
from data_pipelines.sources.tfrecords import TFRecordFile

LENGTHS = (3, 4, 5)
SETTINGS = Settings(size=None, episodes_per_shard=1, val_share=0.34)
SKIP = dataclasses.replace(SETTINGS, on_damage="skip", take_uncovered=True)


def read_all(path):
    source = open_source(path)
    numbers = [n for some in source.splits.values() for n in some]
    for number in numbers:
        list(source.read(number).frames)
    return len(numbers)


def check(path, out, intact=None):
    """Reads strictly and converts leniently; nothing may be lost in silence."""
    strict, _ = told(DataError, lambda: read_all(path))
    line, made = told(DataError, lambda: convert(path, out, SKIP))
    assert not list(out.glob("*partial*"))
    if made is None:
        assert strict or line
        assert not (out / "dataset_info.json").exists()
    else:
        assert made.episodes + len(made.skipped) >= len(LENGTHS), made
        if not strict:
            assert not made.skipped, made
        for split in ("train", "val") if intact else ():
            for episode in read_episodes(out, split):
                intact(episode)
    shutil.rmtree(out, ignore_errors=True)


def as_recorded(episode):
    """Actions and pictures of that episode and no other."""
    steps = LENGTHS[episode.episode]
    np.testing.assert_array_equal(episode.action, actions(episode.episode, steps)[:-1])
    for t, file in enumerate(episode.image):
        seen = decode_frame(file).mean((0, 1))
        assert np.abs(seen - colour(episode.episode, t)).max() < 6, (episode, t)


def write_json(file, tree):
    file.write_text(json.dumps(tree), encoding="utf-8")


def write_lines(file, tree):
    rows = tree if isinstance(tree, list) else [tree]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def write_parquet(file, tree):
    """Rows as columns; those that have no one type become texts, as pandas does it."""
    rows = [row for row in tree or () if isinstance(row, dict)]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        cells = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(cells)
        except (pa.ArrowException, OverflowError):
            columns[name] = pa.array([None if x is None else str(x) for x in cells])
    pq.write_table(pa.table(columns), file)


def lerobot_files(path):
    """(file, its content as a tree, writer) of the metadata of either version."""
    meta = path / "meta"
    info = meta / "info.json"
    yield info, json.loads(info.read_text()), write_json
    for name in ("episodes.jsonl", "tasks.jsonl"):
        file = meta / name
        if file.exists():
            rows = list(map(json.loads, file.read_text().splitlines()))
            yield file, rows, write_lines
    for file in (meta / "tasks.parquet", *meta.glob("episodes/*/*.parquet")):
        if file.exists():
            yield file, pq.read_table(file).to_pylist(), write_parquet


@forms
@pytest.mark.parametrize("part", ["info", "episodes", "tasks"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_metadata(tmp_path, form, version, part):
    pictures = lambda e, t: encode_png(frame(e, t))
    path = lerobot(
        tmp_path / "in",
        version,
        LENGTHS,
        pictures=pictures if version == "v2.1" else None,
    )
    for file, tree, write in lerobot_files(path):
        if not str(file.relative_to(path / "meta")).startswith(part):
            continue
        kept = file.read_bytes()

        def case(*made, file=file, tree=tree, write=write, kept=kept):
            write(file, applied(tree, *made))
            check(path, tmp_path / "out", as_recorded)
            file.write_bytes(kept)

        run_cases(form, f"{version} {file.name}", changes(tree), case)


@forms
def test_lerobot_rows(tmp_path, form):
    pictures = lambda e, t: encode_png(frame(e, t))
    path = lerobot(tmp_path / "in", "v2.1", LENGTHS, pictures=pictures)
    file = path / "data" / "chunk-000" / "episode_000001.parquet"
    tree, kept = pq.read_table(file).to_pylist(), file.read_bytes()

    def case(*made):
        write_parquet(file, applied(tree, *made))
        check(path, tmp_path / "out")
        file.write_bytes(kept)

    # Rows are alike: the first of them stands for all.
    every = [c for c in changes(tree) if not c.path or c.path[0] == 0]
    run_cases(form, "rows", every, case)


@forms
def test_language_table_description(tmp_path, form):
    path = language_table(tmp_path / "in", LENGTHS, size=(8, 8))
    for file in (path / "dataset_info.json", path / "features.json"):
        tree, kept = json.loads(file.read_text()), file.read_bytes()

        def case(*made, file=file, tree=tree, kept=kept):
            write_json(file, applied(tree, *made))
            check(path, tmp_path / "out")
            file.write_bytes(kept)

        every = changes(tree)
        if file.name == "features.json":  # TFDS's own, of which we read nothing
            every = every[:3]
        run_cases(form, file.name, every, case)


KINDS = {"bytes_list": [b"x"], "float_list": [0.5], "int64_list": [7]}


@forms
def test_language_table_records(tmp_path, form):
    path = language_table(tmp_path / "in", LENGTHS, shards=1, size=(8, 8))
    file = next(path.glob("*.tfrecord-*"))
    records = TFRecordFile(file)
    records = [records.read(i) for i in range(len(records))]
    example = Example.FromString(records[1])
    tree = {
        name: {(kind := value.WhichOneof("kind")): list(getattr(value, kind).value)}
        for name, value in example.features.feature.items()
    }

    def write(changed):
        example = Example()
        for name, kinds in changed.items():
            for kind, values in kinds.items():
                getattr(example.features.feature[name], kind).value.extend(values)
        data = example.SerializeToString()
        write_records(file, [records[0], data, records[2]], "tfrecord")

    def case(*made):
        changed = dict(tree)
        for name, kind in made:
            values = tree[name]
            (own,) = values
            changed[name] = {
                "drop": {},
                "null": {own: []},
                "short": {own: values[own][:-1]},
                "reorder": {own: values[own][::-1]},
                **{kind: {kind: some} for kind, some in KINDS.items()},
                **{f"{kind}s": {kind: some * 4} for kind, some in KINDS.items()},
            }[kind]
        write(changed)
        check(path, tmp_path / "out")

    ways = ("drop", "null", "short", "reorder", *KINDS, *(f"{kind}s" for kind in KINDS))
    run_cases(form, "records", [(name, way) for name in tree for way in ways], case)


@forms
def test_ogbench_arrays(tmp_path, form):
    rng = np.random.default_rng(0)
    steps = sum(LENGTHS)
    ends = np.zeros(steps, np.float32)
    ends[np.cumsum(LENGTHS) - 1] = 1
    content = {
        "observations": rng.integers(0, 256, (steps, 8, 8, 3), np.uint8),
        "actions": rng.uniform(-1, 1, (steps, 5)).astype(np.float32),
        "terminals": ends,
    }
    ways = {
        "reorder": lambda x: x[::-1],
        "transpose": lambda x: x.T,
        "short": lambda x: x[:-1],
        "empty": lambda x: x[:0],
        "scalar": lambda x: x.reshape(-1)[0],
        "deeper": lambda x: x[..., None],
        "flat": lambda x: x.reshape(-1),
        "texts": lambda x: x.astype("U3"),
        "records": lambda x: np.zeros(len(x), [("a", "f4")]),
        "objects": lambda x: np.array([None] * len(x), object),
        "not finite": lambda x: np.full(x.shape, np.nan),
        **{
            kind: lambda x, kind=kind: x.astype(kind)
            for kind in ("bool", "int8", "int64", "uint16", "float16", "float64", "c8")
        },
    }
    path = tmp_path / "visual-cube-double-play-v0.npz"

    def case(*made):
        changed = dict(content)
        for name, way in made:
            changed[name] = ways[way](content[name]) if way != "drop" else None
        save = np.savez if "reorder" in str(made) else np.savez_compressed
        save(path, **{name: x for name, x in changed.items() if x is not None})
        check(path, tmp_path / "out")

    every = [(name, way) for name in content for way in ("drop", *ways)]
    run_cases(form, "arrays", every, case)


@forms
def test_text_files(tmp_path, form):
    lines = ["is it red?", "# words", "", "is it near?", "où est-il\u2028?"]
    marks = [
        "\ufeff",
        "\r\n",
        "\n\n",
        "   \n",
        "\t",
        "\x00",
        "\x85",
        "\u2028",
        "\udcff",
    ]

    def case(*made):
        text = "\n".join(lines)
        for mark, place in made:
            text = text[:place] + mark + text[place:]
        (tmp_path / "questions.txt").write_bytes(
            text.encode("utf-8", "surrogateescape")
        )
        line, found = told(
            DataError, lambda: read_questions(tmp_path / "questions.txt")
        )
        assert line or ("is it near?" in " ".join(found) or len(made) > 1 or found)

    every = [(mark, place) for mark in marks for place in range(0, 40, 3)]
    run_cases(form, "questions", every, case)
