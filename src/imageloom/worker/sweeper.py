"""Loaded last, by the fork server only: it removes credentials from the server's memory, prepares shared memory
pages, and removes the server's socket at exit.

The program has created a folder for the socket of the fork server, and normally removes it at its end. If the
program was killed, the fork server removes it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import socket

from imageloom.system.confinement import wipe_environment

MOST_FILES = 64
"""Number of file descriptors to check. The socket is among the first ones, because it was inherited."""


def _listening() -> str:
    """Path of the socket that this process listens on; empty if there is none."""
    for number in range(3, MOST_FILES):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as found:
            if found.family == socket.AF_UNIX and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return str(found.getsockname())
    return ""


def _clear_up(path: str, owner: int) -> None:
    if path and os.getpid() == owner:  # not in forked processes
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):  # the program has removed it, or it is not empty
            os.rmdir(os.path.dirname(path))


wipe_environment()  # decoding processes are forked from it; workers get their variables when they start
gc.freeze()  # loaded objects stay shared with the workers, because the collector does not touch them
atexit.register(_clear_up, _listening(), os.getpid())
