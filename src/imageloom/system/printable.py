"""Makes untrusted text safe to print: names of files and workers, reasons, messages of libraries.

A terminal executes control characters. Characters without width, or with the opposite direction, make a name look
like another name. All these are printed as escapes, and so are invalid characters. JSON keeps the true values.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters that start a formula in a spreadsheet: OWASP's list, and their full-width forms."""


def printable(text: str) -> str:
    """The text on one line, with escapes for characters that control a terminal or are invisible."""
    return text if text.isprintable() else "".join(c if shows(c) else _escaped(c) for c in text)


def shows(character: str) -> bool:
    """Whether a character is visible; spaces count as visible."""
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
    """Data as one line of JSON, with escapes for characters that control a terminal."""
    import msgspec

    try:
        text = msgspec.json.encode(data).decode()
    except UnicodeEncodeError:  # a lone surrogate, from a name that is not UTF-8
        import json

        text = json.dumps(msgspec.to_builtins(data), separators=(",", ":"))
    if text.isascii() and "\x7f" not in text:  # JSON escapes the other ASCII control characters
        return text
    return "".join(c if shows(c) else _json_escaped(c) for c in text)


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def csv_line(values: Iterable[object]) -> str:
    """A line of CSV with texts in quotes. An apostrophe is added to a text that would start a formula."""
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
    """Formats log records as printable lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))

    def formatException(self, info: Any) -> str:  # noqa: N802 (logging's name)
        return "\n".join(map(printable, super().formatException(info).split("\n")))


def guard_stderr() -> None:
    """Make Python's own output on stderr printable: log records without a handler, and tracebacks.

    Only for imageloom's own programs. An application that uses imageloom as a library has its own handlers.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Formatter())
    sys.excepthook = _show
    threading.excepthook = lambda told: _show(told.exc_type, told.exc_value, told.exc_traceback)


def _show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    import traceback

    lines = "".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n")
    sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
