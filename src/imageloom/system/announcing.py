"""What a program that runs long does and waits for, in lines that a log can hold."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from imageloom.system.printable import Formatter

FIRST_REPEAT = 60.0
"""Seconds after which a state that lasts is logged again. The time doubles up to `LONGEST_REPEAT`."""
LONGEST_REPEAT = 3600.0

log = logging.getLogger("imageloom.state")
"""Its lines are shown only by programs that call `show_states`."""


def show_states() -> None:
    """Write the states of this process to stderr, each line with its time."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class Announcer:
    """Logs the state of a program when it changes, and again after ever longer times while it lasts.

    Args:
        who: the beginning of each line.
        clock: returns a monotonic time in seconds.
        write: writes a line, from a format and its values.
    """

    def __init__(
        self,
        who: str = "",
        clock: Callable[[], float] = time.monotonic,
        write: Callable[..., object] = log.info,
    ) -> None:
        self._who = who or f"worker {os.getpid()}"
        self._clock = clock
        self._write = write
        self._state = ""
        self._due = 0.0
        self._pause = FIRST_REPEAT

    def say(self, state: str) -> None:
        """Log a state if it is new, or if it is due again."""
        now = self._clock()
        if state != self._state:
            self._state, self._pause = state, FIRST_REPEAT
        elif now < self._due:
            return
        else:
            self._pause = min(2 * self._pause, LONGEST_REPEAT)
        self._due = now + self._pause
        self._write("%s: %s", self._who, state)

    def repeat(self) -> None:
        """Log the last state again, if it is due."""
        if self._state:
            self.say(self._state)
