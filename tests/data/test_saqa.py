"""The sampler: pure, balanced, true to the poses, never beyond an episode's end."""

import types

import jax
import numpy as np
import pytest

from data_pipelines.saqa.balance import pool_report
from data_pipelines.saqa.pools import Horizons, margins, name_blocks, slot_questions
from data_pipelines.saqa.sampler import SaqaConfig, SaqaSampler
from swm_jax.questions import (
    ALL_TYPES,
    CHANGE_TYPES,
    TYPES,
    Question,
    parse,
    predicates,
)
from swm_jax.worlds.board.geometry import X_BOUNDS, Y_BOUNDS
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene

SHAPE = dict(images=16, questions=12, queries=36)


def play(episodes=120, steps=36, seed=0, shortest=12):
    """Episodes of a toy world: the peg visits blocks and drags some of them along."""
    rng = np.random.default_rng(seed)
    low, high = (np.array(v) for v in zip(X_BOUNDS, Y_BOUNDS))
    blocks = rng.uniform(low, high, (episodes, 8, 2))
    beside = blocks[:, ::-1] + rng.normal(0, 0.05, blocks.shape)
    blocks = np.where(rng.random((episodes, 8, 1)) < 0.4, beside, blocks)
    world = np.arange(episodes)
    held = rng.integers(0, 8, episodes)
    peg = blocks[world, held] + rng.normal(0, 0.05, (episodes, 2))
    pose = np.zeros((episodes, steps + 1, 8, 3), np.float32)
    pegs = np.zeros((episodes, steps + 1, 2), np.float32)
    action = np.zeros((episodes, steps, 2), np.float32)
    velocity = rng.normal(0, 0.012, (episodes, 2))
    for t in range(steps + 1):
        pose[:, t, :, :2], pegs[:, t] = blocks, peg
        if t == steps:
            break
        velocity += rng.normal(0, 0.004, velocity.shape)
        move = np.where(rng.random((episodes, 1)) < 0.9, velocity, 0)
        near = np.linalg.norm(blocks - peg[:, None], axis=-1, keepdims=True) < 0.05
        action[:, t] = move
        peg = np.clip(peg + move, low, high)
        blocks = np.clip(blocks + near * move[:, None], low, high)
    length = rng.integers(shortest, steps + 1, episodes)
    for e in range(episodes):  # padding that would betray itself in any answer
        pose[e, length[e] + 1 :] = np.nan
        pegs[e, length[e] + 1 :] = np.nan
        action[e, length[e] :] = np.nan
    sets = list(BLOCK_SETS.values())
    ids = np.stack([rng.permutation(sets[e % 2]) for e in range(episodes)])
    return types.SimpleNamespace(
        length=length,
        block_pose=pose,
        peg=pegs,
        action=action,
        block_id=ids.astype(np.int32),
    )


@pytest.fixture(scope="module")
def sampler():
    return SaqaSampler(play())


@pytest.fixture(scope="module")
def batches(sampler):
    return [sampler.sample_batch(7, step, **SHAPE) for step in range(60)]


def pooled(batches):
    """(type, horizon, answer, answer now) of all valid queries."""
    columns = ("query_type", "query_horizon", "query_answer", "query_now")
    valid = np.concatenate([b.query_valid for b in batches])
    return [np.concatenate([getattr(b, c) for b in batches])[valid] for c in columns]


def test_a_batch_is_a_function_of_seed_and_step(sampler, batches):
    again = SaqaSampler(play())
    for step in (5, 0):
        jax.tree.map(
            np.testing.assert_array_equal,
            again.sample_batch(7, step, **SHAPE),
            batches[step],
        )
    other = sampler.sample_batch(8, 0, **SHAPE)
    assert not np.array_equal(other.args, batches[0].args)
    assert not np.array_equal(batches[1].args, batches[0].args)


def test_answers_are_those_of_the_predicates(sampler, batches):
    e = sampler.episodes
    for batch in batches[:10]:
        b = np.arange(len(batch.episode))[:, None]
        episode = batch.episode[:, None]
        start = batch.t[:, None] + 0 * batch.query_horizon
        kind = batch.type_id[b, batch.query_question]
        args = batch.args[b, batch.query_question]
        now, later = (
            Scene(e.block_pose[episode, t], e.block_id[episode], e.peg[episode, t])
            for t in (start, start + batch.query_horizon)
        )
        value = predicates.margin(kind, args, now, later)
        present = predicates.answer(kind, args, now, now)
        ok = batch.query_valid
        np.testing.assert_allclose(batch.query_margin[ok], value[ok], atol=1e-6)
        np.testing.assert_array_equal(batch.query_answer[ok], (value > 0)[ok])
        np.testing.assert_array_equal(batch.query_now[ok], present[ok])
        np.testing.assert_array_equal(batch.query_type[ok], kind[ok])


def test_nothing_is_asked_beyond_an_episode_s_end(sampler, batches):
    e = sampler.episodes
    reached = 0
    for batch in batches:
        room = e.length[batch.episode] - batch.t
        assert (batch.query_horizon <= room[:, None]).all() and (room >= 1).all()
        reached += (batch.query_horizon == room[:, None]).sum()
        for actions, episode, t, left in zip(
            batch.actions, batch.episode, batch.t, room
        ):
            n = min(left, 16)
            np.testing.assert_array_equal(actions[:n], e.action[episode, t : t + n])
            assert (actions[n:] == 0).all()
    assert reached > 0


def test_questions_name_blocks_of_their_own_episode(sampler, batches):
    for batch in batches[:5]:
        for episode, asked in zip(batch.episode, batch.questions()):
            for q in asked:
                assert set(q.blocks) <= set(sampler.episodes.block_id[episode])
                assert parse(q.text) == q


def test_answers_are_balanced_by_type_within_buckets(sampler, batches):
    kind, h, answer, _ = pooled(batches)
    bucket = sampler.horizons.bucket[h]
    checked = 0
    for i in range(len(TYPES)):
        assert (kind == i).mean() == pytest.approx(1 / len(TYPES), abs=0.035), TYPES[i]
        assert answer[kind == i].mean() == pytest.approx(0.5, abs=0.08), TYPES[i]
        for k in range(4):
            here = (kind == i) & (bucket == k)
            if here.sum() > 300:
                checked += 1
                yes = answer[here].mean()
                assert yes == pytest.approx(0.5, abs=0.15), (TYPES[i], k)
    assert checked > 30


def test_unbalanced_drawing_would_not_pass_the_test_above(sampler):
    e = sampler.episodes
    t = np.zeros(1, int)
    rows = slot_questions("block_touching")
    yes = [margins(e, "block_touching", rows, i, t, t) > 0 for i in range(100)]
    assert np.mean(yes) < 0.2


def test_horizons_of_the_planner_are_asked_more(batches):
    kind, h, _, _ = pooled(batches)
    count = np.bincount(h, minlength=17)
    assert (count > 0).all()
    assert count[8] > 2 * count[5:8].mean() and count[16] > 2 * count[9:16].mean()
    change = np.isin(kind, [ALL_TYPES.index(name) for name in CHANGE_TYPES])
    assert (h[change] >= 1).all() and (h[~change] == 0).any()


def test_the_present_frame_alone_does_not_answer_questions_about_later(sampler):
    def share(change_share):
        config = SaqaConfig(change_share=change_share)
        other = SaqaSampler(sampler.episodes, config)
        kind, h, answer, now = pooled(
            [other.sample_batch(0, step, **SHAPE) for step in range(15)]
        )
        later = (h > 4) & ~np.isin(kind, [ALL_TYPES.index(n) for n in CHANGE_TYPES])
        return (answer != now)[later].mean()

    assert share(0.6) > share(0.0) + 0.1


def test_the_same_query_is_never_asked_twice_of_an_image(batches):
    for batch in batches[:20]:
        for b in range(len(batch.t)):
            ok = batch.query_valid[b]
            queries = list(zip(batch.query_question[b, ok], batch.query_horizon[b, ok]))
            assert len(set(queries)) == len(queries)
            asked = batch.question_valid[b]
            rows = [(i, *a) for i, a in zip(batch.type_id[b], batch.args[b])]
            rows = [r for r, good in zip(rows, asked) if good]
            assert len(set(rows)) == len(rows)


def test_most_places_are_filled_and_every_wording_is_used(batches):
    assert np.mean([b.query_valid for b in batches]) > 0.9
    phrasing = np.concatenate([b.phrasing[b.question_valid] for b in batches])
    share = np.bincount(phrasing, minlength=5) / len(phrasing)
    assert share[0] == pytest.approx(0.4, abs=0.05) and (share > 0.1).all()


def test_twins_ask_the_same():
    """Naming a pair the other way round never changes the answer."""
    e = play(episodes=4)
    for name in ("block_touching", "block_direction", "blocks_closer", "blocks_apart"):
        rows = slot_questions(name)
        kind = np.full(len(rows), TYPES.index(name))
        ids = np.broadcast_to(e.block_id[0], (len(rows), 8))
        one, other = (
            name_blocks(kind, rows, ids, np.full(len(rows), swap)) for swap in (0, 1)
        )
        assert not (one == other).all(-1).any()
        assert all(Question(name, tuple(a)).blocks for a in other)
        scene = lambda t: Scene(e.block_pose[0, t], e.block_id[0], e.peg[0, t])
        value = [
            predicates.margin(
                kind, a, predicates.expand(scene(0)), predicates.expand(scene(9))
            )
            for a in (one, other)
        ]
        np.testing.assert_allclose(*value, atol=1e-6)


def test_the_report_tells_pools_and_balance(sampler):
    report = pool_report(sampler)
    assert f"{len(sampler.pools.t)} starts in 120 episodes" in report
    for name in TYPES:
        assert any(line.startswith(name + " ") for line in report.splitlines())


def test_few_short_episodes_are_enough():
    small = SaqaSampler(play(episodes=3, steps=7, shortest=3))
    batch = small.sample_batch(0, 0, images=4, questions=6, queries=12)
    assert batch.query_valid.any() and batch.query_horizon.max() <= 7
    assert batch.actions.shape == (4, 16, 2) and np.isfinite(batch.actions).all()


def test_types_can_be_chosen(sampler):
    config = SaqaConfig(types=("peg_touching", "block_moved"))
    batch = SaqaSampler(sampler.episodes, config).sample_batch(0, 0, **SHAPE)
    asked = {TYPES[i] for i in batch.query_type[batch.query_valid]}
    assert asked == {"peg_touching", "block_moved"}


def test_impossible_requests_are_refused(sampler):
    with pytest.raises(ValueError, match="6 queries cannot cover 12 questions"):
        sampler.sample_batch(0, 0, images=4, questions=12, queries=6)
    with pytest.raises(ValueError, match="unknown question type 'touch'"):
        SaqaConfig(types=("touch",))
    with pytest.raises(ValueError, match="horizon buckets end at"):
        Horizons(longest=8)
    nothing = play(episodes=2)
    nothing.length = np.zeros(2, int)
    with pytest.raises(ValueError, match="2 episodes hold no action"):
        SaqaSampler(nothing)
