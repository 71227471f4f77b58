"""Fields of an item in texts: in the names of outputs, and in the parameters of steps that are texts.

    {stem}                              the name of the item's file without suffix
    {exif.DateTimeOriginal:%Y-%m}       a part of a date: %Y %m %d %H %M %S
    {exif.Model:-unknown}               what to write if the item does not have the field
    {{ and }}                           a brace

A field that the item does not have, without such a default, is an error of the item. In steps, width, height and
format are those of the item; in names, those of the output. A value never adds a folder to a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple

from imageloom import operators
from imageloom.codecs.exifnames import DATES, TAGS
from imageloom.errors import MissingField, PipelineError
from imageloom.model import Recipe, Step

EXIF = tuple(f"exif.{tag}" for tag in TAGS)
OF_ITEMS = ("dir", "stem", "page", "width", "height", "format", *EXIF)
"""The fields in texts of steps."""
OF_NAMES = (*OF_ITEMS, "ext", "hash")
"""The fields in names of outputs."""
OF_DATES = frozenset(f"exif.{name}" for name in DATES)
"""The fields that are dates."""
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD = re.compile(r"([A-Za-z.]+)(?::(%[^{}]*?))?(?::-([^{}]*))?")
_STATED = re.compile(r"(\d{4}):(\d\d):(\d\d)(?: (\d\d):(\d\d):(\d\d))?")
_LETTERS = "YmdHMS"
_UNSAFE = re.compile(r'[/\\:*?"<>|\0]')
"""Characters that become a hyphen in names: they separate folders here, or are not allowed on other systems."""


class Field(NamedTuple):
    """One field in a text."""

    name: str
    date: str
    """How a date is written; empty: as it is."""
    default: str | None


Parts = tuple[str | Field, ...]


@lru_cache(maxsize=256)
def parts(text: str, known: tuple[str, ...]) -> Parts:
    """The text as its constant parts and its fields.

    Raises:
        PipelineError: a field is unknown or not complete; the message names the position.
    """
    found: list[str | Field] = []
    at = 0
    for match in _PART.finditer(text):
        found.append(text[at : match.start()])
        at = match.end()
        if match[0] in ("{{", "}}"):
            found.append(match[0][0])
        elif match[1] is None:
            raise PipelineError(
                f"{text!r}: at character {match.start() + 1}: write {match[0] * 2} for a brace"
            )
        else:
            found.append(_field(text, match[1], match.start() + 1, known))
    return tuple(part for part in (*found, text[at:]) if part != "")


def _field(text: str, inside: str, at: int, known: tuple[str, ...]) -> Field:
    matched = _FIELD.fullmatch(inside)
    name = matched[1] if matched else inside.partition(":")[0]
    where = f"{text!r}: at character {at}"
    if name not in known:
        nearest = get_close_matches(name, known, 1)
        hint = f" (did you mean {{{nearest[0]}}}?)" if nearest else ""
        raise PipelineError(
            f"{where}: unknown field {{{name}}}{hint}; the fields are: {', '.join(f'{{{one}}}' for one in known)}"
        )
    if matched is None:
        raise PipelineError(
            f"{where}: after {{{name} comes ':-' and a default, or ':' and how a date is written, such as :%Y-%m"
        )
    date = matched[2] or ""
    if date and name not in OF_DATES:
        raise PipelineError(f"{where}: {name} is no date, so it has no {date!r}")
    if wrong := set(re.findall(r"%(.?)", date)) - set(_LETTERS):
        raise PipelineError(f"{where}: %{min(wrong)} is none of {' '.join(f'%{c}' for c in _LETTERS)}")
    return Field(name, date, matched[3])


def fields_of(text: str, known: tuple[str, ...] = OF_NAMES) -> frozenset[str]:
    """The names of the fields in a text.

    Raises:
        PipelineError: see `parts`.
    """
    if "{" not in text and "}" not in text:
        return frozenset()
    return frozenset(part.name for part in parts(text, known) if isinstance(part, Field))


def filled(text: str, values: Mapping[str, str], known: tuple[str, ...] = OF_ITEMS) -> str:
    """The text with the values of its fields.

    Raises:
        MissingField: there is no value for a field without a default.
    """
    return "".join(part if isinstance(part, str) else _value(part, values) for part in parts(text, known))


def filled_name(template: str, values: Mapping[str, str]) -> str:
    """The name with the values of its fields. Only {dir} and the template itself have folders.

    Raises:
        MissingField: see `filled`.
    """
    made: list[str] = []
    for part in parts(template, OF_NAMES):
        if isinstance(part, str):
            made.append(part)
            continue
        value = _value(part, values)
        if part.name.startswith("exif.") and not part.date:  # a date's form is a part of the template
            value = value and (_UNSAFE.sub("-", value).strip(" .") or "-")
        made.append(value)
    return "".join(made)


def _value(field: Field, values: Mapping[str, str]) -> str:
    value = values.get(field.name, "")
    if field.date and value:
        stated = _STATED.match(value)
        value = _dated(stated, field.date) if stated else ""
    if value or field.name == "dir":
        return value
    if field.default is None:
        raise MissingField(
            f"it has no {field.name}, which {{{field.name}}} needs: give a default, such as {{{field.name}:-none}}"
        )
    return field.default


def _dated(stated: re.Match[str], form: str) -> str:
    numbers = dict(zip(_LETTERS, stated.groups(default="00"), strict=True))
    return re.sub("%(.)", lambda letter: numbers[letter[1]], form)


def step_fields(step: Step) -> frozenset[str]:
    """The names of the fields in a step's texts.

    Raises:
        PipelineError: a field is unknown.
    """
    names: set[str] = set()
    for name in operators.templates(step.name):
        if isinstance(text := step.params.get(name), str):
            names |= fields_of(text, OF_ITEMS)
    return frozenset(names)


def filled_step(step: Step, values: Mapping[str, str]) -> Step:
    """The step with the values of the fields in its texts.

    Raises:
        MissingField: see `filled`.
    """
    texts = {
        name: filled(text, values)
        for name in operators.templates(step.name)
        if isinstance(text := step.params.get(name), str) and ("{" in text or "}" in text)
    }
    return Step(step.name, {**step.params, **texts}) if texts else step


def needed(recipe: Recipe, templates: Iterable[str] = ()) -> frozenset[str]:
    """The fields that the steps and the names of a recipe need."""
    names: set[str] = set()
    for template in (*templates, *(output.name for output in recipe.outputs)):
        names |= fields_of(template)
    for output in recipe.outputs:
        for step in output.steps:
            names |= step_fields(step)
    return frozenset(names)
