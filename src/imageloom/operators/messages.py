"""Texts about operators and their parameters, for help and error messages."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

_UNLIMITED = 2**53
"""A larger bound is not worth a word."""
MOST_NEAREST = 3
"""Maximum number of names that an error message suggests."""
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "annotate": ("text",),
    "autotrim": ("trim",),
    "awb": ("white_balance",),
    "binarize": ("threshold",),
    "black_and_white": ("grayscale", "threshold"),
    "blur": ("gaussian_blur", "box_blur", "median_blur"),
    "bw": ("grayscale", "threshold"),
    "caption": ("text",),
    "clut": ("lut",),
    "composite": ("overlay",),
    "despeckle": ("median_blur", "denoise"),
    "dilation": ("dilate",),
    "edge": ("canny", "sobel", "laplacian"),
    "edges": ("canny", "sobel", "laplacian"),
    "erosion": ("erode",),
    "extent": ("pad",),
    "flop": ("flip",),
    "frame": ("border", "pad"),
    "gaussian": ("gaussian_blur",),
    "gray": ("grayscale",),
    "grey": ("grayscale",),
    "greyscale": ("grayscale",),
    "hald": ("lut",),
    "hald_clut": ("lut",),
    "hflip": ("flip",),
    "hue_rotate": ("hue",),
    "label": ("text",),
    "logo": ("overlay",),
    "median": ("median_blur",),
    "mirror": ("flip",),
    "modulate": ("brightness", "saturation", "hue"),
    "monochrome": ("grayscale", "threshold"),
    "mosaic": ("pixelate",),
    "negate": ("invert",),
    "negative": ("invert",),
    "nlmeans": ("denoise",),
    "normalize": ("autocontrast",),
    "orient": ("auto_orient",),
    "pixelize": ("pixelate",),
    "scale": ("resize",),
    "shave": ("crop",),
    "smartcrop": ("crop",),
    "thumbnail": ("resize",),
    "turn": ("rotate",),
    "unsharp": ("sharpen",),
    "vflip": ("flip",),
    "watermark": ("overlay", "text"),
    "wb": ("white_balance",),
    "whitebalance": ("white_balance",),
}
"""Names of other programs for operators that have another name here."""
OPTIONS: Mapping[str, str] = {
    "convert": "--format png",
    "format": "--format png",
    "quality": "--quality 80",
    "strip": "--metadata strip",
}
"""Names of other programs for operators that are options here."""
SEPARATORS: Mapping[str, str] = dict.fromkeys(";,", "steps are separated by '|'")
"""Advice for a value that ends in a separator of other programs."""
GEOMETRY: Mapping[str, str] = {
    "!": "omit the '!': WIDTHxHEIGHT is exact",
    "<": "instead of '<' use fit=inside",
    ">": "instead of '>' use fit=inside enlarge=false",
    "^": "instead of '^' use fit=cover",
}
"""Advice for a size with a flag of ImageMagick's geometry."""


def unknown_operator(name: str, known: Iterable[str]) -> str:
    """Why there is no operator of that name, with the nearest ones."""
    known = list(known)
    nearest = list(OTHER_NAMES.get(name.lower(), ()))
    nearest = nearest or difflib.get_close_matches(name.lower(), sorted(known), MOST_NEAREST, 0.6)
    hint = f" (did you mean {_either(nearest)}?)" if nearest else ""
    if advice := SEPARATORS.get(name[-1:]):
        hint = f" ({advice})"
    elif option := OPTIONS.get(name.lower().lstrip("-")):
        hint = f" (it is an option: {option})"
    elif written := re.fullmatch(r"(\w+)(?:=|\()([^()=]*)\)?", name):
        hint = f" (write '{written[1]} {written[2]}')" if written[1] in known else hint
    return f"there is no operator {name!r}{hint}: `imageloom ops` lists all"


def unknown_parameter(name: str, known: Iterable[str], examples: tuple[str, ...]) -> str:
    """Why there is no parameter of that name."""
    takes = list(known)
    if not takes:
        return f"there is no parameter {name!r}: it takes none"
    nearest = difflib.get_close_matches(name, takes, 1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return f"there is no parameter {name!r}{hint}; it takes {', '.join(takes)}{for_example(examples)}"


def too_many(count: int, known: Iterable[str], examples: tuple[str, ...]) -> str:
    """Why there are too many values without a name."""
    takes = list(known)
    if not takes:
        return "it takes no parameters"
    known = ", ".join(takes)
    return f"{count} values are given, but it takes at most {len(takes)}: {known}{for_example(examples)}"


def wrong_parameter(
    error: str, params: Mapping[str, object], hints: Mapping[str, Any], examples: tuple[str, ...]
) -> str:
    """Why the parameters are invalid.

    Args:
        error: the message of msgspec, which names the parameter as `$.name`, or one that is missing.
        hints: the annotations of the parameters by name.
    """
    text, _, path = error.partition(" - at `$.")
    if name := path.rstrip("`"):
        end = str(params[name])[-1:]
        advice = SEPARATORS.get(end) or (GEOMETRY.get(end) if "fit" in hints else None)
        must = f"it must be {describe(hints[name])}{for_example(examples, name)}"
        return f"{name} = {params[name]!r}: {must}" + (f"; {advice}" if advice else "")
    name = text.rpartition("field `")[2].rstrip("`")
    return (
        f"{name} is missing: {describe(hints[name])}{for_example(examples, name)}" if name in hints else text
    )


def for_example(examples: tuple[str, ...], parameter: str = "") -> str:
    """The end of a message that shows how an operator is used; empty if it has no example.

    Args:
        parameter: an example that names this parameter is preferred.
    """
    named = [example for example in examples if f"{parameter}=" in example] if parameter else []
    found = named or [example for example in examples if " " in example] or list(examples)
    return f"; for example: {min(found, key=len)}" if found else ""


def describe(hint: Any) -> str:
    """What values an annotation allows: "a whole number from 1 to 99"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        meta = next((m for m in arguments[1:] if isinstance(m, msgspec.Meta)), msgspec.Meta())
        if meta.description:
            return meta.description
        upper = "up to" if meta.ge is None else "to"
        bounds = [
            f"{words} {value}"
            for words, value in (("above", meta.gt), ("from", meta.ge), ("below", meta.lt), (upper, meta.le))
            if value is not None and value < _UNLIMITED
        ]
        return " ".join([describe(arguments[0]), *bounds])
    if origin is Literal:
        return _either([str(a) for a in arguments])
    if arguments:
        return " or ".join(describe(a) for a in arguments if a is not type(None))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(
        hint, str(hint)
    )


def is_text(hint: Any) -> bool:
    """Whether an annotation allows a free text: 2024 and true are texts too, then."""
    arguments = typing.get_args(hint)
    return arguments[:1] == (str,) and all(getattr(meta, "pattern", None) is None for meta in arguments[1:])


def _either(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
