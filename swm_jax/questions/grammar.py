"""The language of questions: types, arguments, phrasings; print and parse.

Every wording is ours; the first phrasing of a type is the canonical one, and all are
at most 14 words, so that 16 tokens hold any question. A planner's goals are made of
the same `Question` objects as the training data, so a goal cannot be worded in a way
that training never saw.

Arguments (`args`, -1 where unused): blocks index `BLOCK_NAMES`, regions `REGIONS`,
directions `DIRECTIONS`.

    block_touching, blocks_closer,
    blocks_apart                              (block a, block b)
    peg_touching, peg_closer, block_moved     (block a, -1)
    block_region                              (block a, region)
    block_direction: a on side d of b         (block a, block b * 8 + direction d)
    block_moved_direction, peg_direction      (block a, direction)
    peg_moved_direction                       (-1, direction)
    peg_moved                                 (-1, -1)
    cube_grasped, gripper_touching,
    gripper_closer, cube_lifted               (cube a, -1)
    cubes_touching, cubes_closer,
    cube_on_top: a on top of b                (cube a, cube b)

A type belongs to a domain, the board or the cube arm. Some wordings serve both
("Is the blue cube touching the green cube?"): which is meant is said by the picture,
and `parse` is told.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Iterator

from swm_jax.envs.scene import BLOCK_NAMES, COLOURS, SHAPES
from swm_jax.questions.board_words import DIRECTIONS, REGIONS, SIDES
from swm_jax.questions.phrasings import PHRASINGS
from swm_jax.questions.predicates import (
    ALL_TYPES,
    DOMAINS,
    USES_A,
    USES_B,
    domain_of,
)

ANSWERS = ("no", "yes")  # the index of an answer is its truth value

NEEDS_SECOND = {  # what the second argument counts: its number of values
    "block_region": len(REGIONS),
    "block_direction": len(BLOCK_NAMES) * len(DIRECTIONS),
    "block_moved_direction": len(DIRECTIONS),
    "peg_moved_direction": len(DIRECTIONS),
    "peg_direction": len(DIRECTIONS),
    "block_touching": len(BLOCK_NAMES),
    "blocks_closer": len(BLOCK_NAMES),
    "blocks_apart": len(BLOCK_NAMES),
    "cubes_touching": len(BLOCK_NAMES),
    "cubes_closer": len(BLOCK_NAMES),
    "cube_on_top": len(BLOCK_NAMES),
}

NUM_PHRASINGS = min(len(forms) for forms in PHRASINGS.values())  # every type has these

# Prompts of the pre-training stage; answers are location tokens or names.
OBJECT_NAMES = (*BLOCK_NAMES, "peg")
DESCRIBE = "describe the scene"
NOTHING = "nothing"  # what lies in an empty region


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a scene, as a program and as words.

    Attributes:
      type: one of `ALL_TYPES`.
      args: as in the table at the top of this file.
      phrasing: index into `PHRASINGS[type]`, 0 is the canonical wording.
    """

    type: str
    args: tuple[int, int]
    phrasing: int = 0

    def __post_init__(self):
        if self.type not in ALL_TYPES:
            near = _did_you_mean(self.type, ALL_TYPES)
            raise ValueError(f"unknown question type {self.type!r}{near}")
        object.__setattr__(self, "args", tuple(int(x) for x in self.args))
        object.__setattr__(self, "phrasing", int(self.phrasing))
        first, second = self.args
        blocks = range(len(BLOCK_NAMES)) if USES_A[self.type_id] else (-1,)
        seconds = range(NEEDS_SECOND[self.type]) if self.type in NEEDS_SECOND else (-1,)
        if first not in blocks or second not in seconds:
            raise ValueError(
                f"{self.type} takes arguments in ({_span(blocks)}, {_span(seconds)}), "
                f"got {self.args}"
            )
        if len(set(self.blocks)) < len(self.blocks):
            raise ValueError(
                f"{self.type} compares two blocks, got {BLOCK_NAMES[first]!r} twice"
            )
        if self.phrasing not in range(len(PHRASINGS[self.type])):
            raise ValueError(
                f"{self.type} has {len(PHRASINGS[self.type])} phrasings, "
                f"got phrasing {self.phrasing}"
            )

    @property
    def type_id(self) -> int:
        """Index of the type in `ALL_TYPES`."""
        return ALL_TYPES.index(self.type)

    @property
    def domain(self) -> str:
        """The domain the question is about, "board" or "cube"."""
        return domain_of(self.type)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Ids of the blocks that the question names."""
        first, second = self.args
        if not USES_A[self.type_id]:
            return ()
        if not USES_B[self.type_id]:
            return (first,)
        return first, second // 8 if self.type == "block_direction" else second

    @property
    def text(self) -> str:
        """The question in words."""
        index = self.args[1] % 8 if self.type == "block_direction" else self.args[1]
        words = dict(zip("ab", (BLOCK_NAMES[i] for i in self.blocks)))
        if self.type == "block_region":
            words["r"] = REGIONS[index]
        elif "direction" in self.type:
            words["d"], words["s"] = DIRECTIONS[index], SIDES[index]
        return PHRASINGS[self.type][self.phrasing].format(**words)


def question(
    type: str,
    *names: str,
    phrasing: int = 0,
    on_board: Iterable[int] | None = None,
) -> Question:
    """Builds a question from names, in the order of the arguments.

    `question("block_direction", "red moon", "blue cube", "up left")`; directions may
    be called "up left" or "top left".

    Args:
      type: one of `ALL_TYPES`.
      *names: blocks, then the region or direction.
      phrasing: index of the wording.
      on_board: ids of the blocks on the table, to refuse questions about others.

    Raises:
      ValueError: an unknown type or name (with the nearest known one), the wrong
        number of names, or a block that is not on the board.
    """
    if type not in ALL_TYPES:
        near = _did_you_mean(type, ALL_TYPES)
        raise ValueError(f"unknown question type {type!r}{near}")
    type_id = ALL_TYPES.index(type)
    kinds = ["block"] * (USES_A[type_id] + USES_B[type_id])
    kinds += ["region"] * (type == "block_region") + ["direction"] * (
        "direction" in type
    )
    if len(names) != len(kinds):
        raise ValueError(
            f"{type} takes {len(kinds)} names ({', '.join(kinds) or 'none'}), "
            f"got {list(names)}"
        )
    values = [_lookup(kind, name) for kind, name in zip(kinds, names)]
    if type == "block_direction":
        args = (values[0], values[1] * 8 + values[2])
    elif not USES_A[type_id]:
        args = (-1, *values, -1)[:2]
    else:
        args = (*values, -1)[:2]
    result = Question(type, args, phrasing)
    if on_board is not None:
        check_on_board(result, on_board)
    return result


def check_on_board(question: Question, block_ids: Iterable[int]) -> None:
    """Raises a ValueError naming the first block that is not among `block_ids`."""
    block_ids = [int(i) for i in block_ids]
    for block in question.blocks:
        if block not in block_ids:
            raise ValueError(
                f"{question.text!r} asks about the {BLOCK_NAMES[block]}, which is not "
                f"on the board: {', '.join(BLOCK_NAMES[i] for i in block_ids)}"
            )


def parse(text: str, domain: str = "board") -> Question:
    """The question that `text` prints: the inverse of `Question.text`.

    Case, spaces and the question mark do not matter.

    Args:
      text: the words.
      domain: what it is asked about, a key of `DOMAINS`.

    Raises:
      ValueError: no phrasing fits; names the unknown block or the nearest wording.
    """
    check_domain(domain)
    words = " ".join(text.lower().replace("?", " ").split())
    for type, phrasing, pattern in _patterns(domain, strict=True):
        if found := pattern.fullmatch(words):
            return question(type, *_ordered(found), phrasing=phrasing)
    for _, _, pattern in _patterns(domain, strict=False):
        if found := pattern.fullmatch(words):
            for key, name in found.groupdict().items():
                _lookup(_KINDS[key], name)  # raises and names what is unknown
    forms = [form for type in DOMAINS[domain] for form in PHRASINGS[type]]
    near = difflib.get_close_matches(text, forms, 1, 0.3) or forms
    raise ValueError(f"cannot read the question {text!r}, did you mean {near[0]!r}?")


def check_domain(domain: str) -> None:
    """Raises a ValueError unless `domain` is a key of `DOMAINS`."""
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}{_did_you_mean(domain, DOMAINS)}")


def phrasings(question: Question) -> tuple[Question, ...]:
    """The same question in every wording."""
    count = len(PHRASINGS[question.type])
    return tuple(dataclasses.replace(question, phrasing=i) for i in range(count))


def detection_prompt(name: str | int) -> str:
    """ "detect the red moon"; `name` may be an index into `OBJECT_NAMES`."""
    name = name if isinstance(name, str) else OBJECT_NAMES[name]
    if name not in OBJECT_NAMES:
        raise ValueError(f"unknown object {name!r}{_did_you_mean(name, OBJECT_NAMES)}")
    return f"detect the {name}"


def region_prompt(region: str | int) -> str:
    """ "describe the top left of the board"; may be an index into `REGIONS`."""
    index = _lookup("region", region) if isinstance(region, str) else region
    return f"describe the {REGIONS[index]} of the board"


def corpus(domains: Iterable[str] = ("board",)) -> Iterator[str]:
    """Every wording with every name that fits it once: all words of the language.

    Enough to train a tokenizer on; pairs of names are not enumerated, each block,
    region and direction appears in every slot of every phrasing.

    Args:
      domains: keys of `DOMAINS`. The board's alone is what the shipped tokenizer
        was trained on.
    """
    from swm_jax.worlds.cube.scene import CUBES

    domains = tuple(domains)
    for domain in domains:
        check_domain(domain)
    for domain, type in ((d, type) for d in domains for type in DOMAINS[d]):
        blocks = [BLOCK_NAMES[i] for i in CUBES] if domain == "cube" else BLOCK_NAMES
        for form in PHRASINGS[type]:
            for i in range(len(blocks)):
                yield form.format(
                    a=blocks[i],
                    b=blocks[(i + 7) % len(blocks)],
                    r=REGIONS[i % len(REGIONS)],
                    s=SIDES[i % len(SIDES)],
                    d=DIRECTIONS[i % len(DIRECTIONS)],
                )
    if "board" in domains:
        yield from map(detection_prompt, OBJECT_NAMES)
        yield from map(region_prompt, REGIONS)
        yield DESCRIBE
        yield NOTHING
    yield from ANSWERS


def vocabulary(domains: Iterable[str] = ("board",)) -> tuple[str, ...]:
    """The distinct words of the language in alphabetical order, "?" among them."""
    text = " ".join(corpus(domains)).replace("?", " ?")
    return tuple(sorted(set(text.split())))


_KINDS = {"a": "block", "b": "block", "r": "region", "s": "direction", "d": "direction"}
_NAMES = {"a": BLOCK_NAMES, "b": BLOCK_NAMES, "r": REGIONS, "s": SIDES, "d": DIRECTIONS}


@functools.cache
def _patterns(domain, strict):
    """(type, phrasing, regular expression) of every wording of a domain.

    Longer names come first in an alternation ("top left" before "top").
    """
    result = []
    for type in DOMAINS[domain]:
        for i, form in enumerate(PHRASINGS[type]):
            pattern = form.lower().rstrip("?")
            for key, names in _NAMES.items():
                some = r"[\w-]+ [\w-]+" if key in "ab" else r"[\w-]+(?: [\w-]+)?"
                if strict:
                    some = "|".join(sorted(names, key=len, reverse=True))
                pattern = pattern.replace(f"{{{key}}}", f"(?P<{key}>{some})")
            result.append((type, i, re.compile(pattern)))
    return result


def _ordered(found):
    names = found.groupdict()
    return [names[key] for key in "abrsd" if key in names]


def _lookup(kind, name):
    tables = {
        "block": (BLOCK_NAMES,),
        "region": (REGIONS,),
        "direction": (DIRECTIONS, SIDES),
    }[kind]
    for names in tables:
        if name in names:
            return names.index(name)
    if kind == "block" and name.split()[0:1] and len(name.split()) == 2:
        colour, shape = name.split()
        known = (
            difflib.get_close_matches(colour, COLOURS, 1, 0.5) or [colour],
            difflib.get_close_matches(shape, SHAPES, 1, 0.5) or [shape],
        )
        guess = f"{known[0][0]} {known[1][0]}"
        if guess in BLOCK_NAMES:
            raise ValueError(f"unknown block {name!r}, did you mean {guess!r}?")
    names = [n for table in tables for n in table]
    raise ValueError(f"unknown {kind} {name!r}{_did_you_mean(name, names)}")


def _did_you_mean(name, known):
    near = difflib.get_close_matches(name, known, 1, 0.4)
    return f", did you mean {near[0]!r}?" if near else f", known: {', '.join(known)}"


def _span(values):
    return str(values[0]) if len(values) == 1 else f"{values[0]}..{values[-1]}"
