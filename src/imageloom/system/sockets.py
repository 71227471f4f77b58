"""Sockets that have a path, in the folder for temporary files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from imageloom.errors import EngineFailed


@contextmanager
def path_checked() -> Iterator[None]:
    """Name the cause if a socket made in this block has a path longer than the system allows, 107 bytes on Linux.

    Raises:
        EngineFailed: the path is too long.
    """
    try:
        yield
    except OSError as error:
        if str(error) != "AF_UNIX path too long":
            raise
        raise EngineFailed(
            f"the path of the folder for temporary files is too long for a socket: {tempfile.gettempdir()}: "
            "set TMPDIR to a folder with a short path, such as /tmp"
        ) from None
