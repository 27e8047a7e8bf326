"""Wordings of the cube arm's question types; {a} and {b} are cubes.

All are ours; the first of a type is the canonical one.
"""

CUBE_PHRASINGS: dict[str, tuple[str, ...]] = {
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
