"""The failure of an item by whatever was raised; tracebacks are logged where the error was raised.

A bug of imageloom's, and an exception in an operator, are logged as errors, each place in the code once; an error
that is the file's fault is logged for debugging.
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
"""Places whose bugs are logged with a traceback."""

log = logging.getLogger(__name__)
_logged: set[tuple[type, str, int]] = set()


@contextmanager
def blamed_on(key: str) -> Iterator[None]:
    """Whatever is raised within comes out as an error of ours.

    Args:
        key: of the item that is worked on.

    Raises:
        ItemError: something was raised that is no error of ours.
    """
    try:
        yield
    except ImageloomError:
        raise
    except Exception as error:
        raise ItemError(failure_of(key, error).message) from None


def failure_of(key: str, error: BaseException) -> Failure:
    """An item's failure, logged with its traceback.

    Args:
        key: of the item.

    Raises:
        KeyboardInterrupt: it was raised, which is no item's failure.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    failure = Failure.of(error)
    if found := unexpected(error):
        if _is_new(found):
            log.error("an unexpected error failed %s:\n%s", printable(key), failure.trace)
    elif log.isEnabledFor(logging.DEBUG):
        origin = formatted(error.__context__ or error)  # a library's error has ours raised in its place
        log.debug("%s failed: %s: %s\n%s", printable(key), failure.kind, printable(failure.message), origin)
    return failure


def _is_new(error: BaseException) -> bool:
    """Whether it is the first error of its kind at its place in the code, and not one place too many."""
    frames = traceback.extract_tb(error.__traceback__)
    last = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
    place = (type(error), *last)
    if place in _logged or len(_logged) >= MOST_LOGGED:
        return False
    _logged.add(place)
    return True
