"""The sampler: pure, balanced, true to the poses, never beyond an episode's end."""

import types

import jax
import numpy as np
import pytest

from data_pipelines.saqa.balance import pool_report
from data_pipelines.saqa.batch import SaqaConfig
from data_pipelines.saqa.horizons import Horizons
from data_pipelines.saqa.sampler import SaqaSampler, wanted_answer
from data_pipelines.saqa.slots import margins, name_objects, slot_questions
from swm_jax import worlds
from swm_jax.questions import (
    Question,
    expand,
)
from swm_jax.worlds.board.geometry import X_BOUNDS, Y_BOUNDS
from swm_jax.worlds.board.scene import BLOCK_SETS, Scene

BOARD = worlds.language("board")
TYPES = BOARD.select()
CHANGES = [kind.id for kind in TYPES if kind.about_change]
DISTANCES = ("blocks_distance", "peg_distance", "block_moved_distance")
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
        value = BOARD.margin(kind, args, now, later)
        present = BOARD.answer(kind, args, now, now)
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
                assert BOARD.parse(q.text) == q


def test_answers_are_balanced_by_type_within_buckets(sampler, batches):
    kind, h, answer, _ = pooled(batches)
    bucket = sampler.horizons.bucket[h]
    checked = 0
    for each in TYPES:
        i, name = each.id, each.name
        assert (kind == i).mean() == pytest.approx(1 / len(TYPES), abs=0.035), name
        assert answer[kind == i].mean() == pytest.approx(0.5, abs=0.08), name
        for k in range(4):
            here = (kind == i) & (bucket == k)
            if here.sum() > 300:
                checked += 1
                yes = answer[here].mean()
                assert yes == pytest.approx(0.5, abs=0.15), (name, k)
    assert checked > 30


def test_unbalanced_drawing_would_not_pass_the_test_above(sampler):
    e = sampler.episodes
    t = np.zeros(1, int)
    touching = BOARD.kind("block_touching")
    rows = slot_questions(touching, 8)
    yes = [margins(e, touching, rows, i, t, t) > 0 for i in range(100)]
    assert np.mean(yes) < 0.2


def test_horizons_of_the_planner_are_asked_more(batches):
    kind, h, _, _ = pooled(batches)
    count = np.bincount(h, minlength=17)
    assert (count > 0).all()
    assert count[8] > 2 * count[5:8].mean() and count[16] > 2 * count[9:16].mean()
    change = np.isin(kind, CHANGES)
    assert (h[change] >= 1).all() and (h[~change] == 0).any()


def test_the_present_frame_alone_does_not_answer_questions_about_later(sampler):
    def share(change_share):
        config = SaqaConfig(change_share=change_share)
        other = SaqaSampler(sampler.episodes, config)
        kind, h, answer, now = pooled(
            [other.sample_batch(0, step, **SHAPE) for step in range(15)]
        )
        later = (h > 4) & ~np.isin(kind, CHANGES)
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
    pairs = [kind for kind in BOARD.types if kind.symmetric]
    assert len(pairs) == 5
    for each in pairs:
        rows = slot_questions(each, 8)
        kind = np.full(len(rows), each.id)
        ids = np.broadcast_to(e.block_id[0], (len(rows), 8))
        one, other = (
            name_objects(BOARD, kind, rows, ids, np.full(len(rows), swap))
            for swap in (False, True)
        )
        assert not (one == other).all(-1).any()
        assert all(Question(each, tuple(a)).blocks for a in other)
        scene = lambda t: Scene(e.block_pose[0, t], e.block_id[0], e.peg[0, t])
        value = [
            BOARD.margin(kind, a, expand(scene(0)), expand(scene(9)))
            for a in (one, other)
        ]
        np.testing.assert_allclose(*value, atol=1e-6)


def test_the_report_tells_pools_and_balance(sampler):
    report = pool_report(sampler)
    assert f"{len(sampler.pools.t)} starts in 120 episodes" in report
    for kind in TYPES:
        assert any(line.startswith(kind.name + " ") for line in report.splitlines())


def test_few_short_episodes_are_enough():
    small = SaqaSampler(play(episodes=3, steps=7, shortest=3))
    batch = small.sample_batch(0, 0, images=4, questions=6, queries=12)
    assert batch.query_valid.any() and batch.query_horizon.max() <= 7
    assert batch.actions.shape == (4, 16, 2) and np.isfinite(batch.actions).all()


def test_types_can_be_chosen(sampler):
    config = SaqaConfig(types=("peg_touching", "block_moved"))
    batch = SaqaSampler(sampler.episodes, config).sample_batch(0, 0, **SHAPE)
    asked = {BOARD.kind(int(i)).name for i in batch.query_type[batch.query_valid]}
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


@pytest.fixture(scope="module")
def numbers(sampler):
    """Batches of the distances and one type of yes or no."""
    config = SaqaConfig(types=(*DISTANCES, "peg_touching"))
    other = SaqaSampler(sampler.episodes, config)
    return other, [other.sample_batch(1, step, **SHAPE) for step in range(30)]


def test_numbers_are_asked_only_where_they_are_named(sampler, numbers):
    assert not {BOARD.kind(name) for name in DISTANCES} & set(sampler.types)
    asked = {int(i) for b in numbers[1] for i in b.query_type[b.query_valid]}
    names = {BOARD.kind(i).name for i in asked}
    assert names == {*DISTANCES, "peg_touching"}


def test_answers_about_distances_are_the_nearest_bins_of_the_poses(numbers):
    """Distances by hand from the poses that the question names."""
    e, checked = numbers[0].episodes, 0
    for batch in numbers[1][:4]:
        asked = batch.questions()
        for b, r in np.argwhere(batch.query_valid):
            question = asked[b][batch.query_question[b, r]]
            if question.type not in DISTANCES:
                continue
            episode, t = batch.episode[b], batch.t[b]
            later = t + batch.query_horizon[b, r]
            slots = [list(e.block_id[episode]).index(x) for x in question.blocks]
            now, then = (e.block_pose[episode, x, slots, :2] for x in (t, later))
            other = {
                "blocks_distance": then[-1],
                "peg_distance": e.peg[episode, later],
                "block_moved_distance": now[0],
            }[question.type]
            metres = np.linalg.norm(then[0] - other)
            assert batch.query_margin[b, r] == pytest.approx(metres, abs=1e-5)
            values = np.array(question.kind.answers.values)
            nearest = np.abs(values - metres)
            found = nearest[batch.query_answer[b, r]]
            assert found == pytest.approx(nearest.min(), abs=1e-5)
            checked += 1
    assert checked > 500


def test_bins_are_asked_far_more_evenly_than_they_occur(numbers):
    sampler, drawn = numbers
    kind, h, answer, _ = pooled(drawn)
    rng = np.random.default_rng(0)
    for name in DISTANCES:
        each = BOARD.kind(name)
        share = np.bincount(answer[kind == each.id], minlength=len(each.answers))
        share = share / share.sum()
        assert (kind == each.id).mean() == pytest.approx(0.25, abs=0.06)
        # As they occur: any question about any start, at any horizon.
        rows, e = slot_questions(each, 8), sampler.episodes
        episode = rng.integers(0, len(e.length), 300)
        t = rng.integers(0, e.length[episode])
        later = np.minimum(t + rng.integers(0, 17, 300), e.length[episode])
        where = (x[:, None] for x in (episode, t, later))
        found = each.answers.index(margins(e, each, rows, *where))
        occur = np.bincount(found.reshape(-1), minlength=len(each.answers))
        occur = occur / occur.sum()
        entropy = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()
        possible = sampler.pools.has[:, sampler.types.index(each)].any((0, 1, 3))
        assert entropy(share) > entropy(occur)
        assert entropy(share) > 0.85 * np.log(possible.sum())
    assert (h[kind == BOARD.kind("block_moved_distance").id] >= 1).all()


def test_the_report_tells_the_bins(numbers):
    report = pool_report(numbers[0])
    assert "blocks_distance: % of queries three " in report
    assert any(line.startswith("peg_touching ") for line in report.splitlines())


def test_a_wanted_answer_is_one_that_the_image_offers():
    rng = np.random.default_rng(0)
    u, weights = rng.random(20_000), np.array([0.2, 0.3, 0.5])
    every = wanted_answer(u, weights, np.ones(3, bool))
    np.testing.assert_allclose(np.bincount(every) / len(u), weights, atol=0.02)
    some = wanted_answer(u, weights, np.array([True, False, True]))
    np.testing.assert_allclose(np.bincount(some) / len(u), [2 / 7, 0, 5 / 7], atol=0.02)
    none = wanted_answer(u, weights, np.zeros(3, bool))
    np.testing.assert_array_equal(none, every)
