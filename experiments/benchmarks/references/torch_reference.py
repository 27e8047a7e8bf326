"""Reference for training: PyTorch and `transformers`, one question per sequence.

A sequence is a prefix of image tokens, actions up to the question's horizon, bos,
question and newline with full attention, then the causal answer; positions start at 1.
The loop is that of `transformers.Trainer`: collate, forward, backward, clip, AdamW.
Image tower and decoder are from `transformers` with SDPA attention; weights are
converted by the exporter of `swm_jax.convert`. As in our step, logits are computed at
answer tokens only.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PaliGemmaForConditionalGeneration

from swm_jax.checkpoints.convert import convert
from swm_jax.checkpoints.formats.lazy_arrays import Leaf, Source
from swm_jax.models import ModelConfig, TrainBatch
from swm_jax.models.backbones.weights import named_leaves


class ReferenceModel(nn.Module):
    """PaliGemma with an action projector, its sequences built query by query."""

    def __init__(self, config: ModelConfig, params: Mapping[str, Any]):
        super().__init__()
        self.config = config
        self.paligemma = load_paligemma(config, params)
        self.action = nn.Linear(config.action_size, config.width)
        with torch.no_grad():
            self.action.weight.copy_(_tensor(params["action"]["kernel"]).T)
            self.action.bias.copy_(_tensor(params["action"]["bias"]))

    def query_loss(
        self, batch: TrainBatch, queries: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """float32[queries]: each query's mean cross-entropy over its answer tokens.

        Args:
          batch: numpy arrays.
          queries: (image, query) pairs, each a separate sequence with its own run of
            the image tower.
        """
        c, device = self.config, self.action.weight.device
        rows = [self._tokens(batch, *query) for query in queries]
        images = torch.as_tensor(batch.image[[b for b, _ in queries]]).to(device)
        seen = self._image_tokens(images)
        embed = self.paligemma.get_input_embeddings()
        sequences = []
        for image, (actions, prompt, answer) in zip(seen, rows):
            steps = self.action(_tensor(actions * c.action_scale).to(device))
            steps = steps * c.width**0.5
            text = embed(torch.as_tensor([*prompt, *answer[:-1]]).to(device))
            sequences.append(torch.cat([image, steps.to(image.dtype), text]))
        x = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        lengths = torch.tensor([len(s) for s in sequences], device=device)
        answers = torch.tensor([len(a) for _, _, a in rows], device=device)
        place = torch.arange(x.shape[1], device=device)
        real = place < lengths[:, None]
        prefix = (lengths - answers + 1)[:, None, None]
        sees = (place[None, None] <= place[None, :, None]) | (place < prefix)
        sees = (sees & real[:, None]) | torch.eye(len(place), device=device).bool()
        mask = torch.where(sees, 0.0, torch.finfo(x.dtype).min)[:, None].to(x.dtype)
        out = self.paligemma.model.language_model(
            inputs_embeds=x, attention_mask=mask, position_ids=1 + place[None]
        ).last_hidden_state
        where, targets = [], []
        for i, (_, _, answer) in enumerate(rows):
            start = int(lengths[i]) - len(answer)
            where += [(i, start + m) for m in range(len(answer))]
            targets += list(answer)
        index = torch.tensor(where, device=device)
        logits = self.paligemma.lm_head(out[index[:, 0], index[:, 1]])
        logits = logits[:, : c.vocab_size].float()  # without padding of the vocabulary
        targets = torch.tensor(targets, device=device)
        loss = nn.functional.cross_entropy(logits, targets, reduction="none")
        total = torch.zeros(len(rows), device=device)
        return total.index_add(0, index[:, 0], loss) / answers

    def tokens(self, batch: TrainBatch, queries: Sequence[tuple[int, int]]) -> int:
        """Tokens of these sequences, without padding."""
        rows = [self._tokens(batch, *query) for query in queries]
        text = sum(len(a) + len(p) + len(t) - 1 for a, p, t in rows)
        return len(queries) * self.config.image_tokens + text

    def _tokens(self, batch, b, r):
        """Actions, prompt ids and answer ids of one query."""
        c, q = self.config, batch.query_question[b, r]
        question = batch.question_tokens[b, q][batch.question_mask[b, q]]
        answer = batch.answer_tokens[b, r][batch.answer_mask[b, r]]
        prompt = [c.bos_id, *question.tolist(), c.newline_id]
        return batch.actions[b, : batch.query_horizon[b, r]], prompt, answer.tolist()

    def _image_tokens(self, images):
        c = self.config
        x = images.permute(0, 3, 1, 2).float()
        if x.shape[-2:] != (c.image_size, c.image_size):
            size = (c.image_size, c.image_size)
            x = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        pixels = (x / 255 - 0.5) / 0.5
        return self.paligemma.get_image_features(pixels).pooler_output


def load_paligemma(
    config: ModelConfig, params: Mapping[str, Any]
) -> PaliGemmaForConditionalGeneration:
    """`transformers`' model with our weights, exported to a folder and loaded."""
    leaves = {
        key: _leaf(np.asarray(leaf))
        for key, leaf in named_leaves(params).items()
        if not key.startswith("action/")
    }
    metadata = {"model": {"variant": config.variant, "overrides": {}}}
    source = Source("orbax", Path("memory"), config, leaves, None, metadata)
    with tempfile.TemporaryDirectory() as folder:
        path = convert(source, Path(folder) / "paligemma", "hugging_face")
        return PaliGemmaForConditionalGeneration.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa"
        )


class Trainer:
    """Optimizer step with micro-batches and clipping, as in `transformers.Trainer`.

    Args:
      model: the reference model, on its device.
      learning_rate: of AdamW, without decay.
      micro_batch: sequences of one forward and backward.
      autocast: bfloat16 products with float32 weights, for GPUs.
    """

    def __init__(
        self,
        model: ReferenceModel,
        learning_rate: float,
        micro_batch: int,
        autocast: bool = False,
    ):
        self.model, self.micro_batch, self.autocast = model, micro_batch, autocast
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=0.0
        )

    def step(self, batch: TrainBatch, queries: Sequence[tuple[int, int]]) -> float:
        """One optimizer step; returns the mean loss."""
        total, size = 0.0, self.micro_batch
        kind = self.model.action.weight.device.type
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            with torch.autocast(kind, torch.bfloat16, enabled=self.autocast):
                loss = self.model.query_loss(batch, part).sum() / len(queries)
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


def _tensor(x) -> torch.Tensor:
    return torch.from_numpy(np.array(x, np.float32))


def _leaf(array: np.ndarray) -> Leaf:
    whole = lambda index: tuple(slice(0, s.stop - s.start) for s in index)
    return Leaf(array.shape, array.dtype, lambda index: [(whole(index), array[index])])
