"""The published scoring loop in PyTorch: `transformers` with our weights.

One sequence per (candidate, question, sub-chunk): image tokens, the actions so far,
bos, the question, a newline, with full attention. Keys cannot be cached: image tokens
attend to the actions, so every layer's keys depend on the candidate.

`tuned` is an optimised version: image features once per replan, sequences of equal
length batched without padding, logits at the last position and for the answers only.
`literal` is the published one: the image tower for every sequence, the whole vocabulary
at every position.

Weights are shared with JAX without copies, except for a few small ones.
Axes: N candidates, H actions, K sub-chunks, Q questions, T tokens, C answers.
"""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from swm_jax.checkpoints.formats.huggingface.config import write_config
from swm_jax.checkpoints.formats.huggingface.table import canonical, rules_for
from swm_jax.models import ModelConfig
from swm_jax.models.backbones.weights import named_leaves


class PublishedLoop:
    """PaliGemma with an action projector.

    Args:
      params: our tree, in the dtype to compute in.
      config: its sizes; the layout is ignored.
      image: of the scene, of the model's own size.
      questions: of equal lengths.
      answers: one token each.
      horizons: sub-chunk ends.
    """

    def __init__(
        self,
        params: dict,
        config: ModelConfig,
        image: UInt8[np.ndarray, "h w 3"],
        questions: Int[np.ndarray, "Q T"],
        answers: Int[np.ndarray, "Q C"],
        horizons: tuple[int, ...],
    ):
        tree = {k: torch.from_dlpack(x) for k, x in named_leaves(params).items()}
        self.table = tree["llm/embedder/input_embedding"]
        self.device, self.dtype = self.table.device, self.table.dtype
        self.on_cpu, self.threads = self.device.type == "cpu", torch.get_num_threads()
        self.kernel, self.bias = tree.pop("action/kernel"), tree.pop("action/bias")
        self.config, self.horizons = config, horizons
        self.model = _shared_model(tree, config).to(self.device)
        as_ids = lambda x: torch.tensor(np.asarray(x, np.int64), device=self.device)
        bos, newline = (
            np.full_like(questions[:, :1], i)
            for i in (config.bos_id, config.newline_id)
        )
        prompts = np.concatenate([bos, questions, newline], 1)
        self.prompts = self.table[as_ids(prompts)] * config.width**0.5
        self.answers = as_ids(answers)
        pixels = (np.moveaxis(image, -1, 0)[None].astype(np.float32) / 255 - 0.5) / 0.5
        self.pixels = torch.tensor(pixels, device=self.device).to(self.dtype)

    @torch.inference_mode()
    def encode(self) -> torch.Tensor:
        """Image tokens [1, I, W]."""
        return self.model.get_image_features(self.pixels).pooler_output

    @torch.inference_mode()
    def tuned(
        self,
        actions: Float[np.ndarray, "N H A"],
        image: torch.Tensor,
        batch: int,
        threads: int = 0,
    ) -> Float[np.ndarray, "N K Q C"]:
        """Log-probabilities over the answer set.

        Args:
          actions: raw action units.
          image: from `encode`.
          batch: sequences at a time.
          threads: of a CPU; 0 for PyTorch's default.
        """

        def read(rows, question):
            hidden = self._hidden(rows, image.expand(len(rows), -1, -1))[:, -1, None]
            logits = hidden @ self.table[self.answers[question]].mT
            return torch.log_softmax(logits[:, 0].float(), -1)

        return self._each(actions, batch, threads, read)

    @torch.inference_mode()
    def literal(
        self, actions: Float[np.ndarray, "N H A"], batch: int, threads: int = 0
    ) -> Float[np.ndarray, "N K Q C"]:
        """Log-probabilities over the whole vocabulary, as published."""

        def read(rows, question):
            pixels = self.pixels.expand(len(rows), -1, -1, -1)
            image = self.model.get_image_features(pixels).pooler_output
            logits = self._hidden(rows, image) @ self.table.T
            among = torch.log_softmax(logits[:, -1].float(), -1)
            return among.gather(1, self.answers[question])

        return self._each(actions, batch, threads, read)

    def _each(self, actions, batch, threads, read):
        torch.set_num_threads(threads or self.threads)
        actions = torch.tensor(np.asarray(actions), device=self.device)
        scaled = (actions * self.config.action_scale).to(self.dtype)
        steps = (scaled @ self.kernel + self.bias) * self.config.width**0.5
        count, asked = len(actions), len(self.prompts)
        candidate = torch.arange(count).repeat_interleave(asked).to(self.device)
        question = torch.arange(asked).repeat(count).to(self.device)
        result = []
        for horizon in self.horizons:
            parts = []
            for n, q in zip(candidate.split(batch), question.split(batch)):
                rows = torch.cat([steps[n, :horizon], self.prompts[q]], 1)
                parts.append(read(rows, q))
            result.append(torch.cat(parts).reshape(count, asked, -1))
        return torch.stack(result, 1).float().cpu().numpy()

    def _hidden(self, rows, image):
        x = torch.cat([image, rows], 1)
        length = x.shape[1]
        sees_all = torch.zeros(1, 1, length, length, dtype=x.dtype, device=x.device)
        places = 1 + torch.arange(length, device=x.device)[None]
        decoder = self.model.model.language_model
        if self.config.post_norms:
            sees_all = {"full_attention": sees_all, "sliding_attention": sees_all}
        out = decoder(
            inputs_embeds=x,
            attention_mask=sees_all,
            position_ids=places,
            use_cache=False,
        )
        return out.last_hidden_state


def _shared_model(tree: dict, config: ModelConfig) -> PaliGemmaForConditionalGeneration:
    """`transformers`' model with views of our arrays, transposed where needed."""
    described = write_config(config, {}, action=False, dtype=config.dtype)
    described = PaliGemmaConfig.from_dict(described)
    described.text_config.vocab_size = config.vocab_size
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration._from_config(
            described, attn_implementation="sdpa"
        ).eval()
    names, state = canonical(dict.fromkeys(model.state_dict())), {}
    for key, rule in rules_for({k: tuple(x.shape) for k, x in tree.items()}).items():
        shape = tuple(tree[key].shape)
        letters = rule.order.replace(" ", "")
        for name, place in rule.names(shape).items():
            turned = tree[key][place].reshape(shape[rule.lead :])
            turned = turned.permute([rule.axes.index(a) for a in letters])
            state[names[name]] = turned.reshape(rule.their_shape(shape))
    state["lm_head.weight"] = tree["llm/embedder/input_embedding"]
    model.load_state_dict(state, strict=True, assign=True)
    # Buffers outside of the checkpoint must be created.
    embeddings = next(m for m in model.modules() if hasattr(m, "position_ids"))
    embeddings.position_ids = torch.arange(config.image_tokens)[None]
    decoder = model.model.language_model
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config)
    decoder.embed_tokens = None  # inputs come embedded
    return model
