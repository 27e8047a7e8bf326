"""The board with the `tiny` model, for laptops; it trains the shipped checkpoint.

board_tiny.py:eyes       the image tower alone, on rendered scenes: where objects are
board_tiny.py:pretrain   the backbone, on rendered scenes at horizon 0: detect objects,
                         describe regions, answer questions about the state shown, and
                         a dense loss on the image patches
board_tiny.py            the semantic world model, on stored episodes
board_tiny.py:branches   the same with object tokens, on 12 chunks per image, from the
                         eyes, whose tower stays as it is
board_tiny.py:device     the same on an accelerator: 20,000 simulated episodes, whose
                         batches are drawn and rendered on the device
board_tiny.py:debug      a few steps of any (`pretrain_debug`, `device_debug`)
"""

import ml_collections

from experiments import generate_board
from swm_jax.choices import known
from swm_jax.training import Experiment
from swm_jax.training.world_model.eyes import EYES, EYES_ALONE

ARGS = (
    *("swm", "eyes", "pretrain", "branches", "device"),
    *("debug", "eyes_debug", "pretrain_debug", "branches_debug", "device_debug"),
)
OBJECTS = {"objects": 9, "object_origin": (0.375, 0.0)}


def get_config(arg: str = "swm") -> ml_collections.ConfigDict:
    """Config of a stage; raises a ValueError for unknown names."""
    arg = known("variant of board_tiny.py", arg or ARGS[0], ARGS)
    config = Experiment(name="board_tiny").to_config()
    if arg.startswith("eyes"):
        config.stage = "eyes"
        config.model.overrides.update(OBJECTS)
        config.steps = 4000
        config.optimizer.learning_rate = 1.5e-3
        config.optimizer.warmup_steps = 100
        config.data.source = "rendered"
        config.data.images = 32
        # The scenes alone: nobody reads questions in this stage.
        rendered = config.data.rendered
        rendered.detections = rendered.descriptions = rendered.present_questions = 1
        config.finetune.schedules = EYES
        config.keep_best.update({"metric": "validation/object_error_mm", "mode": "min"})
    elif arg.startswith("branches"):
        config.model.overrides.update(OBJECTS)
        config.steps = 3000
        config.optimizer.learning_rate = 2e-3
        config.optimizer.warmup_steps = 20
        config.finetune.schedules = ((EYES_ALONE, None), (".*", {}))
        data, generation = config.data, generate_board.get_config("branches")
        if arg.endswith("debug"):
            generation.episodes = generation.episodes_per_shard = 64
        data.source, data.dir = "simulated", "data/board_branches.npz"
        data.simulated.generation = generation
        data.simulated.chunks, data.images, data.questions = 12, 16, 4
        data.queries = 12 * data.simulated.horizons * data.questions
        config.validation_batches = 16
    elif arg.startswith("pretrain"):
        config.stage = "pretrain"
        config.steps = 1500
        config.optimizer.schedule = "constant"  # the next stage decays
        config.data.source = "rendered"
    else:
        config.data.rendered_every = 4  # every fourth step, against forgetting of names
    if arg.startswith("device"):
        size = "debug" if arg.endswith("debug") else "large"
        config.steps = 20_000
        config.data.source = "simulated"
        config.data.dir = "data/board_poses.npz"  # generated if it does not exist
        config.data.simulated.generation = generate_board.get_config(size)
        config.data.images = 64
        config.data.rendered.images = 16
    if arg.endswith("debug"):
        shrink(config)
    return config


def shrink(config: ml_collections.ConfigDict) -> None:
    """Reduces a config to a few steps of a model that compiles in seconds."""
    config.steps, config.log_every, config.validate_every = 6, 1, 6
    config.checkpoint_every, config.validation_batches = 3, 1
    config.data.images = config.data.rendered.images = 4
    config.model.overrides.update({"depth": 1, "vision_depth": 1, "image_size": 48})
    config.optimizer.warmup_steps = 2
