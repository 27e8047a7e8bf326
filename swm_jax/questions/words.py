"""Parsing of questions, and the text corpus and vocabulary of languages."""

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from swm_jax.choices import known
from swm_jax.questions.types import LETTERS, YES_NO, Arg, QuestionType


def read(
    text: str, types: tuple[QuestionType, ...]
) -> tuple[QuestionType, list[str], int]:
    """Parses a question text into type, words of the arguments and wording index.

    Raises:
      ValueError: no wording matches; the message has the unknown word or the nearest
        wording.
    """
    spoken = " ".join(text.lower().replace("?", " ").split())
    for kind, phrasing, pattern in _patterns(types, strict=True):
        if found := pattern.fullmatch(spoken):
            names = [
                next(each for each in arg.names if each.lower() == name)
                for arg, name in zip(kind.args, _in_order(found))
            ]
            return kind, names, phrasing
    for kind, _, pattern in _patterns(types, strict=False):
        if found := pattern.fullmatch(spoken):
            for arg, name in zip(kind.args, _in_order(found)):
                value_of(arg, name, types)  # raises and names what is unknown
    wordings = [wording for kind in types for wording in kind.wordings]
    near = difflib.get_close_matches(text, wordings, 1, 0.3) or wordings
    raise ValueError(f"cannot read the question {text!r}, did you mean {near[0]!r}?")


def value_of(arg: Arg, name: str, types: Iterable[QuestionType] = ()) -> int:
    """Value of an argument's word.

    Args:
      arg: the argument.
      name: one of its names, or of another argument of the same kind.
      types: question types with those other arguments.

    Raises:
      ValueError: an unknown name; suggests the nearest.
    """
    alike = {a.names: None for kind in types for a in kind.args if a.kind == arg.kind}
    tables = {arg.names: None, **alike}
    for names in tables:
        if name in names:
            return names.index(name)
    guess = _word_by_word(name, arg.names)
    if guess is not None:
        raise ValueError(f"unknown {arg.kind} {name!r}, did you mean {guess!r}?")
    known(arg.kind, name, dict.fromkeys(each for names in tables for each in names))
    raise AssertionError("unreachable: the name is in no table")


def corpus(languages: Sequence[Any], types: Sequence[str] = ()) -> list[str]:
    """Text corpus with all words of the languages, for training a tokenizer.

    Each object, region and direction appears in every slot of every wording; pairs of
    names are not enumerated.

    Args:
      languages: `Language`s; the shipped tokenizer was trained on the board's.
      types: names of types in addition to the default ones.

    Raises:
      ValueError: a type of no language.
    """
    names = [kind.name for language in languages for kind in language.types]
    for name in types:
        known("question type", name, names)
    texts, answers = [], dict.fromkeys(YES_NO.answers)
    for language in languages:
        asked = [k for k in language.types if k.by_default or k.name in types]
        for kind in asked:
            answers |= dict.fromkeys(kind.answers.answers)
            for wording in kind.wordings:
                for i in range(len(language.objects)):
                    said = [
                        _ith(arg, i, column, language.objects)
                        for column, arg in enumerate(kind.args)
                    ]
                    texts.append(wording.format(**dict(zip(LETTERS, said))))
    texts += [prompt for language in languages for prompt in language.prompts]
    return [*texts, *answers]


def vocabulary(languages: Sequence[Any], types: Sequence[str] = ()) -> tuple[str, ...]:
    """The distinct words in alphabetical order, "?" among them."""
    text = " ".join(corpus(languages, types)).replace("?", " ?")
    return tuple(sorted(set(text.split())))


def _ith(arg: Arg, i: int, column: int, objects: Sequence[int]) -> str:
    """Name of an argument in the i-th text; the objects of a pair differ."""
    if arg.is_object:
        return arg.names[objects[(i + 7 * column) % len(objects)]]
    return arg.names[i % len(arg.names)]


@functools.cache
def _patterns(types, strict):
    """(type, phrasing, regular expression) of every wording.

    Longer names come first in an alternation ("top left" before "top").
    """
    result = []
    for kind in types:
        for i, wording in enumerate(kind.wordings):
            pattern = wording.lower().rstrip("?")
            for letter, arg in zip(LETTERS, kind.args):
                some = r"[\w-]+ [\w-]+" if arg.is_object else r"[\w-]+(?: [\w-]+)?"
                if strict:
                    names = sorted(arg.names, key=len, reverse=True)
                    some = "|".join(names).lower()
                pattern = pattern.replace(f"{{{letter}}}", f"(?P<{letter}>{some})")
            result.append((kind, i, re.compile(pattern)))
    return result


def _in_order(found: re.Match) -> list[str]:
    names = found.groupdict()
    return [names[letter] for letter in LETTERS if letter in names]


def _word_by_word(name: str, names: Sequence[str]) -> str | None:
    """Nearest name, matched word by word: "red mon" -> "red moon"."""
    spoken = name.split()
    alike = [each.split() for each in names if len(each.split()) == len(spoken)]
    if len(spoken) < 2 or not alike:
        return None
    near = [
        (difflib.get_close_matches(word, column, 1, 0.5) or [word])[0]
        for word, column in zip(spoken, zip(*alike))
    ]
    guess = " ".join(near)
    return guess if guess in names else None
