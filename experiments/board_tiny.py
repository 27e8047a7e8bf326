"""The board with the `tiny` model: a laptop's experiment, and what ships.

board_tiny.py:pretrain   the backbone, on rendered scenes without any action:
                         detect objects, describe regions, answer about the
                         present, and a dense loss on the image patches
board_tiny.py            the semantic world model, on stored episodes
board_tiny.py:device     the same on an accelerator: 20,000 simulated episodes, whose
                         batches are drawn and rendered on the device
board_tiny.py:debug      a few steps of any (`pretrain_debug`, `device_debug`)
"""

import difflib

import ml_collections

from experiments import generate_board

ARGS = ("swm", "pretrain", "device", "debug", "pretrain_debug", "device_debug")


def get_config(arg: str = "swm") -> ml_collections.ConfigDict:
    """The config of a stage; unknown names are refused."""
    arg = arg or "swm"
    if arg not in ARGS:
        close = difflib.get_close_matches(arg, ARGS, 1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(
            f"board_tiny.py has no variant '{arg}'{hint}; known: {', '.join(ARGS)}"
        )
    pretrain = arg.startswith("pretrain")
    config = ml_collections.ConfigDict()
    config.name = "board_tiny"
    config.stage = "pretrain" if pretrain else "swm"
    config.seed = 0
    config.model = ml_collections.ConfigDict(
        {"variant": "tiny", "layout": "branched", "tokenizer": "tiny"}
    )
    config.model.overrides = ml_collections.ConfigDict()  # fields of ModelConfig
    config.init_from = ""  # a checkpoint whose parameters are the start
    # Axes data, fsdp, tensor, and where parameters lie: swm_jax/training/sharding.py.
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.sharding = ()  # (regex, rule) pairs before the default ones
    config.accumulate = 1  # parts of a batch, one after the other
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "muon",
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "schedule": "cosine",
            "final_fraction": 0.05,
            "b1": 0.9,
            "b2": 0.98,
            "weight_decay": 1e-4,
            "clip_norm": 1.0,
        }
    )
    if pretrain:
        config.optimizer.schedule = "constant"  # the next stage decays
    # Parts at their own pace or frozen, adapters: see swm_jax/training/finetune.py.
    config.finetune = ml_collections.ConfigDict({"schedules": (), "lora": ()})
    config.dense_weight = 1.0
    config.steps = 1500 if pretrain else 8000
    config.log_every = 20
    config.validate_every = 200
    config.validation_batches = 8
    config.checkpoint_every = 200
    config.keep_checkpoints = 2  # the newest, and beside them the best
    config.keep_best = ml_collections.ConfigDict(
        {"metric": "validation/accuracy", "mode": "max", "count": 1}
    )
    config.save_timeout = 1200  # seconds until a save that is not complete has failed
    config.on_nan = "stop"  # or "skip": steps without a finite loss change nothing
    config.data = _rendered() if pretrain else _episodes()
    if arg.startswith("device"):
        config.data.update(_simulated("debug" if arg.endswith("debug") else "large"))
        config.data.images, config.steps = 64, 20_000
    if arg.endswith("debug"):
        config.steps, config.log_every, config.validate_every = 6, 1, 6
        config.checkpoint_every, config.validation_batches = 3, 1
        config.data.images = 4
        if not pretrain:
            config.data.rendered.images = 4
        config.model.overrides.update(
            {"depth": 1, "vision_depth": 1, "image_size": 48}  # compiles in seconds
        )
        config.optimizer.warmup_steps = 2
    return config


def _rendered() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "source": "rendered",
            "block_set": "standard",
            "images": 16,
            "detections": 9,  # queries per image: where is each object?
            "descriptions": 3,  # what is in a region?
            "present_questions": 12,
            "location_bins": 32,
            "supersample": 2,
        }
    )


def _simulated(size: str) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "source": "simulated",
            "dir": "data/board_poses.npz",  # made if it is not there
            "simulate": generate_board.get_config(size),
            "supersample": 2,
        }
    )


def _episodes() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "source": "episodes",
            "dir": "data/board",
            "images": 16,
            "questions": 12,
            "queries": 72,  # several horizons a question; an answer is one token
            "rendered_every": 4,  # of four steps, one keeps names bound to places
            "rendered": _rendered(),
        }
    )
