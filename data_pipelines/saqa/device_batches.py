"""Batches of tuples drawn and rendered on the device by one jitted program.

The host's sampler (`saqa.sampler`) measures pools and weights once and its tables are
moved to the device. A batch is then a function of (seed, step) computed on the device
alone: starts, questions, horizons, and the image rendered from the stored poses. The
distribution is that of the host's sampler; the random numbers differ. Throughput is
that of the renderer, without frames on disk or processes that decode them.

Axes: B images, Q questions, R queries.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Key

from data_pipelines.batches.config import Data
from data_pipelines.saqa.balance import Balance
from data_pipelines.saqa.device_draw import Tables, draw_one, parts_of, start_one
from data_pipelines.saqa.horizons import horizons_of
from data_pipelines.saqa.sampler import SaqaSampler
from data_pipelines.saqa.slots import slot_questions
from data_pipelines.saqa.tokens import AnswerTokens, QuestionTokens
from swm_jax import prng, worlds
from swm_jax.arrays import Array, Indices
from swm_jax.models import ModelConfig, Tokenizer, TrainBatch


def make_tables(
    sampler: SaqaSampler, balance: Balance, tokens: Any, answers: Any
) -> Tables:
    """Moves a host sampler's tables to the default device.

    Args:
      sampler: of episodes of a world, with or without frames.
      balance: `sampler.balance(questions, queries)`.
      tokens, answers: `QuestionTokens` and `AnswerTokens` of the model's tokenizer.
    """
    episodes, pools = sampler.episodes, sampler.pools
    cells = [cell for cell, _ in sampler.anchors]
    members = [starts for _, starts in sampler.anchors]
    sizes = [len(starts) for starts in members]
    slots = episodes.block_id.shape[-1]
    parts = [slot_questions(kind, slots) for kind in sampler.types]
    weights = sampler.anchor_weights
    cumulative = np.concatenate([[0.0], np.cumsum(sampler.horizons.weights)])
    found = {
        "action": episodes.action,
        "length": episodes.length,
        "episode": pools.episode,
        "t": pools.t,
        "horizon": pools.horizon,
        "has": pools.has,
        "anchor_cell": np.array(cells, np.int32).reshape(-1, 4),
        "anchor_logit": np.log(np.maximum(weights, 1e-30)),
        "members": np.concatenate(members) if members else np.zeros(1),
        "first": np.concatenate([[0], np.cumsum(sizes)]),
        "kind": np.repeat(np.arange(len(parts)), [len(p) for p in parts]),
        "rows": np.concatenate(parts),
        "type_id": pools.type_id,
        "edges": pools.edges,
        "bucket": sampler.horizons.bucket,
        "cumulative": cumulative,
        "tokens": tokens.tokens,
        "token_row": tokens.row,
        "answer_tokens": answers.tokens,
    }

    def narrow(x):
        x = np.asarray(x)
        kinds = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}
        return jnp.asarray(x.astype(kinds[x.dtype.kind]))

    form = worlds.load(sampler.language.name).scene
    return Tables(
        # Only the types in use, since `Language.margin` evaluates every type's rule.
        language=dataclasses.replace(sampler.language, types=sampler.types),
        form=form,
        state={name: narrow(getattr(episodes, name)) for name in form.state},
        balance=jax.tree.map(narrow, vars(balance)),
        **{name: narrow(x) for name, x in found.items()},
    )


@dataclasses.dataclass(frozen=True)
class DeviceBatches:
    """Training batches by step, on the device: `batches(step)` is a `TrainBatch`.

    Attributes:
      sampler: the host's, which measured the tables.
      tables: its tables on the device.
      config: sizes of a batch, questions.
      image_size: pixels per side of the square image.
      seed: of the stream, different for every split.
      rows: those of the B images that this host needs; None for all.
    """

    sampler: SaqaSampler
    tables: Tables
    config: Data
    image_size: int
    seed: int
    rows: Int[np.ndarray, " n"] | None

    @classmethod
    def make(
        cls,
        episodes: Any,
        config: Data,
        tokenizer: Tokenizer,
        model_config: ModelConfig,
        *,
        seed: int,
        split: str = "train",
        rows: Indices | None = None,
    ) -> "DeviceBatches":
        """Measures the sampling weights and tokenises all questions.

        Args:
          episodes: `EpisodeArrays` of a world, of which only the poses are used.
          seed, split, rows: as for `batches.stream.make_train_iterator`.

        Raises:
          ValueError: inconsistent sizes, or too few episodes.
        """
        horizons = horizons_of(model_config.max_horizon, config.saqa.buckets)
        sampler = SaqaSampler(episodes, config.saqa, horizons)
        balance = sampler.balance(config.questions, config.queries)
        blocks, length = np.unique(episodes.block_id), model_config.max_question_tokens
        words = QuestionTokens.make(
            tokenizer, blocks, length, sampler.language, sampler.named
        )
        answers = AnswerTokens.make(tokenizer, config.answer_eos, sampler.types)
        return cls(
            sampler,
            make_tables(sampler, balance, words, answers),
            config,
            model_config.image_size,
            2 * seed + (split != "train"),
            None if rows is None else np.asarray(rows),
        )

    def __call__(self, step: int) -> TrainBatch:
        """This host's rows of a step's batch."""
        return self._sample(self.tables, prng.key(self.seed), step)

    def stream(self, start_step: int) -> Iterator[TrainBatch]:
        """The batches from a step on."""
        return map(self, itertools.count(start_step))

    def examples(self, step: int) -> list[dict[str, int]]:
        """Start of each row of a step's global batch: numbers of episode and frame."""
        keys = self._keys(prng.key(self.seed), step)
        one = lambda key: start_one(self.tables, key, self.sampler.config)[0]
        rows = np.asarray(jax.vmap(one)(parts_of(keys)["start"]))
        pools = self.sampler.pools
        episodes: Any = self.sampler.episodes  # stored ones, which have numbers
        numbers = episodes.episode[pools.episode[rows]]
        return [
            {"episode": int(episode), "t": int(t)}
            for episode, t in zip(numbers, pools.t[rows])
        ]

    def _keys(self, seed, step) -> Key[jax.Array, " B"]:
        # One key per image of the global batch, so that a row is the same on any host.
        return prng.split(prng.fold_in(seed, step), self.config.images)

    @functools.cached_property
    def _sample(self) -> Callable[..., TrainBatch]:
        """(tables, key of the seed, step) -> the batch, one jitted program."""
        config, saqa = self.config, self.sampler.config
        longest = self.sampler.horizons.longest
        draw = worlds.load(self.sampler.language.name).render.device

        @jax.jit
        def sample(tables: Tables, seed: Key[jax.Array, ""], step: Int[Array, ""]):
            keys = self._keys(seed, step)
            keys = keys if self.rows is None else keys[self.rows]
            one = lambda key: draw_one(
                tables, key, saqa, longest, config.questions, config.queries
            )
            scene, batch = jax.vmap(one)(keys)
            size = self.image_size
            image = draw(scene, size, size, supersample=config.simulated.supersample)
            return TrainBatch(image=image, **batch)

        return sample
