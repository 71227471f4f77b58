"""Text that came from elsewhere (names of files and workers, reasons, messages of libraries), made safe to show.

A terminal obeys control characters, and characters without a width or of the other direction make a name look
like another one. Both are shown as escapes, as is what no terminal can show. JSON keeps the true values.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula: with OWASP's list, the wide forms too."""


def printable(text: str) -> str:
    """A text on one line that only shows: it neither drives a terminal nor looks like another one."""
    return text if text.isprintable() else "".join(c if shows(c) else _escaped(c) for c in text)


def shows(character: str) -> bool:
    """Whether a character has a form of its own; spaces of all widths do."""
    if character.isprintable():
        return True
    import unicodedata  # few texts have such a character

    return unicodedata.category(character) == "Zs"


def printable_lines(text: str, most: int) -> str:
    """The end of a text of several lines, each of which only shows.

    Args:
        most: characters.
    """
    return "\n".join(map(printable, text[-most:].split("\n")))[-most:]


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_line(data: object) -> str:
    """Data as one line of JSON, whose escapes keep a terminal from obeying it."""
    import msgspec

    try:
        text = msgspec.json.encode(data).decode()
    except UnicodeEncodeError:  # half a character, as of a name that is no UTF-8
        import json

        text = json.dumps(msgspec.to_builtins(data), separators=(",", ":"))
    if text.isascii() and "\x7f" not in text:  # JSON escapes the other control characters of ASCII
        return text
    return "".join(c if shows(c) else _json_escaped(c) for c in text)


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def csv_line(values: Iterable[object]) -> str:
    """A line of CSV, texts in quotes; an apostrophe keeps a spreadsheet from taking one for a formula."""
    import csv
    import io

    out = io.StringIO()
    safe = [_cell(value) if isinstance(value, str) else value for value in values]
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(safe)
    return out.getvalue()


def _cell(text: str) -> str:
    shown = printable(text)
    return f"'{shown}" if text.lstrip(" ").startswith(_FORMULA) else shown


class Formatter(logging.Formatter):
    """Records as lines that only show."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))

    def formatException(self, info: Any) -> str:  # noqa: N802 (logging's name)
        return "\n".join(map(printable, super().formatException(info).split("\n")))


def guard_stderr() -> None:
    """Have Python's own words on stderr, log records without a handler and tracebacks, only show.

    For a process that is the program's own: an application that uses imageloom as a library has handlers.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Formatter())
    sys.excepthook = _show
    threading.excepthook = lambda told: _show(told.exc_type, told.exc_value, told.exc_traceback)


def _show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    import traceback

    lines = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n")
    sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
