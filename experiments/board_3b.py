"""The board with PaliGemma 3B: the paper's settings, from one accelerator to a pod.

board_3b.py              the `branched` layout, 16 queries per image
board_3b.py:full         the published layout, one question per sequence
board_3b.py:lora         adapters on both towers, for a single GPU
board_3b.py:debug        a few steps of a tiny model with the same rules, for tests

Settings of "Semantic World Models" (arXiv 2510.19818): AdamW at 1e-5 with linear decay,
batches of 96, all weights trained, float32 parameters, bfloat16 products, actions as
they are. Weight decay 0, clipping at 1 and no warm-up are not in the paper; we take
them from a reproduction. The paper's batch of 96 holds one question per sequence; ours
asks 16 of the same image and actions, 64,000 steps of it as there.

Before the first step: the parameters of `init_from` (PaliGemma's `.npz` or a Hugging
Face folder, see docs/checkpoints.md), its tokenizer, and the data set:

    python -m data_pipelines.generate --config experiments/generate_board.py:paper \\
        --output data/board_paper
"""

import difflib

import ml_collections

from experiments import board_tiny

ARGS = ("branched", "full", "lora", "debug", "full_debug")
MAX_HORIZON = 60


def get_config(arg: str = "branched") -> ml_collections.ConfigDict:
    """The config of a variant; unknown names are refused."""
    arg = check_arg("board_3b.py", arg)
    config = settings(arg)
    config.name = "board_3b"
    config.model.overrides.update({"max_horizon": MAX_HORIZON, "action_size": 2})
    config.data.dir = "data/board_paper"
    config.world = "board"
    config.data.frame = (180, 320)  # rows and columns; what the AOT tool compiles for
    config.planner = ml_collections.ConfigDict({"name": "mppi_published"})
    if arg.endswith("debug"):
        shrink(config)
        config.data.dir = "data/board"
        config.data.frame = (96, 96)
    return config


def check_arg(file: str, arg: str) -> str:
    """The variant's name, "branched" for an empty one.

    Raises:
      ValueError: no such variant.
    """
    arg = arg or ARGS[0]
    if arg not in ARGS:
        close = difflib.get_close_matches(arg, ARGS, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"{file} has no variant '{arg}'{hint}; known: {', '.join(ARGS)}"
        )
    return arg


def settings(arg: str) -> ml_collections.ConfigDict:
    """What the 3B experiments share; what is not set is as in `board_tiny`."""
    full = arg.startswith("full")
    config = board_tiny.get_config()
    config.model.variant = "paligemma_3b_224"
    config.model.layout = "full" if full else "branched"
    config.model.tokenizer = "checkpoints/paligemma-3b-pt-224"  # its tokenizer.model
    config.init_from = "checkpoints/paligemma-3b-pt-224"
    # Float32 parameters, gradients and moments take 44 GB: they are split over up to
    # 16 chips (every wide dimension of both towers divides by 16), batches over all.
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": "<=16", "tensor": 1})
    config.optimizer.update(
        {
            "name": "adamw",
            "learning_rate": 1e-5,
            "warmup_steps": 0,
            "schedule": "linear",
            "final_fraction": 0.0,
            "b2": 0.999,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
        }
    )
    config.dense_weight = 0.0
    config.steps = 64_000
    config.log_every = 50
    config.validate_every = 2000
    config.validation_batches = 16
    config.checkpoint_every = 1000
    config.data.update(
        {
            "images": 96,
            "questions": 1 if full else 8,
            "queries": 1 if full else 16,
            "answer_eos": True,  # the loss is on the answer and its end
            "rendered_every": 0,
            "threads": 8,
        }
    )
    if arg == "lora":
        config.optimizer.learning_rate = 1e-4
        config.finetune.lora = (
            ("(llm/layers/(attn|mlp)/.*|img/(Transformer|head)/.*)",
             {"rank": 16, "alpha": 16.0}),
        )  # fmt: skip
    return config


def shrink(config: ml_collections.ConfigDict) -> None:
    """The same rules for a model that a test can train: compiles in seconds."""
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
