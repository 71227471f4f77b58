"""How processes end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def cause_of(exitcode: int | None) -> str:
    """The cause of a process's end, as text."""
    if exitcode is None:
        return "for an unknown reason"
    if exitcode >= 0:
        return f"it exited with code {exitcode}"
    known = -exitcode in set(signal.Signals)
    return f"killed by {signal.Signals(-exitcode).name if known else f'signal {-exitcode}'}"


def is_alive(pid: int) -> bool:
    """Whether there is a process with this ID."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
