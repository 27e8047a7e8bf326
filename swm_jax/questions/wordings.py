"""Wordings shared by the question types of all worlds.

    touching("the peg", "the {a}")    "Is the peg touching the {a}?", ...

Letters in braces are a type's arguments (`QuestionType.wordings`).
"""

# Clockwise from up: names of motions ("Did the red moon move up left?") ...
DIRECTIONS = (
    "up", "up right", "right", "down right", "down", "down left", "left", "up left",
)  # fmt: skip
# ... and of places on the board or relative to an object.
SIDES = tuple(d.replace("up", "top").replace("down", "bottom") for d in DIRECTIONS)

Wordings = tuple[str, str, str, str, str]


def touching(one: str, other: str) -> Wordings:
    """Wordings of "is one thing in contact with another?"."""
    return (
        f"Is {one} touching {other}?",
        f"Does {one} touch {other}?",
        f"Are {one} and {other} touching?",
        f"Is {one} in contact with {other}?",
        f"Is {one} next to {other}?",
    )


def closer(one: str, other: str) -> Wordings:
    """Wordings of "is one thing closer to another than before?"."""
    return (
        f"Did {one} get closer to {other}?",
        f"Did {one} come closer to {other}?",
        f"Did {one} approach {other}?",
        f"Is {one} closer to {other}?",
        f"Are {one} and {other} closer together?",
    )


def at_side(one: str, other: str, side: str) -> Wordings:
    """Wordings of "is one thing on a side of another?"."""
    return (
        f"Is {one} on the {side} side of {other}?",
        f"Does {one} lie on the {side} side of {other}?",
        f"Is {one} at the {side} of {other}?",
        f"Is {one} to the {side} of {other}?",
        f"Is the {side} side of {other} where {one} is?",
    )


def moved(one: str) -> Wordings:
    """Wordings of "has a thing moved?"."""
    return (
        f"Did {one} move?",
        f"Was {one} moved?",
        f"Has {one} moved?",
        f"Did {one} change place?",
        f"Is {one} in another place?",
    )


def pushed(one: str, way: str) -> Wordings:
    """Wordings of "did a thing move in a direction?"."""
    return (
        f"Did {one} move {way}?",
        f"Was {one} moved {way}?",
        f"Has {one} moved {way}?",
        f"Did {one} go {way}?",
        f"Did {one} get pushed {way}?",
    )


def how_far(one: str, other: str) -> Wordings:
    """Wordings of "how far apart are two things?"."""
    return (
        f"How far is {one} from {other}?",
        f"How far apart are {one} and {other}?",
        f"How far from {other} is {one}?",
        f"How far away is {one} from {other}?",
        f"How far does {one} lie from {other}?",
    )
