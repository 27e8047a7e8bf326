"""The published semantic world model, read from its description alone.

A sequence holds image tokens as they leave the projector, one token per action, bos,
the question and a newline; then the answer. Action tokens are Linear(action) times
sqrt(width), like text. Everything up to the newline sees everything, the answer is
causal, positions count from 1, and the newline's state is read over the whole
vocabulary. Here every query is one unpadded sequence with a dense mask of its own; the
layers inside are `transformers`'.
"""

import numpy as np
import torch
from parity_cases import Case
from torch import nn
from torch_paligemma import finish, pixel_values, torch_model

from swm_jax.models import TrainBatch


class PublishedSWM(nn.Module):
    """PaliGemma with an action projector.

    Args:
      paligemma: of `transformers`.
      action_size: width of one action.
    """

    def __init__(self, paligemma: nn.Module, action_size: int):
        super().__init__()
        self.paligemma = paligemma
        self.width = paligemma.config.text_config.hidden_size
        self.action_projector = nn.Linear(action_size, self.width)

    def embed_text(self, ids) -> torch.Tensor:
        table = self.paligemma.lm_head.weight
        return table[torch.as_tensor(np.asarray(ids, int))] * self.width**0.5

    def sequence(self, image, actions, bos, question, newline, answer) -> torch.Tensor:
        """Embeds one query: float32[S, width]."""
        steps = self.action_projector(torch.as_tensor(actions)) * self.width**0.5
        prompt = self.embed_text([bos, *question, newline])
        return torch.cat([image, steps, prompt, self.embed_text(answer)])

    def states(self, x: torch.Tensor, prefix: int) -> tuple[torch.Tensor, ...]:
        """States of one sequence after each layer, the last one normed."""
        place = torch.arange(len(x))
        sees = (place[None] <= place[:, None]) | (place[None] < prefix)
        mask = torch.where(sees, 0.0, torch.finfo(x.dtype).min)[None, None]
        decoder = self.paligemma.model.language_model
        if self.paligemma.config.text_config.model_type == "gemma2":
            mask = {"full_attention": mask, "sliding_attention": mask}
        out = decoder(
            inputs_embeds=x[None],
            attention_mask=mask,
            position_ids=1 + place[None],
            output_hidden_states=True,
        )
        return tuple(state[0] for state in out.hidden_states)

    def read(self, state: torch.Tensor) -> torch.Tensor:
        """Logits over the whole vocabulary."""
        cap = getattr(
            self.paligemma.config.text_config, "final_logit_softcapping", None
        )
        logits = state @ self.paligemma.lm_head.weight.T
        return logits if cap is None else cap * torch.tanh(logits / cap)


def torch_swm(case: Case, params: dict) -> PublishedSWM:
    """The model with our weights."""
    model = PublishedSWM(torch_model(case, params), case.config.action_size)
    with torch.no_grad():
        model.action_projector.weight.copy_(torch.tensor(params["action"]["kernel"].T))
        model.action_projector.bias.copy_(torch.tensor(params["action"]["bias"]))
    return model


def torch_swm_outputs(case: Case, params: dict, batch: TrainBatch) -> dict:
    """What `our_outputs` gives, by `PublishedSWM`."""
    c, model = case.config, torch_swm(case, params)
    image = model.paligemma.get_image_features(pixel_values(batch))
    inputs, middle, hidden, logits = [], [], [], []
    for b, r in np.ndindex(batch.query_question.shape):
        q = batch.query_question[b, r]
        question = batch.question_tokens[b, q][batch.question_mask[b, q]]
        actions = batch.actions[b, : batch.query_horizon[b, r]]
        answer = batch.answer_tokens[b, r][batch.answer_mask[b, r]][:-1]
        x = model.sequence(
            image.pooler_output[b], actions, c.bos_id, question, c.newline_id, answer
        )
        prefix = len(x) - len(answer)
        states = model.states(x, prefix)
        inputs.append(states[0])
        middle.append(states[c.depth // 2])
        hidden.append(states[-1])
        logits.append(model.read(states[-1][prefix - 1 :]))
    result = dict(
        features=image.last_hidden_state,
        image_tokens=image.pooler_output,
        inputs=torch.cat(inputs),
        middle=torch.cat(middle),
        hidden=torch.cat(hidden),
        logits=torch.cat(logits),
    )
    return finish(result, model, batch, c)
