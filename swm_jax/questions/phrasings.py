"""All wordings of the question types.

All are ours, in at most 14 words; the first of a type is the canonical one. In braces:
{a} and {b} blocks or cubes, {r} a region, {s} the side of something, {d} the direction
of a motion.
"""

PHRASINGS: dict[str, tuple[str, ...]] = {
    "block_touching": (
        "Is the {a} touching the {b}?",
        "Does the {a} touch the {b}?",
        "Are the {a} and the {b} touching?",
        "Is the {a} in contact with the {b}?",
        "Is the {a} next to the {b}?",
    ),
    "peg_touching": (
        "Is the peg touching the {a}?",
        "Does the peg touch the {a}?",
        "Are the peg and the {a} touching?",
        "Is the peg in contact with the {a}?",
        "Is the peg next to the {a}?",
    ),
    "block_region": (
        "Is the {a} in the {r} of the board?",
        "Is the {a} at the {r} of the board?",
        "Is the {a} near the {r} of the board?",
        "Does the {a} lie in the {r} of the board?",
        "Is the {r} of the board where the {a} is?",
    ),
    "block_direction": (
        "Is the {a} on the {s} side of the {b}?",
        "Does the {a} lie on the {s} side of the {b}?",
        "Is the {a} at the {s} of the {b}?",
        "Is the {a} to the {s} of the {b}?",
        "Is the {s} side of the {b} where the {a} is?",
    ),
    "blocks_closer": (
        "Did the {a} get closer to the {b}?",
        "Did the {a} come closer to the {b}?",
        "Did the {a} approach the {b}?",
        "Is the {a} closer to the {b}?",
        "Are the {a} and the {b} closer together?",
    ),
    "peg_closer": (
        "Did the peg get closer to the {a}?",
        "Did the peg come closer to the {a}?",
        "Did the peg approach the {a}?",
        "Is the peg closer to the {a}?",
        "Are the peg and the {a} closer together?",
    ),
    "block_moved": (
        "Did the {a} move?",
        "Was the {a} moved?",
        "Has the {a} moved?",
        "Did the {a} change place?",
        "Is the {a} in another place?",
    ),
    "block_moved_direction": (
        "Did the {a} move {d}?",
        "Was the {a} moved {d}?",
        "Has the {a} moved {d}?",
        "Did the {a} go {d}?",
        "Did the {a} get pushed {d}?",
    ),
    "peg_moved_direction": (
        "Did the peg move {d}?",
        "Was the peg moved {d}?",
        "Has the peg moved {d}?",
        "Did the peg go {d}?",
        "Did the peg travel {d}?",
    ),
    "peg_direction": (
        "Is the peg on the {s} side of the {a}?",
        "Does the peg lie on the {s} side of the {a}?",
        "Is the peg at the {s} of the {a}?",
        "Is the peg to the {s} of the {a}?",
        "Is the {s} side of the {a} where the peg is?",
    ),
    "peg_moved": (
        "Did the peg move?",
        "Was the peg moved?",
        "Has the peg moved?",
        "Did the peg change place?",
        "Is the peg in another place?",
    ),
    "blocks_apart": (
        "Is the {a} far from the {b}?",
        "Does the {a} lie far from the {b}?",
        "Are the {a} and the {b} far apart?",
        "Is the {a} apart from the {b}?",
        "Are the {a} and the {b} apart?",
    ),
    # The cube arm.
    "cube_grasped": (
        "Is the {a} grasped?",
        "Is the {a} held by the gripper?",
        "Does the gripper hold the {a}?",
        "Is the gripper holding the {a}?",
        "Has the gripper grasped the {a}?",
    ),
    "gripper_touching": (
        "Is the gripper touching the {a}?",
        "Does the gripper touch the {a}?",
        "Are the gripper and the {a} touching?",
        "Is the gripper in contact with the {a}?",
        "Is a finger of the gripper touching the {a}?",
    ),
    "cubes_touching": (
        "Is the {a} touching the {b}?",
        "Does the {a} touch the {b}?",
        "Are the {a} and the {b} touching?",
        "Is the {a} in contact with the {b}?",
        "Is the {a} next to the {b}?",
    ),
    "cube_on_top": (
        "Is the {a} on top of the {b}?",
        "Does the {a} lie on top of the {b}?",
        "Is the {a} stacked on the {b}?",
        "Is the {b} under the {a}?",
        "Does the {a} rest on the {b}?",
    ),
    "gripper_closer": (
        "Did the gripper get closer to the {a}?",
        "Did the gripper come closer to the {a}?",
        "Did the gripper approach the {a}?",
        "Is the gripper closer to the {a}?",
        "Are the gripper and the {a} closer together?",
    ),
    "cubes_closer": (
        "Did the {a} get closer to the {b}?",
        "Did the {a} come closer to the {b}?",
        "Did the {a} approach the {b}?",
        "Is the {a} closer to the {b}?",
        "Are the {a} and the {b} closer together?",
    ),
    "cube_lifted": (
        "Is the {a} lifted?",
        "Is the {a} in the air?",
        "Has the {a} been lifted?",
        "Is the {a} above the table?",
        "Does the {a} hang above the table?",
    ),
}
