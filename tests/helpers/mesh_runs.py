"""Trains and plans on meshes of simulated devices; prints JSON for a test.

Usage: python tests/helpers/mesh_runs.py train '[{"mesh": {"data": 2}}, ...]'
       python tests/helpers/mesh_runs.py plan '[{"mesh": {"data": 2, "fsdp": 4}}, ...]'
"""

import json
import os
import sys

# A busy machine may keep one device's thread waiting for longer than XLA's 40 s.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} "
    "--xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=1200 "
    "--xla_cpu_collective_timeout_seconds=1200"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import swm_jax  # noqa: F401  isort: skip  (before jax starts)

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from swm_jax import worlds
from swm_jax.eval.episodes.device_loop import Surroundings, make_device_loop
from swm_jax.eval.episodes.device_program import run_on_device
from swm_jax.models import (
    DenseTargets,
    MentionTargets,
    Observation,
    PlaceTargets,
    QuestionBatch,
    SemanticWorldModel,
    TrainBatch,
    VLMWorldModel,
    get_config,
)
from swm_jax.planning import FakeWorldModel, GoalArrays, get_planner
from swm_jax.planning import planner as planner_module
from swm_jax.planning.goals.table import goal_table
from swm_jax.planning.planner import by_scene, on_mesh
from swm_jax.training import Experiment, Model
from swm_jax.training.build import build, initial_state
from swm_jax.training.experiment import ModelOverrides
from swm_jax.training.optimizer import Optimizer
from swm_jax.training.sharding import make_mesh, param_shardings, shard_batch
from swm_jax.training.step import TrainState
from swm_jax.training.world_model.model import TrainableWorldModel
from swm_jax.worlds.board.goals import goal_for_task

# Compiling costs more than running here, and rounding is what is compared.
jax.config.update("jax_disable_most_optimizations", True)

TYPES = 3
SCALARS = ("loss", "dense_loss", "mention_loss", "place_loss", "gradient_norm")
SIZES = dict(
    image_size=24,
    width=32,
    mlp=64,
    depth=2,
    heads=8,
    kv_heads=2,
    head_dim=8,
    vision_width=32,
    vision_mlp=64,
    vision_depth=1,
    vision_heads=8,
    vocab_size=64,
    scan=True,
)


def random_batch(seed: int, images: int = 16, beside: bool = True) -> TrainBatch:
    """Unequal numbers of queries per image, and perhaps every target beside them."""
    rng = np.random.default_rng(seed)
    queries, questions, length = 5, 3, 4
    integers = lambda high, *shape: rng.integers(0, high, (images, *shape))
    answers = 2
    mask = np.arange(answers) < integers(answers + 1, queries, 1)
    batch = TrainBatch(
        image=integers(256, 24, 24, 3).astype(np.uint8),
        actions=rng.normal(size=(images, 3, 2)).astype(np.float32) * 0.02,
        question_tokens=5 + integers(59, questions, length),
        question_mask=np.ones((images, questions, length), bool),
        query_question=integers(questions, queries),
        query_horizon=integers(4, queries),
        answer_tokens=5 + integers(59, queries, answers),
        answer_mask=mask,
        query_type=integers(TYPES, queries),
    )
    if not beside:
        return batch
    return batch.replace(
        dense=DenseTargets(
            object_id=integers(22, 4) * (integers(2, 4) > 0),
            centre=rng.random((images, 4, 2), np.float32),
        ),
        mentions=MentionTargets(
            mask=integers(2, queries, length) > 0,
            centre=rng.random((images, queries, length, 2), np.float32),
        ),
        places=PlaceTargets(
            mask=integers(2, queries, 3) > 0,
            place=rng.random((images, queries, 3, 2), np.float32),
        ),
    )


def any_params(shapes):
    """Random parameters, without compiling anything."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: np.float32(0.1 * rng.normal(size=s.shape)), shapes)


def places(shapes):
    """Shardings of shape structs."""
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def train(
    mesh: dict,
    accumulate: int = 1,
    optimizer: str = "muon",
    steps: int = 3,
    rules: tuple = (),
    beside: bool = True,
    drawn: bool = True,
    **model: object,
) -> dict:
    """Losses and gradient norms of some steps, and into how many parts leaves lie."""
    sizes = {**SIZES, **model}
    layout = sizes.pop("layout", "branched")
    experiment = Experiment(
        model=Model(layout=layout, overrides=ModelOverrides(**sizes)),
        sharding=tuple(rules),
        dense_weight=float(beside),
        optimizer=Optimizer(optimizer, warmup_steps=0),
        accumulate=accumulate,
        steps=100,
    )
    count = int(np.prod(list(mesh.values())))
    mesh = make_mesh(mesh, jax.devices()[:count])
    trainable = TrainableWorldModel.of(experiment)
    built = build(experiment, trainable, mesh)
    target = built.state
    if drawn:
        state = initial_state(experiment, trainable, built)
    else:  # compiles less
        params = jax.device_put(any_params(target.params), places(target.params))
        init = jax.jit(built.optimizer.init, out_shardings=places(target.opt_state))
        step = jax.device_put(jnp.int32(0), target.step.sharding)
        state = TrainState(step, params, init(params))
    batch = lambda seed: shard_batch(random_batch(seed, beside=beside), mesh)
    validation = []
    if beside:
        scores = built.evaluate(state.params, batch(99))
        validation = np.asarray(scores.loss[:TYPES]).tolist()
    rows, before = [], state
    for i in range(steps):
        state, metrics = built.step(state, batch(i))
        rows.append([float(metrics.scalars[name]) for name in SCALARS])
    parts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts[name] = leaf.size // leaf.addressable_shards[0].data.size
    return {
        "rows": rows,
        "validation": validation,
        "parts": parts,
        "compiled": built.step._cache_size(),
        "donated": all(leaf.is_deleted() for leaf in jax.tree.leaves(before)),
    }


def plan(
    mesh: dict | None, scenes: int, watched: bool = False, at_once: int | None = None
) -> dict:
    """A replan of a very small model, and episodes of a moving point."""
    config = get_config("tiny", **{**SIZES, "depth": 1, "scan": False})
    init = SemanticWorldModel(config).init_params
    params = any_params(jax.eval_shape(init, jax.random.key(0)))
    if mesh is not None:
        mesh = make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))])
        params = jax.device_put(params, param_shardings(params, (), mesh))
    rng = np.random.default_rng(0)
    questions = QuestionBatch(
        tokens=rng.integers(5, 64, (scenes, 3, 4)),
        mask=np.ones((scenes, 3, 4), bool),
        type_id=np.zeros((scenes, 3), np.int32),
        args=np.zeros((scenes, 3, 3), np.int32),
        answer_ids=np.tile(np.array([7, 9], np.int32), (scenes, 3, 1)),
    )
    goal = GoalArrays(np.ones((scenes, 3), np.int32), np.ones((scenes, 3), np.float32))
    image = rng.integers(0, 256, (scenes, 24, 24, 3)).astype(np.uint8)
    small = dict(candidates=16, iterations=3, horizon=4, sub_chunk=2, execute=2)
    small["score"] = "margin"
    planner = get_planner("mppi", **small)
    world_model = (Watched if watched else VLMWorldModel)(params, config, at_once)
    SEEN.clear()
    state = planner.init_state(scenes)
    for key in range(2):
        chunk, state, info = planner.plan(
            world_model,
            Observation(image=image),
            questions,
            goal,
            state,
            jax.random.key(key),
            mesh=mesh,
        )
    return {
        "chunk": np.asarray(chunk).tolist(),
        "values": np.asarray(info.values).tolist(),
        "compiled": planner_module._plan._cache_size(),
        "parts": dict(SEEN),
        "episodes": episodes(mesh, planner),
    }


SEEN: list = []


def note(name: str, x: jax.Array) -> None:
    """Into how many parts each axis of an array is split, once it is compiled.

    JAX fails to tell where the compiler splits an axis into unequal parts.
    """
    parts = lambda place: [n // m for n, m in zip(x.shape, place.shard_shape(x.shape))]
    callback = lambda place: SEEN.append((name, parts(place)))
    jax.debug.inspect_array_sharding(x, callback=callback)


@struct.dataclass
class Watched(VLMWorldModel):
    """Notes how scenes and candidates are laid out."""

    def encode(self, observation, questions):
        context = super().encode(observation, questions)
        note("context", context.cache["image"][0])
        return context

    def answer_logits(self, context, actions, horizons):
        note("actions", actions)
        return super().answer_logits(context, actions, horizons)


def episodes(mesh, planner) -> dict:
    """Closed-loop episodes of a point that a fake world model pushes to a goal."""
    around = Surroundings(
        step=lambda state, action: state + action,
        scene=lambda state: state,
        observe=lambda state: Observation(
            image=jnp.zeros((state.shape[0], 1, 1, 3), jnp.uint8)
        ),
        success=lambda goal, scene: scene[:, 0] > goal,
    )
    run = make_device_loop(planner, around, 8)
    table = goal_table([goal_for_task("reach", ("red moon",))] * 8)
    world_model = FakeWorldModel(jnp.array([0.05, 0.02]))
    goals = jnp.linspace(0.02, 0.2, 8)
    keys = jax.random.split(jax.random.key(0), 8)
    scenes = table, goals, jnp.zeros((8, 2)), jnp.full(8, 8), keys
    if mesh is None:
        out = jax.jit(run)(world_model, *scenes)
    else:
        world_model = on_mesh(world_model, mesh)
        with jax.set_mesh(mesh):
            out = jax.jit(run)(world_model, *by_scene(scenes, mesh))
    return {
        "path": np.asarray(out.scenes).tolist(),
        "success": out.success.tolist(),
        "steps": out.steps.tolist(),
        "shard": out.scenes.addressable_shards[0].data.shape[0],
    }


@struct.dataclass
class Onlooker(FakeWorldModel):
    """Its goal is what it sees: brighter scenes lead further."""

    goal: jax.Array = struct.field(default_factory=lambda: jnp.array([0.1, 0.05]))

    def encode(self, observation, questions):
        bright = observation.image.astype(jnp.float32).mean((1, 2, 3)) / 255
        return bright[:, None] + super().encode(observation, questions)


def board(mesh: dict | None) -> dict:
    """Board episodes on the device: MJX, renderer, a world model that sees little."""
    env = worlds.load_env(backend="mjx", physics_dt=0.05, iterations=1)
    if mesh is not None:
        mesh = make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))])
    results = run_on_device(
        env,
        [("reach", seed) for seed in range(5000, 5006)],
        Onlooker(),
        get_planner("cem", candidates=4, iterations=2, keep=2, elites=2, execute=3),
        jax.random.key(0),
        image_size=(8, 8),
        max_steps=6,
        parallel=4,
        mesh=mesh,
    )
    return {
        "path": [np.asarray(r.scenes.peg[-1]).tolist() for r in results],
        "blocks": [np.asarray(r.scenes.block_pose[-1]).tolist() for r in results],
        "values": [value for r in results for value in r.values],
        "steps": [r.steps for r in results],
    }


if __name__ == "__main__":
    run = {"train": train, "plan": plan, "board": board}[sys.argv[1]]
    print(json.dumps([run(**each) for each in json.loads(sys.argv[2])]))
