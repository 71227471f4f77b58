"""Choosing items by a list of names and by the time of their last change."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from datetime import datetime

from imageloom.errors import UsageError
from imageloom.stores.files import is_utf8

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TIMES = "2026-11-01, '2026-11-01 14:30', 2h, 7d, or the path of a file"

log = logging.getLogger("imageloom.driver")


def names_in(data: bytes, what: str, by_null: bool = False) -> tuple[str, ...]:
    """The names in a list, for `Job.files`. Empty lines are ignored.

    Args:
        what: the name of the list, for messages.
        by_null: names are separated by NUL characters, not by line breaks.

    Raises:
        UsageError: see `checked_names`, or the list is not UTF-8, or has NUL characters between lines.
    """
    separator, unit = (b"\0", "name") if by_null else (b"\n", "line")
    if not by_null and b"\0" in data:
        raise UsageError(f"{what} has NUL characters: if they separate the names, add --null")
    texts = [part if by_null else part.removesuffix(b"\r") for part in data.split(separator)]
    try:
        names = [(f"{unit} {number} of {what}", text.decode()) for number, text in enumerate(texts, 1)]
    except UnicodeDecodeError:
        number = next(n for n, text in enumerate(texts, 1) if not is_utf8(os.fsdecode(text)))
        raise UsageError(f"{unit} {number} of {what} is not UTF-8: rename the file") from None
    return _checked((place, name) for place, name in names if name)


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of files in the source, each once, for `Job.files`. A leading `./` is removed.

    Raises:
        UsageError: a name is absolute, or has `..` or an empty part; the message says which one.
    """
    return _checked((f"name {number}", name) for number, name in enumerate(names, 1))


def _checked(names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    repeated = []
    for place, given in names:
        name = given
        while name.startswith("./"):
            name = name[2:].lstrip("/")
        wrong = _why_no_name(name)
        if wrong:
            raise UsageError(
                f"{place}: {given[:200]!r} {wrong}: names are relative to the source, such as 'sub/a.jpg'"
            )
        if first.setdefault(name, place) != place:
            repeated.append(f"{place} repeats {name!r} of {first[name]}")
    if repeated:
        more = f"; {len(repeated) - 1} more names are repeated" if len(repeated) > 1 else ""
        log.warning("%s: it is processed once%s", repeated[0], more)
    return tuple(first)


def _why_no_name(name: str) -> str:
    if name.startswith("/") or re.match(r"[A-Za-z]:[\\/]", name):
        return "is absolute"
    parts = name.rstrip("/").split("/")
    if ".." in parts:
        return "has '..'"
    if "\0" in name:
        return "has a NUL character"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return "is not UTF-8"
    if not name or "" in parts or "." in parts:
        return "has an empty part or '.'"
    return ""


def moment(given: str, now: float | None = None) -> float:
    """A point in time from text, in seconds since the epoch.

    Args:
        given: a date with or without a time (local time, if it has no offset), an age such as 2h or 7d, or the
            path of a file, for the time of its last change.
        now: the current time; None to ask the clock.

    Raises:
        UsageError: it is none of these, or lies in the future.
    """
    now = time.time() if now is None else now
    text = given.strip()
    if age := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])", text):
        return max(0.0, now - float(age[1]) * _SECONDS[age[2]])
    try:
        found = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        try:
            return os.stat(text).st_mtime
        except (OSError, ValueError):
            raise UsageError(f"{given!r} is neither a time nor a file that exists: give {_TIMES}") from None
    if found > now:
        raise UsageError(f"{given!r} is in the future, and no file is newer: give {_TIMES}")
    return max(0.0, found)
