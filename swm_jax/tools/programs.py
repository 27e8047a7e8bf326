"""Programs of an experiment, lowered from shapes, without devices or weights.

    program = train_program(config, mesh)
    compiled = program.lower().compile()

These are the programs of training and evaluation themselves: the training loop's step,
the planner's replan with a world model, and the closed loop on the device.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from swm_jax import prng, worlds
from swm_jax.eval.episodes.device_program import episode_program
from swm_jax.eval.episodes.setup import Setup
from swm_jax.models import (
    MAX_ARGS,
    ModelConfig,
    Observation,
    PlaceTargets,
    QuestionBatch,
    SemanticWorldModel,
    Tokenizer,
    TrainBatch,
    VLMWorldModel,
    flops,
)
from swm_jax.planning import GoalArrays, Planner
from swm_jax.training import Experiment
from swm_jax.training.build import build
from swm_jax.training.finetune import count_parameters
from swm_jax.training.sharding import batch_sharding, batch_shards, replicated
from swm_jax.training.world_model.model import TrainableWorldModel

QUESTIONS = 2  # of a planner's goal, as the board's block-to-block task has


@dataclasses.dataclass(frozen=True)
class Program:
    """Jitted function with shapes of its arguments.

    Attributes:
      name: "train step", "planner" or "closed loop".
      lower: traces it for its shapes.
      held: bytes per chip that persist between calls, by kind.
      parameters: number of the model's parameters.
      flops: operations of one call on all chips, counted from shapes.
      model_flops: the same without recomputation by rematerialisation.
      work: amount of work per call, such as {"images": 96, "labels": 1536}.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    held: Mapping[str, int]
    parameters: int
    flops: int
    model_flops: int
    work: Mapping[str, int]


def train_program(experiment: Experiment, mesh: Mesh) -> Program:
    """Train step of an experiment.

    Raises:
      ValueError: settings that are inconsistent with the model or the mesh.
    """
    model = experiment.model.config()
    built = build(experiment, TrainableWorldModel.of(experiment), mesh)
    state, batch = built.state, batch_shapes(experiment, mesh)
    images, queries = batch.query_question.shape
    return Program(
        name="train step",
        lower=lambda: built.step.lower(state, batch),
        held={
            "parameters": bytes_per_device(state.params),
            "optimizer state": bytes_per_device(state.opt_state),
            "batch": bytes_per_device(batch),
        },
        parameters=count_parameters(state.params),
        flops=step_flops(model, batch, recompute=True),
        model_flops=step_flops(model, batch),
        work={
            "images": images,
            "labels": images * queries,
            "tokens": train_tokens(model, batch),
        },
    )


def planner_program(experiment: Experiment, mesh: Mesh, scenes: int) -> Program:
    """One replan of the experiment's planner for scenes split over the mesh.

    The model is replicated on every chip, in its compute dtype, so that a replan needs
    no communication of weights.

    Raises:
      ValueError: scenes that do not divide over the batch shards.
    """
    model, planner = experiment.model.config(), experiment.make_planner()
    world_model = planner_model(model, mesh)
    observed = _observation(experiment, mesh, scenes)
    aims = _aims(model, mesh, scenes)
    state = _split(jax.eval_shape(lambda: planner.init_state(scenes)), mesh)
    keys = jax.eval_shape(lambda: prng.split(prng.key(0), scenes))
    inputs = (world_model, observed, *aims, state, _split(keys, mesh))
    work = scenes * replan_flops(model, planner)
    return Program(
        name="planner",
        lower=lambda: _lower(lambda *args: planner.plan(*args), mesh, *inputs),
        held={
            "parameters": bytes_per_device(world_model),
            "observation and goal": bytes_per_device((observed, aims, state)),
        },
        parameters=count_parameters(world_model),
        flops=work,
        model_flops=work,
        work={"replans": scenes},
    )


def loop_program(experiment: Experiment, mesh: Mesh, scenes: int) -> Program:
    """Whole episodes on the device: render, encode, plan, act, until the last ends.

    Raises:
      ValueError: an experiment whose world has no loop on the device, or as
        `planner_program`.
    """
    world = worlds.load(experiment.world)
    if not has_loop(experiment):
        raise ValueError(
            f"world '{world.name}' has no closed loop on the device: leave 'loop' out "
            "of --programs"
        )
    model, planner = experiment.model.config(), experiment.make_planner()
    setup = Setup(
        world.make_env(world.env.device_engine),
        planner_model(model, mesh),
        planner,
        prng.key(0),
        tokenizer=Tokenizer.load("board_cube"),  # any that has the words
        question_length=model.max_question_tokens,
        image_size=frame_size(experiment),
    )
    task = world.tasks.names[-1]  # the hardest
    prepared = setup.prepare([(task, seed) for seed in range(scenes)])
    run, (world_model, *episodes) = episode_program(setup, prepared, range(scenes))
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tuple(episodes)))
    by_scene = tuple(_split(x, mesh) for x in shapes)
    steps = int(np.max(episodes[3]))  # the limits
    replans = scenes * -(-steps // planner.config.execute)
    work = replans * replan_flops(model, planner)
    return Program(
        name="closed loop",
        lower=lambda: _lower(run, mesh, world_model, *by_scene),
        held={
            "parameters": bytes_per_device(world_model),
            "worlds and goals": bytes_per_device(by_scene[:-1]),
        },
        parameters=count_parameters(world_model),
        flops=work,
        model_flops=work,
        work={
            "episodes": scenes,
            "replans": replans,
            "control steps": scenes * steps,
        },
    )


def has_loop(experiment: Experiment) -> bool:
    """Whether episodes of the experiment's world run on the device."""
    return worlds.load(experiment.world).env.device_engine is not None


def planner_model(model: ModelConfig, mesh: Mesh) -> VLMWorldModel:
    """World model of shape structs, replicated over the mesh."""
    whole = replicated(mesh)
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, model.dtype, sharding=whole),
        SemanticWorldModel(model).param_shapes(),
    )
    return VLMWorldModel(params, model, candidates_per_pass=128 * mesh.size)


def replan_flops(model: ModelConfig, planner: Planner) -> int:
    """Operations of one replan of one scene with a goal of `QUESTIONS` questions."""
    c, length = planner.config, model.max_question_tokens
    answers = model.vocab_size if c.normalise == "vocabulary" else 2
    asked = flops.Scoring(c.candidates, len(c.horizons), QUESTIONS, c.horizon, length)
    scoring = flops.scoring_flops(model, asked, answers)
    times = c.iterations * (3 if planner.needs_gradient else 1)
    return flops.encode_flops(model, QUESTIONS, length) + times * scoring


def batch_shapes(experiment: Experiment, mesh: Mesh) -> TrainBatch:
    """Training batch of shape structs, its images sharded over the mesh.

    Raises:
      ValueError: images that do not divide over the batch shards.
    """
    data, model = experiment.data, experiment.model.config()
    images, queries, width = data.images, data.queries, model.max_question_tokens
    answer = 2 if data.answer_eos else 1
    # Any: they stand where a batch has arrays.
    shape: Any = lambda dtype, *axes: jax.ShapeDtypeStruct((images, *axes), dtype)
    batch = TrainBatch(
        image=shape(jnp.uint8, *frame_size(experiment), 3),
        actions=shape(jnp.float32, model.max_horizon, model.action_size),
        question_tokens=shape(jnp.int32, data.questions, width),
        question_mask=shape(jnp.bool_, data.questions, width),
        query_question=shape(jnp.int32, queries),
        query_horizon=shape(jnp.int32, queries),
        answer_tokens=shape(jnp.int32, queries, answer),
        answer_mask=shape(jnp.bool_, queries, answer),
        query_type=shape(jnp.int32, queries),
        places=PlaceTargets(
            mask=shape(jnp.bool_, queries, 3), place=shape(jnp.float32, queries, 3, 2)
        ),
    )
    return _split(batch, mesh)


def frame_size(experiment: Experiment) -> tuple[int, int]:
    """Rows and columns of a frame, `data.frame` or the model's own."""
    size = experiment.model.config().image_size
    return experiment.data.frame or (size, size)


def step_flops(model: ModelConfig, batch: TrainBatch, recompute: bool = False) -> int:
    """Operations of a train step on a batch; see `flops.train_step_flops`."""
    images, actions = batch.actions.shape[0], batch.actions.shape[-2]
    questions, length = batch.question_tokens.shape[1:]
    queries, answers = batch.answer_tokens.shape[1:]
    chunks, horizons = _grid(batch)
    return flops.train_step_flops(
        model,
        images,
        actions,
        questions,
        length,
        queries,
        answers,
        recompute=recompute,
        chunks=chunks,
        horizons=horizons,
    )


def _grid(batch: TrainBatch) -> tuple[int, int]:
    """Chunks and horizons of a batch with several chunks per image, else zeros."""
    if batch.horizons is None:
        return 0, 0
    return batch.actions.shape[1], batch.horizons.shape[1]


def train_tokens(model: ModelConfig, batch: TrainBatch) -> int:
    """Tokens of the decoder in a training step, padding included."""
    images, actions = batch.actions.shape[0], batch.actions.shape[-2]
    chunks, horizons = _grid(batch)
    questions, length = batch.question_tokens.shape[1:]
    queries, answers = batch.answer_tokens.shape[1:]
    if model.layout == "full":
        whole = model.image_tokens + actions + 1 + length + answers
        return images * queries * whole
    asked = questions if model.layout == "branched" else queries
    shared = model.image_tokens + max(chunks, 1) * actions + asked * length
    futures = (chunks * horizons or queries) * model.objects
    return images * (shared + futures + queries * answers)


def bytes_per_device(tree: Any) -> int:
    """Bytes of one device's shards of shape structs with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * np.dtype(leaf.dtype).itemsize
    return total


def _lower(function: Callable, mesh: Mesh, *inputs: Any) -> jax.stages.Lowered:
    """Traced where logical constraints find the mesh."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(function).lower(*inputs)


def _observation(experiment, mesh, scenes) -> Observation:
    shape = (scenes, *frame_size(experiment), 3)
    image: Any = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return _split(Observation(image=image), mesh)


def _aims(model, mesh, scenes) -> tuple[QuestionBatch, GoalArrays]:
    """Questions and goal of the planner's scenes, yes or no."""
    lead = (scenes, QUESTIONS)
    shape: Any = lambda dtype, *axes: jax.ShapeDtypeStruct((*lead, *axes), dtype)
    length = model.max_question_tokens
    questions = QuestionBatch(
        tokens=shape(jnp.int32, length),
        mask=shape(jnp.bool_, length),
        type_id=shape(jnp.int32),
        args=shape(jnp.int32, MAX_ARGS),
        answer_ids=shape(jnp.int32, 2),
    )
    goal = GoalArrays(shape(jnp.int32), shape(jnp.float32), None)
    return _split(questions, mesh), _split(goal, mesh)


def _split(tree: Any, mesh: Mesh) -> Any:
    """Shape structs whose leading axis is split over the mesh's batch axes."""
    place, shards = batch_sharding(mesh), batch_shards(mesh)

    def split(leaf):
        if leaf.shape[0] % shards:
            raise ValueError(
                f"a leading axis of {leaf.shape[0]} (images or scenes) does not divide "
                f"over the mesh's {shards} batch shards"
            )
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(split, tree)
