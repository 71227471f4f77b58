"""Tracebacks as text that can be kept and shown, and texts without the passwords of addresses."""

from __future__ import annotations

import re

from imageloom.errors import ImageloomError, OperatorFailed
from imageloom.system.printable import printable_lines

MOST_TRACE = 4000
"""Characters of a traceback that are kept, the last ones."""
MOST_FRAMES = 30
"""Calls of a traceback that are kept, the last ones."""

_USER = re.compile(r"(?<=://)[^/?#\s]*:\S*@")
"""User and password of an address; up to the last @, because a password may have any character."""
_PARAMETER = re.compile(r"(?i)([?&][\w-]*(?:password|passwd|token|secret|signature|sig)=)[^&\s'\"]*")


def masked(text: str) -> str:
    """A text without the passwords and tokens of the addresses in it."""
    if "://" in text:
        text = _PARAMETER.sub(r"\1***", _USER.sub("***@", text))
    return text


def unexpected(error: BaseException) -> BaseException | None:
    """The exception whose traceback is wanted: a bug, or what an operator raised; None for other errors."""
    if isinstance(error, OperatorFailed):
        return error.__cause__
    return None if isinstance(error, (ImageloomError, MemoryError)) else error


def trace_of(error: BaseException) -> str:
    """The traceback of what is `unexpected`, the last lines of it; empty for other errors."""
    found = unexpected(error)
    return formatted(found) if found else ""


def formatted(error: BaseException) -> str:
    """An exception's traceback, the last lines of it, without the passwords of addresses."""
    import traceback  # few runs need it

    try:
        lines = "".join(traceback.format_exception(error, limit=-MOST_FRAMES)).rstrip("\n")
    except Exception as failed:  # of a source file that changed, or a class that misbehaves
        return f"its traceback cannot be shown: {type(failed).__name__}"
    return printable_lines(masked(lines), MOST_TRACE)
