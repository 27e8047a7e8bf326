"""Names, shapes and constants of the published sizes against `transformers`.

Models are built without memory, on PyTorch's meta device.
"""

import jax
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from parity_cases import leaves
from torch_mapping import to_tree
from torch_paligemma import torch_config
from transformers import Gemma2Config, GemmaConfig, PaliGemmaForConditionalGeneration

from swm_jax.models import VARIANTS, SemanticWorldModel, get_config

pytestmark = pytest.mark.parity
PUBLISHED = [name for name in VARIANTS if name.startswith("paligemma")]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_every_tensor_has_its_place(variant):
    config = get_config(variant)
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(torch_config(config))
    theirs = to_tree(model.state_dict(), config)
    tree = jax.eval_shape(SemanticWorldModel(config).init_params, jax.random.key(0))
    ours = {k: v.shape for k, v in leaves(tree).items() if not k.startswith("action")}
    assert ours == {k: tuple(v.shape) for k, v in theirs.items()}


def test_gemma_2_2b_is_what_transformers_takes_for_granted():
    c, theirs = get_config("paligemma2_3b_224"), Gemma2Config()
    assert theirs.sliding_window == 4096
    ours = torch_config(c, vocab_size=theirs.vocab_size).text_config
    for field in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "hidden_activation",
        "rms_norm_eps",
        "rope_parameters",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field


def test_gemma_1_has_neither_caps_nor_a_window():
    text = torch_config(get_config("paligemma_3b_224")).text_config
    assert isinstance(text, GemmaConfig)
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        assert getattr(text, field, None) is None
    assert getattr(text, "sliding_window", None) is None
