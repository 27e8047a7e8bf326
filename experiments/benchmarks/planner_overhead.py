"""Overhead of planners over model scoring, and planners compared on a point mass.

    pip install -e '.[bench]'
    python -m experiments.benchmarks.planner_overhead
    python -m experiments.benchmarks.planner --overhead     (the same at the end)

Part 1: the share of a replan of the tiny model besides scoring, measured in two ways:
the time of a replan compared with that of its scoring calls alone, and the time of the
same replan with a model that answers at no cost.

Part 2: planners on a point mass behind an obstacle with equal dynamics, cost and number
of evaluations: time per plan and cost of the plan, ours compared with `pytorch-mppi`
and `evosax` where installed. Each is used as its authors recommend: ours and evosax
with one jit per plan, pytorch-mppi with the best of a few temperatures.
"""

import functools

import swm_jax  # noqa: F401  (sets NPROC before jax starts)
from swm_jax import prng

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks.parts import point_mass
from experiments.benchmarks.parts.timing import installed, machine, side_by_side
from swm_jax.cli import run_command
from swm_jax.models import (
    Observation,
    SemanticWorldModel,
    Tokenizer,
    VLMWorldModel,
    get_config,
)
from swm_jax.planning import FakeWorldModel, chunk_value, desired_scores, get_planner
from swm_jax.planning.goals.question_batch import goal_batch
from swm_jax.worlds.board.goals import goal_for_task

_CANDIDATES = flags.DEFINE_integer("candidates", 1024, "Per iteration, part 1.")
_ITERATIONS = flags.DEFINE_integer("iterations", 4, "Per replan, both parts.")
_SAMPLES = flags.DEFINE_integer("samples", 512, "Per iteration, part 2.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed calls; the shortest counts.")
_SEEDS = flags.DEFINE_integer("seeds", 20, "Plans per planner whose cost is averaged.")
_PLANNERS = flags.DEFINE_list("planners", ["mppi", "cem"], "Of part 1.")
_TEMPERATURES = (0.03, 0.1, 0.3, 1.0)  # of pytorch-mppi, in units of cost


def main(argv):
    del argv
    print(machine())
    share_of_planning()
    planners_alone()


def share_of_planning() -> None:
    """Prints part 1, the overhead of planning."""
    count, rounds = _CANDIDATES.value, _ITERATIONS.value
    config = get_config("tiny")
    params = jax.jit(SemanticWorldModel(config).init_params)(prng.key(0))
    model = VLMWorldModel(params, config)
    tokenizer = Tokenizer.load(config.tokenizer)
    goal = goal_for_task("block_to_block", ("red moon", "blue cube"))
    questions, wanted = jax.tree.map(
        jnp.asarray, goal_batch([goal], tokenizer, config.max_question_tokens)
    )
    size = config.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    observation = Observation(image=jnp.asarray(image))
    print(
        f"\n1. tiny model, {count} candidates x {rounds} iterations, "
        f"{len(goal.questions)} questions at 2 horizons; shortest of {_REPEATS.value}"
    )
    print(f"{'planner':10}{'replan':>10}{'scoring':>10}{'share':>8}{'unasked':>10}")
    for name in _PLANNERS.value:
        planner = get_planner(name, candidates=count, iterations=rounds)
        state, key = planner.init_state(1), prng.key(2)
        rest = observation, questions, wanted, state, key
        free = FakeWorldModel(goal=jnp.array([0.1, 0.0]))
        settings = planner.config
        shape = (rounds, 1, count, settings.horizon, settings.action_size)
        chunks = 0.01 * prng.normal(prng.key(1), shape)
        inputs = model, observation, questions, wanted, chunks, settings
        whole, scoring, unasked = side_by_side(
            functools.partial(planner.plan, model, *rest),
            functools.partial(score_only, *inputs),
            functools.partial(planner.plan, free, *rest),
            turns=_REPEATS.value,
        )
        print(
            f"{name:10}{whole * 1e3:8.1f}ms{scoring * 1e3:8.1f}ms"
            f"{1 - scoring / whole:8.1%}{unasked * 1e3:8.2f}ms = {unasked / whole:.2%}"
        )


@functools.partial(jax.jit, static_argnames="settings")
def score_only(model, observation, questions, wanted, chunks, settings):
    """Scoring without planning: values of populations [I, S, N, H, A]."""
    context = model.encode(observation, questions)

    def look(_, actions):
        scores = desired_scores(
            model,
            context,
            actions,
            wanted.answers,
            settings.horizons,
            settings.score,
            settings.normalise,
        )
        return None, chunk_value(scores, wanted.weights)[0]

    return jax.lax.scan(look, None, chunks)[1]


def planners_alone() -> None:
    """Prints part 2, the comparison of planners."""
    samples, rounds = _SAMPLES.value, _ITERATIONS.value
    rows = {name: ours(name) for name in ("mppi", "cem", "icem", "mppi_published")}
    rows["random_shooting"] = ours("random_shooting")
    if installed("evosax"):
        rows |= {f"evosax {name}": evosax(name) for name in ("CMA_ES", "SimpleES")}
    if installed("pytorch_mppi", "torch"):
        rows |= {f"pytorch-mppi {t}": pytorch_mppi(t) for t in _TEMPERATURES}
    print(
        f"\n2. point mass, 16 actions, {samples} samples x {rounds} iterations; cost "
        f"of {_SEEDS.value} plans, shortest of {_REPEATS.value} times"
    )
    calls = [functools.partial(run, 0) for run in rows.values()]
    times = side_by_side(*calls, turns=_REPEATS.value)
    base = times[0]
    print(f"{'planner':22}{'cost':>9}{'worst':>9}{'ms/plan':>10}{'x ours':>8}")
    for (name, run), seconds in zip(rows.items(), times):
        plans = np.stack([np.asarray(run(seed)) for seed in range(_SEEDS.value)])
        cost = np.asarray(point_mass.chunk_cost(jnp.asarray(plans)))
        print(
            f"{name:22}{cost.mean():9.4f}{cost.max():9.4f}{seconds * 1e3:10.3f}"
            f"{seconds / base:8.2f}"
        )


def ours(name):
    """Function seed -> plan[16, 2] of a planner of this project."""
    samples, rounds = _SAMPLES.value, _ITERATIONS.value
    once = name == "random_shooting"
    planner = get_planner(
        name,
        candidates=samples * rounds if once else samples,
        iterations=1 if once else rounds,
        sub_chunk=16,
        score="margin",
        normalise="answers",
    )
    inputs = jax.tree.map(jnp.asarray, point_mass.question())
    state = planner.init_state(1)
    model = point_mass.PointMass()
    return lambda seed: planner.plan(model, *inputs, state, prng.key(seed))[0][0]


def evosax(name):
    """Function seed -> plan[16, 2] of an evosax strategy, in one jit."""
    from evosax import algorithms

    blank = jnp.zeros((16, 2))
    strategy = getattr(algorithms, name)(_SAMPLES.value, blank)
    params = strategy.default_params.replace(std_init=0.02)
    inside = lambda x: jnp.clip(x, -point_mass.LIMIT, point_mass.LIMIT)

    @jax.jit
    def run(key):
        key, first = prng.split(key)

        def generation(state, key):
            ask, tell = prng.split(key)
            population, state = strategy.ask(ask, state, params)
            cost = point_mass.chunk_cost(inside(population))
            state, _ = strategy.tell(tell, population, cost, state, params)
            return state, None

        state = strategy.init(first, blank, params)
        keys = prng.split(key, _ITERATIONS.value)
        state, _ = jax.lax.scan(generation, state, keys)
        return inside(state.best_solution.reshape(16, 2))

    return lambda seed: run(prng.key(seed))


def pytorch_mppi(temperature):
    """Function seed -> plan[16, 2] of pytorch-mppi: the mean, as its authors do."""
    import torch
    from pytorch_mppi import MPPI

    box = torch.full((2,), point_mass.LIMIT)
    controller = MPPI(
        lambda state, action, t=None: point_mass.step(torch, state, action),
        lambda state, action, t=None: point_mass.running_cost(torch, state, action),
        4,
        torch.eye(2) * 0.02**2,
        num_samples=_SAMPLES.value,
        horizon=16,
        lambda_=temperature,
        u_min=-box,
        u_max=box,
        U_init=torch.zeros(16, 2),
    )
    rest = torch.zeros(4)

    @torch.no_grad()
    def run(seed):
        torch.manual_seed(seed)
        controller.U = torch.zeros(16, 2)
        for _ in range(_ITERATIONS.value):
            controller.command(rest, shift_nominal_trajectory=False)
        return controller.U.clone().numpy()

    return run


if __name__ == "__main__":
    run_command(main)
