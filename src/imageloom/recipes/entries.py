"""The options of an output in YAML, beside its pipeline and its folder: what they may be, and their schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from imageloom import codecs
from imageloom.errors import PipelineError
from imageloom.recipes import fields, when
from imageloom.recipes.formats import parse_format
from imageloom.recipes.responsive import MOST_WIDTH, MOST_WIDTHS

SUBSAMPLINGS = ("keep", "444", "422", "420")
MOST_EFFORT = 9
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_bytes(given: object) -> int:
    """A number of bytes: a positive whole number, or a text such as 200k or 1.5MB.

    Raises:
        PipelineError: it is neither.
    """
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", str(given).strip().lower())
    number = int(float(found[1]) * _SCALE[found[2]]) if found and isinstance(given, str) else 0
    if number <= 0:
        raise PipelineError(f"{given!r}: it must be a number of bytes, such as 200k or 1.5MB")
    return number


class _Option(NamedTuple):
    read: Callable[[Any], Any]
    """The value of the field of `Output`. Raises a PipelineError without the name of the option."""
    schema: dict[str, Any]


def _whole(least: int, most: int) -> _Option:
    def read(given: Any) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise PipelineError(f"{given!r}: it must be a whole number from {least} to {most}")
        return given

    return _Option(read, {"type": "integer", "minimum": least, "maximum": most})


def _flag(description: str) -> _Option:
    def read(given: Any) -> bool:
        if not isinstance(given, bool):
            raise PipelineError(f"{given!r}: it must be true or false")
        return given

    return _Option(read, {"type": "boolean", "description": description})


def _subsampling(given: Any) -> str:
    if str(given) not in SUBSAMPLINGS:
        raise PipelineError(f"{given!r}: it must be one of {', '.join(SUBSAMPLINGS)}")
    return str(given)


def _condition(given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise PipelineError(f"{given!r}: it must be a condition, such as width > 2000")
    when.parsed(given.strip())
    return given.strip()


def _name(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise PipelineError(f"{given!r}: it must be a name, such as '{{stem}}-{{width}}w.{{ext}}'")
    fields.fields_of(given)
    return given


def _list(given: Any, one: Callable[[Any], Any]) -> tuple[Any, ...]:
    return tuple(map(one, given if isinstance(given, list) else [given]))


_WIDTH = _whole(1, MOST_WIDTH)
_FORMATS = list(codecs.formats())
_OPTIONS: dict[str, _Option] = {
    "format": _Option(lambda given: parse_format(str(given)), {"type": "string", "examples": _FORMATS}),
    "quality": _whole(1, 100),
    "subsampling": _Option(
        _subsampling, {"enum": [*SUBSAMPLINGS, *(int(s) for s in SUBSAMPLINGS if s.isdigit())]}
    ),
    "max_bytes": _Option(
        parse_bytes,
        {
            "type": ["integer", "string"],
            "description": "Lower the quality until the file has at most so many bytes.",
            "examples": ["200k"],
        },
    ),
    "lossless": _flag("Use the lossless encoder of a format that has both."),
    "progressive": _flag("Write JPEGs in several scans."),
    "effort": _Option(
        _whole(1, MOST_EFFORT).read,
        {"type": "integer", "minimum": 1, "maximum": 9, "description": "1: fast; 9: small files."},
    ),
    "only_if_smaller": _flag("Write no file that is not smaller than the input."),
    "when": _Option(
        _condition,
        {
            "type": "string",
            "description": "The output is made only of images for which this holds.",
            "examples": ["width > 2000", "format == png", "portrait"],
        },
    ),
    "name": _Option(
        _name,
        {
            "type": "string",
            "description": "Template of the names of the output.",
            "examples": ["{dir}/{stem}-{width}w.{ext}"],
        },
    ),
    "widths": _Option(
        lambda given: _list(given, _WIDTH.read),
        {
            "type": "array",
            "items": _WIDTH.schema,
            "minItems": 1,
            "maxItems": MOST_WIDTHS,
            "description": "Make an output of each width; images are never enlarged.",
        },
    ),
    "formats": _Option(
        lambda given: _list(given, lambda name: parse_format(str(name))),
        {
            "type": "array",
            "items": {"type": "string", "examples": _FORMATS},
            "minItems": 1,
            "description": "Make an output in each format.",
        },
    ),
}
KEYS = tuple(_OPTIONS)


def read(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an entry. Those that are null are left out.

    Raises:
        PipelineError: one is invalid; the message names it.
    """
    found: dict[str, Any] = {}
    for name, option in _OPTIONS.items():
        if (value := given.get(name)) is None:
            continue
        try:
            found[name] = option.read(value)
        except PipelineError as error:
            message, joined = str(error), " =" if str(error).startswith(repr(value)) else ":"
            raise PipelineError(f"{name}{joined} {message}") from None
    return found


def schemas() -> dict[str, Any]:
    """The JSON Schema of each option."""
    return {name: option.schema for name, option in _OPTIONS.items()}
