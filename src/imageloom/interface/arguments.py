"""Checks of arguments that jobs and single images have in common."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from imageloom.driver.validation import validated
from imageloom.errors import UsageError
from imageloom.model import Format, Limits
from imageloom.recipes.formats import parse_format


def plain(value: Any) -> Any:
    """A number of NumPy as Python's own; any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def format_of(name: object, option: str = "format") -> Format | None:
    """The format with this name; None for None.

    Args:
        option: the option that has the name, for messages.

    Raises:
        UsageError: there is none.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise UsageError(f"{option} = {name!r}: it must be the name of a format, such as 'png'")
    try:
        return parse_format(name)
    except UsageError as error:
        raise UsageError(f"{option} = {name!r}: {error}") from None


def limits_of(given: object) -> Limits:
    """The limits; the usual ones for None.

    Raises:
        UsageError: they are no limits, or one of them is invalid.
    """
    if given is None:
        return Limits()
    if not isinstance(given, Limits):
        raise UsageError(f"limits = {given!r}: it must be a Limits")
    try:
        return validated(given)
    except UsageError as error:
        raise UsageError(f"limits: {error}") from None


def address(what: str, given: object) -> str:
    """A path or an address as a text.

    Args:
        what: name of the argument, for messages.

    Raises:
        UsageError: it is neither, or cannot be one.
    """
    if isinstance(given, (str, os.PathLike)):
        try:
            path = os.fspath(given)
        except Exception as error:
            raise UsageError(f"{what} = {given!r}: it must be a path or an address: {error}") from None
        if isinstance(path, str):
            if "\0" in path:
                raise UsageError(f"{what} = {given!r}: a path cannot contain a null character")
            return path
    raise UsageError(f"{what} = {given!r}: it must be a path or an address")
