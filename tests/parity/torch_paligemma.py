"""`transformers`' model with a case's weights, and what it makes of a batch."""

import numpy as np
import torch
from parity_cases import Case, leaves
from torch_mapping import from_tree, to_tree
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
)

from swm_jax.models import ModelConfig, TrainBatch

torch.set_num_threads(1)  # so small that threads would only wait for one another


def torch_config(c: ModelConfig, **text) -> PaliGemmaConfig | Gemma3Config:
    """The config of the same architecture; `text` overrides the decoder's."""
    decoder = dict(
        model_type="gemma",
        hidden_size=c.width,
        intermediate_size=c.mlp,
        num_hidden_layers=c.depth,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        vocab_size=c.vocab_size,
    )
    if c.post_norms:
        decoder |= dict(
            model_type="gemma2",
            attn_logit_softcapping=c.attention_softcap,
            final_logit_softcapping=c.final_softcap,
            query_pre_attn_scalar=c.query_width or c.head_dim,
        )
    vision = dict(
        model_type="siglip_vision_model",
        hidden_size=c.vision_width,
        intermediate_size=c.vision_mlp,
        num_hidden_layers=c.vision_depth,
        num_attention_heads=c.vision_heads,
        image_size=c.image_size,
        patch_size=c.patch_size,
        vision_use_head=False,
    )
    if c.backbone == "gemma3":
        decoder |= dict(
            model_type="gemma3_text",
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            query_pre_attn_scalar=c.query_width or c.head_dim,
            sliding_window=c.window,
            sliding_window_pattern=c.global_every,
            rope_theta=c.rope_base,
        )
        if c.rope_scale != 1:
            decoder["rope_scaling"] = dict(rope_type="linear", factor=c.rope_scale)
        return Gemma3Config(
            text_config={**decoder, **text},
            vision_config=vision,
            image_token_index=c.vocab_size,
            mm_tokens_per_image=c.image_tokens,
        )
    return PaliGemmaConfig(
        text_config={**decoder, **text},
        vision_config=vision,
        # Behind the vocabulary: no text token can be taken for an image.
        image_token_index=c.vocab_size,
        projection_dim=c.width,
        hidden_size=c.width,
    )


_MODELS = {
    "paligemma": PaliGemmaForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}


def torch_model(case: Case, params: dict, **text) -> PreTrainedModel:
    """The model in float32 with our weights."""
    model = (
        _MODELS[case.config.backbone]
        ._from_config(torch_config(case.config, **text), attn_implementation="eager")
        .eval()
    )
    tree = {name: torch.tensor(leaf) for name, leaf in leaves(params).items()}
    state = from_tree(tree, model.state_dict(), case.config)
    model.load_state_dict(state, strict=True)
    return model


def pixel_values(batch: TrainBatch) -> torch.Tensor:
    """float32[B, 3, h, w] as the processor makes them."""
    image = np.moveaxis(batch.image, -1, 1)
    return torch.tensor((image.astype(np.float32) * (1 / 255) - 0.5) / 0.5)


def token_batch(case: Case, batch: TrainBatch) -> dict[str, torch.Tensor]:
    """All queries without actions as the processor would batch them.

    Prompts [image.., bos, question, newline] are padded left to a common end, the
    answers (their last token is only a target) right.
    """
    c, prompts, answers = case.config, [], []
    for b, r in np.ndindex(batch.query_question.shape):
        q = batch.query_question[b, r]
        question = batch.question_tokens[b, q][batch.question_mask[b, q]]
        image = [c.vocab_size] * c.image_tokens
        prompts.append([*image, c.bos_id, *question, c.newline_id])
        answers.append(batch.answer_tokens[b, r][batch.answer_mask[b, r]][:-1])
    before, after = (max(map(len, x)) for x in (prompts, answers))
    ids, mask = (np.zeros((len(prompts), before + after), int) for _ in range(2))
    for row, (prompt, answer) in enumerate(zip(prompts, answers)):
        here = slice(before - len(prompt), before + len(answer))
        ids[row, here], mask[row, here] = [*prompt, *answer], 1
    types = np.broadcast_to(np.arange(before + after) >= before, ids.shape)
    if c.backbone == "gemma3":  # marks image tokens in place of the answer
        types = ids == c.vocab_size
    return dict(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        token_type_ids=torch.tensor(types.astype(int)),
    )


def answer_places(case: Case, batch: TrainBatch) -> list[int]:
    """Where, among all real tokens in order, answers are read."""
    places, start = [], 0
    for b, r in np.ndindex(batch.query_question.shape):
        asked = batch.question_mask[b, batch.query_question[b, r]].sum()
        newline = case.config.image_tokens + batch.query_horizon[b, r] + 1 + asked
        count = batch.answer_mask[b, r].sum()
        places += range(start + newline, start + newline + count)
        start += newline + count
    return places


def torch_outputs(case: Case, params: dict, batch: TrainBatch, **text) -> dict:
    """What `our_outputs` gives, by `transformers`; horizons must be 0."""
    c, model = case.config, torch_model(case, params, **text)
    tokens = token_batch(case, batch)
    pixels = pixel_values(batch)
    image = model.get_image_features(pixels)
    # One image serves several queries.
    repeated = pixels.repeat_interleave(batch.query_question.shape[1], 0)
    out = model(**tokens, pixel_values=repeated, output_hidden_states=True)
    real = tokens["attention_mask"].bool()
    logits = out.logits[real][answer_places(case, batch)]
    states = [state[real] for state in out.hidden_states]
    result = dict(
        features=image.last_hidden_state,
        image_tokens=image.pooler_output,
        inputs=states[0],
        middle=states[c.depth // 2],
        hidden=states[-1],
        logits=logits,
    )
    return finish(result, model, batch, c)


def finish(result: dict, model: torch.nn.Module, batch: TrainBatch, c) -> dict:
    """Adds the first answers' log-probabilities, the loss and its gradient."""
    log_probs = torch.log_softmax(result["logits"], -1)
    targets = torch.tensor(batch.answer_tokens[batch.answer_mask])
    loss = -log_probs[torch.arange(len(targets)), targets].mean()
    loss.backward()
    counts = batch.answer_mask.sum(-1).ravel()
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shape = (*batch.query_question.shape, c.vocab_size)
    result |= dict(first_log_probs=log_probs[first].reshape(shape), loss=loss)
    result = {name: x.detach().numpy() for name, x in result.items()}
    gradient = {
        name.removeprefix("paligemma."): p.grad for name, p in model.named_parameters()
    }
    actions = {}
    if "action_projector.weight" in gradient:
        actions["action/kernel"] = gradient.pop("action_projector.weight").T
        actions["action/bias"] = gradient.pop("action_projector.bias")
    gradient = {**to_tree(gradient, c), **actions}
    result["gradient"] = {name: g.numpy() for name, g in gradient.items()}
    return result
