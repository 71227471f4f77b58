"""Types of the values of options."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite, nan
from typing import Any, TypeVar

import click

from imageloom.model import MOST_PAGES

C = TypeVar("C", bound=Callable[..., Any])

_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def together(command: C, *options: Callable[[C], C]) -> C:
    """The command with these options, listed by its help in this order."""
    for option in reversed(options):
        command = option(command)
    return command


class Whole(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r} is not a whole number{_bounds(self.min, self.max)}", param, ctx)


class Number(click.FloatRange):
    """A number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = float(super().convert(value, param, ctx))
        except click.BadParameter:
            found = nan
        if not isfinite(found):
            bounds = _bounds(self.min, self.max, self.min_open)
            self.fail(f"{value!r} is not a number{bounds}, without a unit", param, ctx)
        return found


def _bounds(least: float | None, most: float | None, is_open: bool = False) -> str:
    """Bounds as the end of a message: " from 1 to 9"."""
    lower = "" if least is None else f" {'above' if is_open else 'from'} {least:g}"
    if most is None:
        return lower if is_open or least is None else f"{lower} on"
    return f"{lower} to {most:g}"


class Quantity(click.ParamType[int]):
    """A positive whole number with an optional decimal suffix k, M, G or T, as in 512M or 4GB."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", str(value).strip().lower())
        if found is None or (number := int(float(found[1]) * _SCALE[found[2]])) <= 0:
            self.fail(f"{value!r} is not a positive number, such as 512M or 4GB", param, ctx)
        return number


class Items(click.ParamType[tuple[Any, ...]]):
    """Several values with commas between them.

    Args:
        one: the type of each value.
    """

    name = "list"

    def __init__(self, one: click.ParamType[Any]) -> None:
        self._one = one

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self._one.convert(part.strip(), param, ctx) for part in str(value).split(","))


class PageChoice(click.ParamType[str | int]):
    """first, all, or the number of a page."""

    name = "pages"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        text = str(value)
        if text in ("first", "all"):
            return text
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_PAGES):
            self.fail(f"{text!r} is not first, all or a number from 1 to {MOST_PAGES}", param, ctx)
        return int(text)
