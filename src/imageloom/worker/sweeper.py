"""Loaded by the fork server alone, after all else: what it forks shares its memory, and nothing is left of it.

That program has made a folder for the socket that the fork server listens on, and removes it at its end, if it
comes to that. If not, the fork server does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import socket

MOST_FILES = 64
"""The socket is among the first of the open files: it was passed on."""


def _listening() -> str:
    """Path of the socket that this process listens on; empty where there is none."""
    for number in range(3, MOST_FILES):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as found:
            if found.family == socket.AF_UNIX and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return str(found.getsockname())
    return ""


def _clear_up(path: str, owner: int) -> None:
    if path and os.getpid() == owner:  # not in what was forked
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):  # the program itself was faster, or has more in there
            os.rmdir(os.path.dirname(path))


gc.freeze()  # what is loaded stays shared with the workers: no collection writes to it
atexit.register(_clear_up, _listening(), os.getpid())
