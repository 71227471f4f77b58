"""Measures whole programs, including their start and all processes that they start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from imageloom.errors import ImageloomError
from imageloom.model import Plain

IMAGELOOM = (sys.executable, "-m", "imageloom")
PATIENCE = 1800.0
"""Time-out of one program, in seconds."""


class Taken(Plain, frozen=True):
    """The measurements of one run of a program."""

    seconds: float
    """Duration from its start to its end."""
    cpu: float
    """User and system time in seconds, of the program and all its child processes."""
    began: float
    """Seconds since the epoch."""
    code: int
    """Its exit code; the negative signal number if a signal ended it."""
    memory: int
    """Peak memory of all its processes together in bytes, with shared pages counted once: the sum of their
    proportional set sizes in /proc/PID/smaps_rollup. 0 if it was not measured."""
    resident: int
    """Largest resident set of a single process in bytes."""
    left: int
    """Number of its processes that were still running at its end, and were killed."""
    errors: str
    """The last part of its output on stderr."""


def take(
    command: Sequence[str],
    *,
    memory: bool = False,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> Taken:
    """Run a program to its end, under a separate process that measures it.

    Args:
        memory: measure the memory, which needs a little CPU time.
        environment: environment variables in addition to those of this process.
        patience: time-out in seconds, after which it is killed.

    Raises:
        ImageloomError: the measurement failed.
    """
    watch = "yes" if memory else "no"
    launcher = [sys.executable, "-m", "imageloom.bench.launcher", watch, str(patience), *command]
    process = subprocess.Popen(
        launcher, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | dict(environment or {})
    )
    try:
        answer, errors = process.communicate(timeout=patience + 60)
    except BaseException:
        process.terminate()
        process.wait(30)
        raise
    if process.returncode:
        raise ImageloomError(f"the measurement of {command[0]} failed: {errors.decode(errors='replace')}")
    return msgspec.json.decode(answer, type=Taken)
