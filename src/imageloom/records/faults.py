"""The failure of an item by whatever it raised: an error that is none of ours is a bug, whose place is logged."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from imageloom.errors import ImageloomError, ItemError
from imageloom.model import Failure
from imageloom.system.printable import printable

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
    """An item's failure; the first one of each place in the code is logged with its traceback.

    Args:
        key: of the item.

    Raises:
        KeyboardInterrupt: it was raised, which is no item's failure.
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
