"""Hashes of what must not change when code only moves: one line per thing.

    PYTHONPATH=. python tests/helpers/bits.py > before.txt    (then after.txt, and diff)

Poses of both engines, pictures, generated episodes, batches of every kind, plans of the
simulator and of the shipped model, all for fixed seeds. The hashes hold for one machine
and one release of JAX.
"""

import hashlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.batches.config import Data
from data_pipelines.batches.pretraining import make_sampler
from data_pipelines.batches.stream import make_train_iterator
from data_pipelines.generate.shards import generate
from experiments import generate_board, generate_cube
from swm_jax import worlds
from swm_jax.baselines.simulator import SimulatorWorldModel
from swm_jax.checkpoints import load_model
from swm_jax.eval.episodes.host_loop import run_episodes
from swm_jax.models import VLMWorldModel, get_config
from swm_jax.planning import get_planner


def digest(tree) -> str:
    """16 hexadecimal digits of all leaves with their paths, dtypes and shapes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)}{leaf.dtype}{leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def show(name: str, tree) -> None:
    """One line."""
    print(f"{name:28} {digest(tree)}", flush=True)


def physics() -> None:
    """Poses and pictures of every world; MJX on the board alone, the cube is slow."""
    for world, width, engines in (
        ("board", 2, ("mujoco", "mjx")),
        ("cube", 5, ("mujoco",)),
    ):
        actions = jax.random.uniform(jax.random.key(1), (3, 6, width), minval=-1)
        for engine in engines:
            env = worlds.load_env(world, backend=engine)
            states = env.reset_batch(jax.random.split(jax.random.key(0), 3))
            path = env.rollout_batch(states, np.asarray(actions * env.action_limit))
            show(f"poses {world} {engine}", path)
        last = jax.tree.map(lambda x: jnp.asarray(x)[:, -1], path)
        draw = worlds.load(world).render.device
        show(f"pictures {world}", draw(last, 48, 64, supersample=2))


def data(folder: str) -> None:
    """Generated episodes, and the batches drawn from them."""
    tokenizer = load_model().tokenizer
    for name, module in (("board", generate_board), ("cube", generate_cube)):
        config = module.get_config("debug")
        config.backend = "mujoco"
        generate(config, f"{folder}/{name}")
    model = get_config("tiny", image_size=48)
    config = Data(images=3, questions=4, queries=8)
    stream = make_train_iterator(
        f"{folder}/board", config, tokenizer, model, seed=3, start_step=5
    )
    show("batch of stored episodes", next(stream))
    config = Data("rendered", images=2)
    sampler = make_sampler(config, get_config("tiny", image_size=48), tokenizer)
    show("batch of rendered scenes", sampler(4, 1))


def plans() -> None:
    """Actions and values of whole episodes."""
    env = worlds.load_env("board", backend="mujoco")
    learned = load_model()
    size = learned.config.image_size
    sight = {
        "tokenizer": learned.tokenizer,
        "question_length": learned.config.max_question_tokens,
        "image_size": (size, size),
    }
    for name, model, extra in (
        ("simulator", SimulatorWorldModel(env), {}),
        ("shipped", VLMWorldModel(learned.params, learned.config), sight),
    ):
        planner = get_planner("mppi", candidates=16, iterations=2)
        found = run_episodes(
            env,
            [("reach", 7), ("block_to_block", 8)],
            model,
            planner,
            jax.random.key(2),
            max_steps=6,
            **extra,
        )
        show(f"episodes {name}", [(e.actions, e.values, vars(e.scenes)) for e in found])


if __name__ == "__main__":
    physics()
    with tempfile.TemporaryDirectory() as folder:
        data(folder)
    plans()
