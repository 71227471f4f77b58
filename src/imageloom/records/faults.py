"""Converts exceptions to failures of items, and logs their tracebacks.

A bug in imageloom and an exception in an operator are logged at level error, once for each code location. An error
of the file is logged at level debug.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from imageloom.errors import ImageloomError, ItemError
from imageloom.model import Failure
from imageloom.system.printable import printable
from imageloom.system.tracing import formatted, unexpected

MOST_LOGGED = 100
"""Maximum number of code locations whose exceptions are logged with a traceback."""

log = logging.getLogger(__name__)
_logged: set[tuple[type | str, str, int]] = set()


@contextmanager
def blamed_on(key: str) -> Iterator[None]:
    """Convert every exception in this context to an ImageloomError.

    Args:
        key: key of the item that is processed.

    Raises:
        ItemError: an exception other than an ImageloomError was raised.
    """
    try:
        yield
    except (ImageloomError, BrokenPipeError):  # of the second, the reader of stdout has gone
        raise
    except Exception as error:
        raise ItemError(failure_of(key, error).message) from None


def failure_of(key: str, error: BaseException) -> Failure:
    """The failure of an item from an exception, which is logged with its traceback.

    Args:
        key: key of the item.

    Raises:
        KeyboardInterrupt: `error` is a KeyboardInterrupt.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    failure = Failure.of(error)
    if found := unexpected(error):
        if _is_new(found):
            log.error("an unexpected error failed %s:", printable(key), extra={"trace": failure.trace})
    elif log.isEnabledFor(logging.DEBUG):
        origin = formatted(error.__context__ or error)  # a library's error has ours raised in its place
        what = printable(key), failure.kind, printable(failure.message)
        log.debug("%s failed: %s: %s", *what, extra={"trace": origin})
    return failure


def log_failure(key: str, failure: Failure) -> None:
    """Log the failure of an item from another process, as `failure_of` logs an exception."""
    if not failure.trace:
        log.debug("%s failed: %s: %s", printable(key), failure.kind, printable(failure.message))
        return
    place = (failure.kind, failure.trace.rpartition("  File ")[2].partition("\n")[0], 0)
    if place not in _logged and len(_logged) < MOST_LOGGED:
        _logged.add(place)
        log.error("an unexpected error failed %s:", printable(key), extra={"trace": failure.trace})


def _is_new(error: BaseException) -> bool:
    """Whether it is the first error of its kind at its place in the code, and not one place too many."""
    frames = traceback.extract_tb(error.__traceback__)
    last = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
    place = (type(error), *last)
    if place in _logged or len(_logged) >= MOST_LOGGED:
        return False
    _logged.add(place)
    return True
