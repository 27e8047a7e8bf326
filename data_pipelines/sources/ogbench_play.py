"""Source of episodes simulated in OGBench's env with its oracle policies.

    play    the open-loop plan oracle, temporally correlated noise 0.1, a new target
            whenever one is reached
    noisy   the closed-loop oracle with Gaussian noise on every action, whose standard
            deviation is random per episode

An episode is a function of (seed, number of the episode). OGBench's renderer makes a
few frames per second on a CPU: for large data sets run several processes with other
seeds and folders, and train on a mixture of the folders.

Axes: N frames, N - 1 of the actions are used.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from data_pipelines.schema.episode import DataError
from data_pipelines.sources.raw import RawEpisode
from swm_jax.choices import known
from swm_jax.records import Count, NonNegative, Positive, Range, Size
from swm_jax.worlds import load_env
from swm_jax.worlds.ogbench.env import VARIANTS, OGBenchMissing, seeded

POLICIES = ("play", "noisy")
_PLAN_NOISE, _PLAN_SMOOTHING = 0.1, 0.5  # OGBench's own defaults
_ACTION_NOISE = np.array([1.0, 1.0, 1.0, 1.0, 2.0])  # relative, per number


@dataclasses.dataclass(frozen=True)
class PlaySettings:
    """Settings of the simulated episodes.

    Attributes:
      variant: "single", "double", "triple" or "quadruple".
      episodes: number of them.
      steps: actions of each; OGBench's own files have 1001 per trajectory.
      mixture: policy -> weight.
      noise: largest standard deviation of the noisy policy's action noise.
      size: side of the pictures, pixels.
      control_period: seconds.
      seed: of the data set.
    """

    variant: str = "double"
    episodes: Annotated[int, Range(2)] = 100
    steps: Count = 64
    mixture: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"play": 0.5, "noisy": 0.5}
    )
    noise: NonNegative = 0.4
    size: Count = 64
    control_period: Positive = 0.1
    seed: Size = 0

    def __post_init__(self):
        known("variant", self.variant, VARIANTS, DataError)
        weights = list(self.mixture.values())
        numbers = all(isinstance(x, (int, float)) and 0 <= x < 1e9 for x in weights)
        if set(self.mixture) - set(POLICIES) or not numbers or sum(weights) <= 0:
            raise DataError(
                f"mixture is {dict(self.mixture)}, expected weights of "
                f"{', '.join(POLICIES)}"
            )


class OGBenchPlay:
    """Source (`sources.raw.Source`) whose episodes are simulated on reading."""

    domain = "cube"

    def __init__(self, settings: PlaySettings):
        """Makes the env.

        Raises:
          DataError: a missing package, or no OpenGL.
        """
        try:
            self._env: Any = load_env(
                "ogbench",
                cubes=VARIANTS.index(settings.variant) + 1,
                size=settings.size,
                control_period=settings.control_period,
            )
        except (OGBenchMissing, RuntimeError, ValueError) as error:
            raise DataError(str(error)) from error
        self.settings = settings
        self.name = f"ogbench visual-cube-{settings.variant}"
        self.fps = 1.0 / settings.control_period
        self.splits: Mapping[str, Sequence[int]] = {"train": range(settings.episodes)}

    def read(self, number: int) -> RawEpisode:
        """Simulates episode `number`."""
        seed = (self.settings.seed * 1_000_003 + number) % 2**31
        rng = np.random.default_rng(seed)
        names = list(self.settings.mixture)
        weights = np.array([self.settings.mixture[name] for name in names], float)
        policy = str(rng.choice(names, p=weights / weights.sum()))
        state = self._env.reset(seed)
        with seeded(seed + 1):  # the oracles draw from numpy's global generator
            return self._play(policy, state, rng)

    def _play(self, policy: str, state, rng: np.random.Generator) -> RawEpisode:
        env = self._env
        package = env.package_env
        oracle = _oracle(policy, package)
        noise = rng.uniform(0, self.settings.noise) * _ACTION_NOISE
        oracle.reset(None, package.compute_ob_info())
        states, frames, actions = [state], [env.picture(state)], []
        for _ in range(self.settings.steps):
            if oracle.done:
                package.set_new_target(return_info=False)
                oracle.reset(None, package.compute_ob_info())
            action = oracle.select_action(None, package.compute_ob_info())
            if policy == "noisy":
                action = action + noise * rng.normal(size=5)
            action = np.clip(action, -1, 1).astype(np.float32)
            state = env.step(state, action)
            states.append(state)
            frames.append(env.picture(state))
            actions.append(action)
        scenes = [env.scene(each) for each in states]
        return RawEpisode(
            frames=frames,
            # A recording has as many actions as frames; the last is not used.
            action=np.stack([*actions, np.zeros(5, np.float32)]),
            state={
                "block_pose": np.stack([scene.block_pose for scene in scenes]),
                "gripper": np.stack([scene.gripper for scene in scenes]),
                "block_id": scenes[0].block_id,
            },
            instruction="",
            policy=policy,
        )


def _oracle(policy: str, env):
    # Late imports, as the package is optional.
    if policy == "play":
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle  # pyright: ignore[reportMissingImports]

        return CubePlanOracle(
            env=env, noise=_PLAN_NOISE, noise_smoothing=_PLAN_SMOOTHING
        )
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle  # pyright: ignore[reportMissingImports]

    return CubeMarkovOracle(env=env, min_norm=0.4)
