"""Opens files also while this process has, for a moment, as many open files as it may have.

A flood of connections to a driver or server can cause that: they are refused soon, but each one counts until then.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE, PAUSE = 5.0, 0.02
"""Time to wait for other threads to close files, and the time between two attempts, in seconds."""
_T = TypeVar("_T")


def open_file(
    path: str | os.PathLike[str], flags: int, mode: int = 0o777, *, dir_fd: int | None = None
) -> int:
    """The same as `os.open`; see `patiently`."""
    try:
        return os.open(path, flags, mode, dir_fd=dir_fd)
    except OSError as error:
        if not is_out_of_files(error):
            raise
    return patiently(lambda: os.open(path, flags, mode, dir_fd=dir_fd))


def patiently(open_: Callable[[], _T]) -> _T:
    """Call a function. If it fails because too many files are open, try again for `PATIENCE` seconds."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return open_()
        except Exception as error:
            if not (is_out_of_files(error) or is_out_of_files(_tried())) or time.monotonic() > until:
                raise
        time.sleep(PAUSE)


def is_out_of_files(error: Exception | None) -> bool:
    """Whether an error says that too many files are open."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def _tried() -> OSError | None:
    """The error with which no file can be opened now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error
    return None
