"""Locks of files that runs hold as long as they live."""

from __future__ import annotations

import fcntl
import time

PATIENCE = 0.5
"""Seconds for which a lock is waited for: the process of a run whose program was killed ends a moment later."""
_PAUSE = 0.02


def take(file: int) -> None:
    """Lock a file.

    Raises:
        BlockingIOError: another process keeps it locked.
        OSError: the file system has no locks.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
