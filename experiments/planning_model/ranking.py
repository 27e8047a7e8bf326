"""Does a model rank chunks as the world does? Within-scene AUC and rank correlation.

    python -m experiments.planning_model.ranking --scenes FILE [--run DIR --eyes DIR]

`FILE` holds 60 scenes of block to block on the way (the scripted pusher has brought the
peg near the block for 6 to 30 steps) and 96 chunks of the planner's first population
each, with what the C engine makes of them; it is made if it is not there. The question
is "will the blocks be closer" after 8 and 16 steps; without `--run` the shipped model
answers.

Axes: S scenes, N chunks, K horizons.
"""

import argparse
import functools
import operator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata

from experiments.planning_model.branches import draw, write_shard
from experiments.planning_model.metric_world import JUDGES, load_world
from swm_jax import envs
from swm_jax.checkpoints import load_model
from swm_jax.envs import BLOCK_NAMES, Scene
from swm_jax.envs.board_oracle import oracle_action
from swm_jax.envs.tasks import task_for
from swm_jax.models import Observation
from swm_jax.planning import get_planner
from swm_jax.planning.population import first_population
from swm_jax.planning.question_batch import question_batch
from swm_jax.questions import predicates
from swm_jax.questions.grammar import question

SCENES, CHUNKS, HORIZONS = 60, 96, (8, 16)
FIRST_SEED = 7000


def make_scenes() -> dict[str, np.ndarray]:
    """The scenes, pairs, chunks and true margins."""
    env = envs.load("board", backend="mujoco", threads=1)
    act = jax.jit(jax.vmap(oracle_action))
    states, pairs = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + SCENES):
        task = task_for(env, "block_to_block", seed)
        states.append(task.reset(env, jax.random.key(seed)))
        pairs.append([env.block_ids[slot] for slot in task.slots])
    states = jax.tree.map(lambda *x: np.stack(x), *states)
    pairs = np.array(pairs)
    stop = np.random.default_rng(FIRST_SEED).integers(6, 31, SCENES)
    kept = jax.tree.map(np.copy, states)
    for t in range(31):
        here = np.flatnonzero(stop == t)
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(states)):
            a[here] = b[here]
        key = jax.random.fold_in(jax.random.key(FIRST_SEED), t)
        keys = jax.random.split(key, SCENES)
        scene = jax.tree.map(jnp.asarray, env.scene(states))
        action = np.asarray(act(scene, pairs[:, 0], pairs[:, 1], keys))
        states = env.step_batch(states, action)
    states = env.state_from_scene(env.scene(kept))
    planner = get_planner("mppi", candidates=CHUNKS)
    chunk = np.asarray(
        first_population(
            jax.random.key(FIRST_SEED), planner.init_state(SCENES), planner.config
        )
    )
    worlds = jax.tree.map(lambda x: np.repeat(x, CHUNKS, 0), states)
    path = env.rollout_batch(worlds, chunk.reshape(-1, *chunk.shape[2:]))
    split = lambda x: np.asarray(x)[:, list(HORIZONS)].reshape(
        SCENES, CHUNKS, len(HORIZONS), *x.shape[2:]
    )
    now, after = env.scene(states), jax.tree.map(split, path)
    kind = np.full((SCENES, 1, 1), predicates.TYPES.index("blocks_closer"))
    expand = lambda x: jax.tree.map(lambda y: y[:, None, None], x)
    margin = predicates.margin(kind, pairs[:, None, None], expand(now), after)
    scene = jax.tree.map(jnp.asarray, now)
    return {
        "pose": np.asarray(now.block_pose),
        "block_id": np.asarray(now.block_id),
        "peg": np.asarray(now.peg),
        "pairs": pairs,
        "chunk": chunk,
        "margin": margin,
        "image": draw(scene),
    }


def figures(score, margin) -> dict[str, float]:
    """AUC and Spearman's correlation within scenes, and how often the best is right.

    Args:
      score: float[S, N], larger where the blocks come closer.
      margin: float[S, N], true margin of "closer", metres.
    """
    auc, rho, best, base = [], [], [], []
    for s, m in zip(score, margin):
        yes = m > 0
        rank = rankdata(s)
        if yes.any() and not yes.all():
            n = yes.sum(), (~yes).sum()
            auc.append((rank[yes].sum() - n[0] * (n[0] + 1) / 2) / (n[0] * n[1]))
            best.append(yes[np.argmax(s)])
            base.append(yes.mean())
        if np.ptp(m) > 1e-3:
            rho.append(np.corrcoef(rank, rankdata(m))[0, 1])
    return {
        "auc": np.mean(auc),
        "rank": np.mean(np.nan_to_num(rho)),
        "best_right": np.mean(best),
        "share_yes": np.mean(base),
        "scenes": len(auc),
    }


def scores(world, tokenizer, length, data) -> np.ndarray:
    """float[S, N, K]: margin of yes over no."""
    ask_about = lambda a, b: question("blocks_closer", BLOCK_NAMES[a], BLOCK_NAMES[b])
    names = [[ask_about(a, b)] for a, b in data["pairs"]]
    batch = question_batch(names, tokenizer, length)
    scene = Scene(
        block_pose=jnp.asarray(data["pose"]),
        block_id=jnp.asarray(data["block_id"]),
        peg=jnp.asarray(data["peg"]),
    )

    @jax.jit
    def ask(world, observation, batch, chunk):
        logits = world.answer_logits(world.encode(observation, batch), chunk, HORIZONS)
        return (logits[..., 1] - logits[..., 0])[..., 0]

    parts = []
    for i in range(0, SCENES, 10):
        rows = slice(i, i + 10)
        cut = functools.partial(jax.tree.map, operator.itemgetter(rows))
        observation = Observation(image=cut(data["image"]), scene=cut(scene))
        parts.append(ask(world, observation, cut(batch), cut(data["chunk"])))
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--eyes", type=Path)
    options = parser.parse_args()
    if not options.scenes.exists():
        options.scenes.parent.mkdir(parents=True, exist_ok=True)
        write_shard(options.scenes, make_scenes())
    with np.load(options.scenes) as file:
        data = dict(file)
    if options.run is None:
        loaded = load_model(None)
        worlds = {"shipped": (loaded.world_model, loaded.tokenizer, loaded.config)}
    else:
        worlds = {j: load_world(options.run, options.eyes, j) for j in JUDGES}
    for name, (world, tokenizer, config) in worlds.items():
        score = scores(world, tokenizer, config.max_question_tokens, data)
        for k, horizon in enumerate(HORIZONS):
            row = figures(score[..., k], data["margin"][..., k])
            text = " ".join(f"{key} {value:.3f}" for key, value in row.items())
            print(f"{name} after {horizon}: {text}", flush=True)


if __name__ == "__main__":
    main()
