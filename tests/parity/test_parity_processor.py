"""Pixels and token ids against `transformers`' PaliGemma processor."""

import io

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import sentencepiece
from transformers import GemmaTokenizer, PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import (
    SiglipImageProcessorPil,
)

from swm_jax.models import Tokenizer, preprocess_image

pytestmark = pytest.mark.parity
SIZE, IMAGE_TOKENS = 28, 4
PROMPTS = (
    "is the red moon touching the blue cube?",
    "is the gripper closer to the red cube after these actions?",
    "",
    "two  spaces and a space behind ",
    "naïve ☂ bytes",
    "detect <loc0012> ; <seg007>moon",
)


SYMBOLS = [
    "<mask>",
    "\n",
    *(f"<loc{i:04d}>" for i in range(1024)),
    *(f"<seg{i:03d}>" for i in range(128)),
]


def sentencepiece_model() -> bytes:
    """A small model with the conventions of PaliGemma's.

    pad 0, eos 1, bos 2, unk 3; byte-pair encoding that falls back to bytes; no space
    put in front; newline, places and segments as symbols that nothing merges with.
    """
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS[:4] * 20),
        model_writer=written,
        model_type="bpe",
        vocab_size=1550,
        hard_vocab_limit=False,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=SYMBOLS,
        minloglevel=2,
    )
    return written.getvalue()


def as_gemma_tokenizer(model: bytes) -> GemmaTokenizer:
    """The same vocabulary as merges, best first, which is how `transformers` has it."""
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(model)
    count = pieces.GetPieceSize()
    vocab = {pieces.IdToPiece(i): i for i in range(count)}
    # Special pieces and bytes are not merged from others.
    special = {*SYMBOLS, *(p for p in vocab if p.startswith("<") and p.endswith(">"))}
    learnt = [i for piece, i in vocab.items() if piece not in special]
    merges = [
        (piece[:cut], piece[cut:])
        for i in sorted(learnt, key=lambda i: -pieces.GetScore(i))
        for piece in [pieces.IdToPiece(i)]
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    return GemmaTokenizer(vocab=vocab, merges=merges)


@pytest.fixture(scope="module")
def tokenizers():
    model = sentencepiece_model()
    images = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    images.image_seq_length = IMAGE_TOKENS
    processor = PaliGemmaProcessor(
        image_processor=images, tokenizer=as_gemma_tokenizer(model)
    )
    return Tokenizer(model), processor


@pytest.mark.parametrize("shape", [(28, 28), (180, 320), (31, 50), (13, 70), (224, 28)])
def test_pixels_are_those_of_the_processor(shape, tokenizers):
    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)
    image[: shape[0] // 2, ::2] = 255  # edges that the cubic filter overshoots
    _, processor = tokenizers
    theirs = processor(images=image, text="<image>", return_tensors="np")
    theirs = np.moveaxis(theirs["pixel_values"][0], 0, -1)
    ours = np.asarray(preprocess_image(image, SIZE, "bicubic"))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    level = lambda x: np.rint((x + 1) * 127.5).astype(int)
    np.testing.assert_array_equal(level(ours), level(theirs))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_have_the_token_ids_of_the_processor(prompt, tokenizers):
    ours, processor = tokenizers
    theirs = processor(
        images=np.zeros((SIZE, SIZE, 3), np.uint8), text=f"<image>{prompt}"
    )
    ids = [ours.bos_id, *ours.encode(prompt), ours.newline_id]
    expected = [processor.image_token_id] * IMAGE_TOKENS + ids
    assert np.ravel(theirs["input_ids"]).tolist() == expected


def test_newline_is_one_token_of_its_own_and_answers_end_with_eos(tokenizers):
    ours, processor = tokenizers
    ids = processor.tokenizer("cube?\n")["input_ids"]
    assert ids[-1] == ours.newline_id
    assert ours.encode("cube?") == [i for i in ids[:-1] if i != ours.bos_id]
    theirs = processor(
        images=np.zeros((SIZE, SIZE, 3), np.uint8), text="<image>is", suffix="blue cube"
    )
    answer = [*ours.encode("blue cube"), ours.eos_id]
    assert np.ravel(theirs["input_ids"]).tolist()[-len(answer) :] == answer
    types = np.ravel(theirs["token_type_ids"])
    assert types.sum() == len(answer)  # the answer alone is causal
