"""The board with PaliGemma 3B: the paper's settings, from one accelerator to a pod.

board_3b.py              the `branched` layout, 16 queries per image
board_3b.py:full         the published layout, one question per sequence
board_3b.py:lora         adapters on both towers, for a single GPU
board_3b.py:debug        a few steps of a tiny model with the same rules, for tests

Settings of "Semantic World Models" (arXiv 2510.19818): AdamW at 1e-5 with linear decay,
batches of 96, all weights trained, float32 parameters, bfloat16 products, unscaled
actions, 64,000 steps. Weight decay 0, clipping at 1 and no warm-up are not in the paper
but from a reproduction. The paper's batch of 96 has one question per sequence; ours has
16 queries for each of 96 images.

Training needs the parameters of `init_from` (PaliGemma's `.npz` or a Hugging Face
folder, see docs/checkpoints.md), its tokenizer, and the data set:

    python -m data_pipelines.generate --config experiments/generate_board.py:paper \\
        --output data/board_paper
"""

import ml_collections

from data_pipelines.batches.config import Data
from swm_jax.choices import known
from swm_jax.training import Experiment, Model
from swm_jax.training.experiment import MeshShape, PlannerChoice
from swm_jax.training.finetune import Finetune
from swm_jax.training.optimizer import Optimizer

ARGS = ("branched", "full", "lora", "debug", "full_debug")
CHECKPOINT = "checkpoints/paligemma-3b-pt-224"
ADAPTERS = (
    "(llm/layers/(attn|mlp)/.*|img/(Transformer|head)/.*)",
    {"rank": 16, "alpha": 16.0},
)


def get_config(arg: str = "branched") -> ml_collections.ConfigDict:
    """Config of a variant; raises a ValueError for unknown names."""
    arg = known("variant of board_3b.py", arg or ARGS[0], ARGS)
    config = settings(arg)
    config.name = "board_3b"
    config.model.overrides.update({"max_horizon": 60, "action_size": 2})
    config.data.dir = "data/board_paper"
    config.data.frame = (180, 320)
    if arg.endswith("debug"):
        shrink(config)
        config.data.dir = "data/board"
    return config


def settings(arg: str) -> ml_collections.ConfigDict:
    """Settings shared by the 3B experiments."""
    full, lora = arg.startswith("full"), arg == "lora"
    return Experiment(
        model=Model(
            "paligemma_3b_224",
            layout="full" if full else "branched",
            tokenizer=CHECKPOINT,  # its tokenizer.model
        ),
        init_from=CHECKPOINT,
        dense_weight=0.0,
        # Float32 parameters, gradients and moments take 44 GB: they are split over up
        # to 16 chips (every wide dimension of both towers divides by 16), batches over
        # all.
        mesh=MeshShape(fsdp="<=16"),
        optimizer=Optimizer(
            "adamw",
            learning_rate=1e-4 if lora else 1e-5,
            warmup_steps=0,
            schedule="linear",
            final_fraction=0.0,
            b2=0.999,
            weight_decay=0.0,
        ),
        finetune=Finetune.from_config({"lora": (ADAPTERS,) if lora else ()}),
        steps=64_000,
        log_every=50,
        validate_every=2000,
        validation_batches=16,
        checkpoint_every=1000,
        data=Data(
            images=96,
            questions=1 if full else 8,
            queries=1 if full else 16,
            answer_eos=True,  # the loss is on the answer and its end
            threads=8,
        ),
        planner=PlannerChoice("mppi_published"),
    ).to_config()


def shrink(config: ml_collections.ConfigDict) -> None:
    """Reduces a config to a tiny model with the same rules; compiles in seconds."""
    config.model.variant, config.model.tokenizer = "tiny", "tiny"
    config.init_from = ""
    config.model.overrides.update(
        {
            "depth": 2,
            "vision_depth": 2,
            "image_size": 48,
            "max_horizon": 16,
            "scan": True,
            "remat": "full",
            "dtype": "bfloat16",
        }
    )
    config.steps, config.log_every, config.validate_every = 6, 1, 6
    config.checkpoint_every, config.validation_batches = 3, 1
    config.data.images, config.data.threads = 4, 1
    config.data.frame = (96, 96)
