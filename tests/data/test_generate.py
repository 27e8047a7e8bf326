"""Data generation: what is written opens in TFDS, is true, and survives kill -9."""

import dataclasses
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import jax
import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from data_pipelines.generate.play import play_episodes
from data_pipelines.generate.shards import generate, schema_of, shards_of
from data_pipelines.schema import store as folder
from data_pipelines.schema.episode import DataError, Episode, encode_png, validate
from data_pipelines.schema.read import load_episodes, read_episodes
from experiments import generate_board
from swm_jax import worlds
from swm_jax.worlds.board.geometry import PLANNER_ACTION_LIMIT
from swm_jax.worlds.board.render.device import render

ROOT = Path(__file__).parents[2]
WORLD = worlds.load("board")
CONFIG_FILE = "experiments/generate_board.py"


def debug_config(mixture=None, **changes):
    config = generate_board.get_config("debug")
    config.backend = "mujoco"
    config.update(changes)
    if mixture is not None:
        config.mixture = ml_collections.ConfigDict(mixture)
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The debug data set: 3 train episodes in 2 shards, 1 val episode."""
    directory = tmp_path_factory.mktemp("debug") / "board"
    generate(debug_config(), directory)
    return directory


@pytest.fixture
def copy(data, tmp_path):
    return shutil.copytree(data, tmp_path / "copy")


def contents(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def test_tfds_opens_what_was_written(data):
    builder = tfds.builder_from_directory(str(data))
    assert {k: v.num_examples for k, v in builder.info.splits.items()} == {
        "train": 3,
        "val": 1,
    }
    record = builder.as_data_source("train")[1]
    steps = len(record["action"])
    assert 16 <= steps <= 20
    assert np.stack(record["image"]).shape == (steps + 1, 32, 32, 3)
    assert record["block_pose"].shape == (steps + 1, 8, 3)
    assert record["policy"].decode() in WORLD.policies.names
    assert record["episode"] == 1 and record["schema_version"] == 2


def test_splits_share_no_episode(data):
    train = load_episodes(data, "train").episode
    val = load_episodes(data, "val").episode
    assert sorted([*train, *val]) == [0, 1, 2, 3]


def test_frames_show_the_poses_stored_beside_them(data):
    episodes = load_episodes(data, "train")
    for i, t in [(0, 0), (1, 9), (2, int(episodes.length[2]))]:
        again = np.asarray(render(episodes.scene(i, t), 32, 32)).astype(int)
        assert np.abs(again - episodes.image(i, t)).max() <= 1


def test_stored_actions_lead_from_each_frame_to_the_next(data):
    episodes = load_episodes(data, "train")
    env = worlds.load_env("board", backend="mujoco")
    for i, steps in enumerate(episodes.length):
        start = env.state_from_scene(episodes.scene(i, 0))
        start = jax.tree.map(lambda x: np.asarray(x)[None], start)
        replay = env.rollout_batch(start, episodes.action[i : i + 1, :steps])
        stored = episodes.block_pose[i, : steps + 1]
        np.testing.assert_allclose(replay.block_pose[0], stored, atol=1e-6)
        np.testing.assert_allclose(
            replay.peg[0], episodes.peg[i, : steps + 1], atol=1e-6
        )


def test_same_config_gives_the_same_bytes(data, tmp_path):
    generate(debug_config(), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(data)


def test_another_seed_gives_other_episodes(data, tmp_path):
    generate(debug_config(seed=1), tmp_path / "other")
    first, other = load_episodes(data), load_episodes(tmp_path / "other")
    assert not np.allclose(first.block_pose[0, 0], other.block_pose[0, 0])


def test_killed_run_continues_to_the_same_bytes(data, tmp_path):
    """Kills the command line with SIGKILL after its first shard, then resumes."""
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "data_pipelines.generate", "--output", output]
    command += ["--config", f"{CONFIG_FILE}:debug", "--config.backend=mujoco"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    shards = shards_of(debug_config(), output)
    try:
        for _ in range(60_000):
            if shards[0].path.exists() or process.poll() is not None:
                break
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert shards[0].path.exists() and not (output / "dataset_info.json").exists()
    made = shards[0].path.stat().st_mtime_ns
    (output / "partial.board-val.array_record-00000-of-00001").write_bytes(b"half")
    generate(debug_config(), output)
    assert shards[0].path.stat().st_mtime_ns == made
    assert contents(output) == contents(data)


def test_finished_folder_is_left_as_it_is(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.glob("*array_record*")}
    counts = generate(debug_config(), copy)
    assert counts.episodes == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def refused(match, config, output):
    with pytest.raises(DataError, match=match) as caught:
        generate(config, output)
    assert "\n" not in str(caught.value)


def test_folder_of_another_config_is_refused(copy):
    refused("config.seed is 0 there, 5 here", debug_config(seed=5), copy)
    refused("config.mixture.contact is 0.3", debug_config({"random": 1.0}), copy)


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    refused(r"is not empty \('letters.txt'\)", debug_config(), tmp_path)


def test_damaged_shard_is_named_on_resume(copy):
    shard = copy / "board-train.array_record-00000-of-00002"
    content = bytearray(shard.read_bytes())
    content[3000] ^= 0xFF
    shard.write_bytes(content)
    refused("00000-of-00002 is damaged", debug_config(), copy)


def test_damaged_config_is_named(copy):
    (copy / "generation.json").write_text('{"config": ')
    refused("generation.json is damaged", debug_config(), copy)


def test_second_run_at_the_same_time_is_refused(copy):
    handle = os.open(copy, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refused("another run is writing to", debug_config(), copy)
    finally:
        os.close(handle)


def test_file_in_the_way_of_the_folder_is_named(tmp_path):
    (tmp_path / "board").write_text("a file")
    refused("cannot make folder", debug_config(), tmp_path / "board")


def test_full_disk_is_told_in_one_line_and_leaves_no_shard(copy):
    episodes = read_episodes(copy, "train")[:2]
    shard = shards_of(debug_config(), copy)[0]
    shard.path.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # as a full disk does
    try:
        with pytest.raises(DataError, match=r"cannot write .*00000-of-00002: ") as seen:
            folder.write_shard(shard.path, episodes, schema_of(debug_config()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(seen.value)
    assert not shard.path.exists() and not list(copy.glob("partial.*"))


def test_command_line_tells_an_error_in_one_line(copy):
    command = [sys.executable, "-m", "data_pipelines.generate", "--output", copy]
    command += ["--config", f"{CONFIG_FILE}:debug", "--episodes", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()
    assert last[-1].startswith("error: ") and "config.episodes is 4 there" in last[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"val_share": 1.5}, "config.val_share is 1.5, expected a share"),
        ({"episodes": 1}, "config.episodes is 1, expected at least 2"),
        ({"max_steps": 3}, "config.max_steps is 3, expected at least min_steps"),
        ({"mixture": {"genius": 1.0}}, "config.mixture is .*genius.*expected weights"),
        ({"look": "night"}, "config.look is 'night', expected one of default"),
        ({"near_share": 2.0}, "config.near_share is 2.0, expected a share"),
        ({"world": "boord"}, "config.world: unknown world 'boord' .did you mean"),
        ({"backend": "mujuco"}, "unknown backend 'mujuco' .did you mean 'mujoco'"),
    ],
)
def test_unusable_config_is_refused(changes, match, tmp_path):
    refused(match, debug_config(**changes), tmp_path)


def test_unknown_variant_is_refused_with_a_hint():
    with pytest.raises(ValueError, match="did you mean 'debug'"):
        generate_board.get_config("debgu")


def test_every_policy_acts_within_the_planners_limit():
    env = worlds.load_env("board", backend="mujoco")
    for name in WORLD.policies.names:
        config = debug_config(mixture={name: 1.0}, max_steps=20)
        played = play_episodes(env, WORLD.policies, 0, range(8), config)
        assert (played.policy == WORLD.policies.names.index(name)).all()
        assert 0 < np.abs(played.action).max() <= PLANNER_ACTION_LIMIT + 1e-7
        assert played.scene.peg.shape == (8, 21, 2)


def test_contact_policy_meets_blocks_more_often_than_random_actions():
    env = worlds.load_env("board", backend="mujoco")
    near = {}
    for name in ("random", "contact"):
        config = debug_config(mixture={name: 1.0}, near_share=0.0)
        scene = play_episodes(env, WORLD.policies, 0, range(8), config).scene
        place = scene.block_pose[..., :2] - scene.peg[:, :, None]
        near[name] = (np.linalg.norm(place, axis=-1).min(-1) < 0.05).mean()
    assert near["contact"] > near["random"] + 0.1


@pytest.mark.slow
def test_mjx_backend_makes_valid_episodes(tmp_path):
    generate(debug_config(backend="mjx"), tmp_path / "mjx")
    assert len(read_episodes(tmp_path / "mjx", "train")) == 3


def episode(steps: int) -> Episode:
    png = encode_png(np.zeros((4, 4, 3), np.uint8))
    return Episode(
        image=[png] * (steps + 1),
        action=np.zeros((steps, 2), np.float32),
        state={
            "block_pose": np.zeros((steps + 1, 8, 3), np.float32),
            "peg": np.zeros((steps + 1, 2), np.float32),
            "block_id": np.arange(8, dtype=np.int32),
        },
        policy="random",
        seed=0,
        episode=0,
    )


@pytest.mark.parametrize(
    "field, value, match",
    [
        ("peg", np.zeros((3, 2), np.float32), r"shape of peg is \(3, 2\), expected"),
        ("peg", np.full((4, 2), np.nan, np.float32), "peg is not finite"),
        ("action", np.full((3, 2), 0.2, np.float32), "largest action is 0.2"),
        ("action", np.zeros((3, 2)), "type of action is float64"),
        ("block_id", np.zeros(8, np.int32), "expected different blocks"),
        ("block_id", np.arange(8, dtype=np.int32) + 90, "expected ids below 20"),
        ("policy", "genius", "policy is 'genius'"),
        ("image", [b"GIF89a.."] * 4, "frame 0 is .* expected a PNG or JPEG"),
        ("image", [b""] * 2, "frames is 2, expected 4"),
        ("block_pose", np.full((4, 8, 3), 7, np.float32), "farthest block is 7.00 m"),
    ],
)
def test_broken_episode_is_refused(field, value, match):
    validate(episode(3))
    broken = episode(3)
    if field in broken.state:
        broken.state[field] = value
    else:
        broken = dataclasses.replace(broken, **{field: value})
    with pytest.raises(DataError, match=match):
        validate(broken)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"schema_version": 3}, "has schema version 3, this code reads 1 and 2"),
        ({"peg": None}, "lacks the field 'peg'"),
    ],
)
def test_record_of_another_schema_is_refused(change, match):
    record = {**episode(3).record(), **change}
    record = {key: value for key, value in record.items() if value is not None}
    with pytest.raises(DataError, match=match):
        Episode.from_record(record)


@hypothesis.given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(1, 9))
def test_layout_holds_every_episode_once_and_splits_by_episode(count, share, shard):
    config = debug_config(episodes=count, val_share=share, episodes_per_shard=shard)
    shards = shards_of(config, Path("out"))
    numbers = [n for one in shards for n in one.numbers]
    assert numbers == list(range(count))
    assert max(len(one.numbers) for one in shards) <= shard
    assert {one.split for one in shards} == {"train", "val"}


def test_a_folder_of_the_time_before_worlds_is_gone_on_with(copy):
    """Its config says nothing of the world, as the board's did then."""
    path = copy / "generation.json"
    old = json.loads(path.read_text())
    del old["config"]["world"]
    path.write_text(json.dumps(old))
    assert generate(debug_config(), copy).episodes == 0


def with_other_jax(folder):
    path = folder / "generation.json"
    stored = json.loads(path.read_text())
    stored["conditions"]["jax"] = "0.0.1"
    path.write_text(json.dumps(stored))


def test_shards_of_another_jax_are_not_mixed_with_ours(copy):
    with_other_jax(copy)
    assert generate(debug_config(), copy).episodes == 0  # finished: none to make
    (copy / "dataset_info.json").unlink()
    refused("conditions.jax is '0.0.1' there", debug_config(), copy)


@pytest.mark.parametrize("seed", [-1, 2**62])
def test_a_seed_out_of_range_is_refused(seed, tmp_path):
    refused(f"config.seed is {seed}", debug_config(seed=seed), tmp_path / "new")


def test_generation_json_holds_the_config(data):
    written = json.loads((data / "generation.json").read_text())
    assert written["schema_version"] == 2
    assert written["config"]["episodes"] == 4
