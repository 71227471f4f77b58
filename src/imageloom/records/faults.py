"""Converts exceptions to failures of items. An exception that is not an ImageloomError is a bug, and is logged."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from imageloom.errors import ImageloomError, ItemError
from imageloom.model import Failure
from imageloom.system.printable import printable

MOST_LOGGED = 100
"""Maximum number of code locations whose exceptions are logged with a traceback."""

log = logging.getLogger(__name__)
_logged: set[tuple[type, str, int]] = set()


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
    except ImageloomError:
        raise
    except Exception as error:
        raise ItemError(failure_of(key, error).message) from None


def failure_of(key: str, error: BaseException) -> Failure:
    """The failure of an item from an exception. The first unexpected exception of each code location is logged.

    Args:
        key: key of the item.

    Raises:
        KeyboardInterrupt: `error` is a KeyboardInterrupt.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    if not isinstance(error, (ImageloomError, MemoryError)):
        frames = traceback.extract_tb(error.__traceback__)
        last = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
        place = (type(error), *last)
        if place not in _logged and len(_logged) < MOST_LOGGED:
            _logged.add(place)
            lines = "".join(traceback.format_exception(error)).splitlines()
            log.error(
                "unexpected error while processing %s:\n%s", printable(key), "\n".join(map(printable, lines))
            )
    return Failure.of(error)
