"""The loop trains anything with `init` and `loss`: here a policy that copies."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swm_jax.checkpoints import RunCheckpoints
from swm_jax.training import Measures, Training, TrainingError, fit
from swm_jax.training.build import build, initial_state
from swm_jax.training.monitoring.metrics import read_metrics
from swm_jax.training.optimizer import Optimizer
from swm_jax.training.sharding import make_mesh

TRUE = np.random.default_rng(7).normal(size=(5, 2)).astype("f4")


@dataclasses.dataclass(frozen=True)
class Cloning:
    """Behaviour cloning: an MLP from states to actions, squared error."""

    width: int = 16

    metrics = ("loss", "share_near")
    shown = ("loss", "share_near")

    def init(self, key):
        first, second = jax.random.split(key)
        return {
            "hidden": {"kernel": 0.5 * jax.random.normal(first, (5, self.width))},
            "out": {"kernel": 0.1 * jax.random.normal(second, (self.width, 2))},
        }

    def totals(self, batch):
        return jnp.float32(len(batch["state"]))

    def loss(self, params, batch, totals=None):
        hidden = jnp.tanh(batch["state"] @ params["hidden"]["kernel"])
        error = hidden @ params["out"]["kernel"] - batch["action"]
        squares = (error**2).sum(-1)
        loss = squares.sum() / (self.totals(batch) if totals is None else totals)
        sums = {
            "squares": squares.sum(),
            "near": (squares < 0.01).sum(dtype=jnp.float32),
            "count": self.totals(batch),
        }
        return loss, Measures({}, sums)

    def report(self, sums):
        return {
            "loss": float(sums["squares"] / sums["count"]),
            "share_near": float(sums["near"] / sums["count"]),
        }


class Demonstrations:
    """States and actions, a pure function of seed and step."""

    images = 8

    def __init__(self, mesh, poisoned=()):
        self.poisoned = poisoned

    def batch(self, seed, step):
        rng = np.random.default_rng((seed, step))
        state = rng.normal(size=(self.images, 5)).astype("f4")
        action = np.tanh(state @ TRUE)
        return {
            "state": state,
            "action": np.where(step in self.poisoned, np.nan, action),
        }

    def stream(self, start_step):
        return (self.batch(0, step) for step in itertools.count(start_step))

    def validation(self):
        return [self.batch(1, step) for step in range(3)]

    def examples(self, step):
        return {"rows": list(range(self.images)), "stream_step": step}


TRAINING = Training(
    steps=60,
    log_every=20,
    validate_every=30,
    checkpoint_every=30,
    keep_best=None,
    optimizer=Optimizer("adamw", learning_rate=0.02, warmup_steps=0),
)


def stored(workdir):
    """Parameters and optimizer state of the newest checkpoint."""
    built = build(TRAINING, Cloning(), make_mesh({"data": -1}))
    checkpoints = RunCheckpoints(workdir)
    found = checkpoints.restore_newest(
        built.state.params, built.state.opt_state, lambda metadata: None
    )
    checkpoints.close()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, fit(TRAINING, Cloning(), Demonstrations, workdir)


def test_a_policy_learns_in_the_loop_and_is_validated_and_logged(whole):
    workdir, result = whole
    rows = {row["step"]: row for row in read_metrics(workdir)}
    assert set(rows) == {20, 30, 40, 60}
    assert rows[60]["loss"] < rows[20]["loss"] / 2
    assert result == {k: v for k, v in rows[60].items() if k.startswith("validation/")}
    # The last validation again, in numpy.
    params = jax.device_get(stored(workdir).params)
    batches = [Demonstrations(None).batch(1, step) for step in range(3)]
    errors = [
        np.tanh(b["state"] @ params["hidden"]["kernel"]) @ params["out"]["kernel"]
        - b["action"]
        for b in batches
    ]
    expected = np.mean(np.sum(np.concatenate(errors) ** 2, -1))
    np.testing.assert_allclose(result["validation/loss"], expected, rtol=1e-5)


def test_a_policy_resumes_bit_for_bit(whole, tmp_path):
    half = dataclasses.replace(
        TRAINING,
        steps=30,
        optimizer=dataclasses.replace(TRAINING.optimizer, schedule="constant"),
    )
    full = dataclasses.replace(half, steps=60)
    fit(full, Cloning(), Demonstrations, tmp_path / "at_once")
    fit(half, Cloning(), Demonstrations, tmp_path / "parts")
    fit(full, Cloning(), Demonstrations, tmp_path / "parts")
    left, right = stored(tmp_path / "at_once"), stored(tmp_path / "parts")
    assert left.step == right.step == 60
    same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    jax.tree.map(same, left.params, right.params)
    jax.tree.map(same, left.opt_state, right.opt_state)


def test_parts_of_a_batch_add_up_to_the_whole():
    states = []
    for parts in (1, 4):
        training = dataclasses.replace(TRAINING, accumulate=parts)
        built = build(training, Cloning(), make_mesh({"data": -1}))
        state = initial_state(training, Cloning(), built)
        batch = Demonstrations(None).batch(0, 0)
        state, metrics = built.step(state, batch)
        states.append(jax.device_get((state.params, metrics.scalars)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), *states)


def sums(workdir, step):
    """Sums over the bits of the parameters and of the optimizer's state."""
    path = workdir / "checkpoints" / str(step) / "metadata" / "metadata"
    return json.loads(path.read_text())["sums"]


POISONED = functools.partial(Demonstrations, poisoned=(4,))  # the fifth step


def test_a_step_without_a_finite_loss_is_skipped_where_the_config_says_so(
    tmp_path, capfd
):
    skip = dataclasses.replace(
        TRAINING,
        on_nan="skip",
        steps=6,
        log_every=1,
        checkpoint_every=1,
        keep_checkpoints=9,
    )
    fit(skip, Cloning(), POISONED, tmp_path)
    # The same parameters and optimizer as before, and the next step counts.
    assert sums(tmp_path, 4) == sums(tmp_path, 5) != sums(tmp_path, 6)
    bad = json.loads((tmp_path / "bad_batches" / "step_5.json").read_text())
    assert (bad["step"], bad["stream_step"], bad["loss"]) == (5, 4, "nan")
    assert bad["rows"] == list(range(Demonstrations.images))
    assert "skipped step 5" in capfd.readouterr().out
    skipped = [row["skipped_steps"] for row in read_metrics(tmp_path)]
    assert skipped == [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_a_step_without_a_finite_loss_stops_the_run_before_anything_is_saved(tmp_path):
    stop = dataclasses.replace(TRAINING, checkpoint_every=2)
    # The step is named though the loop looks at every second one only.
    with pytest.raises(TrainingError, match="loss nan at step 5") as error:
        fit(stop, Cloning(), POISONED, tmp_path)
    assert "bad_batches/step_5.json" in str(error.value)
    assert "the last good checkpoint is step 4" in str(error.value)
    saved = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert max(saved) == 4


def test_a_workdir_goes_on_with_the_same_model_only(whole, tmp_path):
    workdir, _ = whole
    with pytest.raises(TrainingError, match="another config: its model is None"):
        fit(
            TRAINING,
            Cloning(),
            Demonstrations,
            workdir,
            metadata={"model": {"width": 16}},
        )


def test_a_metric_that_it_does_not_report_cannot_decide_which_are_best(tmp_path):
    best = Training().keep_best
    training = dataclasses.replace(TRAINING, keep_best=best)
    with pytest.raises(ValueError, match="known: validation/loss, validation/share"):
        fit(training, Cloning(), Demonstrations, tmp_path)
