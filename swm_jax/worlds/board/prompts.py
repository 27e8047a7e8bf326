"""Prompts of the pre-training stage; answers are location tokens or names."""

from swm_jax.choices import known
from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.board.words import REGIONS

OBJECT_NAMES = (*BLOCK_NAMES, "peg")
DESCRIBE = "describe the scene"
NOTHING = "nothing"  # what lies in an empty region


def detection_prompt(name: str | int) -> str:
    """ "detect the red moon"; `name` may be an index into `OBJECT_NAMES`."""
    name = name if isinstance(name, str) else OBJECT_NAMES[name]
    return f"detect the {known('object', name, OBJECT_NAMES)}"


def region_prompt(region: str | int) -> str:
    """ "describe the top left of the board"; may be an index into `REGIONS`."""
    name = region if isinstance(region, str) else REGIONS[region]
    return f"describe the {known('region', name, REGIONS)} of the board"


PROMPTS = (
    *map(detection_prompt, OBJECT_NAMES),
    *map(region_prompt, REGIONS),
    DESCRIBE,
    NOTHING,
)
