"""Whole programs as they are measured: with their start, and with all processes that they start."""

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
"""Seconds that one program may take."""


class Taken(Plain, frozen=True):
    """What one run of a program took."""

    seconds: float
    """From its start until it ended."""
    cpu: float
    """User and system seconds of the program and of all that it started."""
    began: float
    """Seconds since the epoch."""
    code: int
    """Its exit code; minus a signal's number where that ended it."""
    memory: int
    """The most bytes that all its processes had together at one time, each shared page counted once: the sum of
    their proportional set sizes, as /proc/PID/smaps_rollup has them. 0 where it was not looked at."""
    resident: int
    """Bytes of the largest resident set of a single process."""
    left: int
    """Processes that it had left running, and that were ended."""
    errors: str
    """The end of what it wrote to standard error."""


def take(
    command: Sequence[str],
    *,
    memory: bool = False,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> Taken:
    """Run a program to its end, below a process of its own.

    Args:
        memory: look at the memory meanwhile, which takes a little CPU time itself.
        environment: variables beside those of this process.
        patience: seconds until it is killed.

    Raises:
        ImageloomError: what measures it has failed.
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
