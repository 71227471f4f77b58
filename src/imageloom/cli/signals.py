"""Signals: the first SIGTERM or Ctrl-C finishes the items in progress, the second ends the program at once.

The kernel may deliver a signal to any thread. Python runs signal handlers only in the main thread, and the main
thread does not wake up if another thread received the signal, or while it waits in native code. Therefore a thread
reads the signals here.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from imageloom.cli.text import say_amid

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 1.4
"""Seconds after an interruption of the main thread, after which the program is ended by force."""
QUICK = 0.5
"""A second signal has no effect earlier than this many seconds after the first one."""
_INTERRUPTION: int = signal.SIGRTMAX - 1 if sys.platform == "linux" else signal.SIGUSR2
"""Interrupts a wait of the main thread. Nobody else uses it: leases of a watch and Go libraries use SIGURG."""


class _Listener:
    """Reads the signals in its own thread. Without `finish`, the first one interrupts the main thread.

    Args:
        passed: a pipe from which the numbers of the signals are read that the parent has got and passes on.
    """

    def __init__(self, passed: int | None) -> None:
        self._arrived, wakeup = os.pipe()
        self._heard: dict[int, Counter[int]] = {self._arrived: Counter()}
        """By the file that they are read from: how often each signal has come."""
        if passed is not None:
            self._heard[passed] = Counter()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _pass)
        signal.signal(_INTERRUPTION, signal.default_int_handler)
        self._main = threading.get_ident()
        self.finish: Callable[[], bool] = lambda: False
        """Asks the program to finish what is in progress. Returns whether anything is."""
        self.said = ""
        """The message for the user after `finish`."""
        self.end: Callable[[], None] = self._interrupt
        """Ends the program at once."""
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def _listen(self) -> None:
        self._wait(None)
        if self.finish():
            say_amid(self.said)
            self._wait_for_another(None)
        self.end()

    def _wait(self, seconds: float | None) -> None:
        """Wait for a signal."""
        until = time.monotonic() + (seconds or 0.0)
        while seconds is None or time.monotonic() < until:
            left = None if seconds is None else max(0.0, until - time.monotonic())
            for file in select.select(list(self._heard), [], [], left)[0]:
                if self._is_new(file, os.read(file, 1)):
                    return

    def _is_new(self, file: int, number: bytes) -> bool:
        """Note what was read from a file. Returns whether it asks the program to end.

        The terminal gives a signal to this process and to the parent, which passes it on: it is one signal.
        """
        if not number or number[0] not in SIGNALS:
            return False
        before = max(heard[number[0]] for heard in self._heard.values())
        self._heard[file][number[0]] += 1
        return self._heard[file][number[0]] > before

    def _wait_for_another(self, seconds: float | None) -> None:
        """Wait for another signal. One that comes at once waits a moment: the program may be about to end."""
        since = time.monotonic()
        self._wait(seconds)
        time.sleep(max(0.0, since + QUICK - time.monotonic()))

    def _interrupt(self) -> None:
        """Raise KeyboardInterrupt in the main thread. If the program has not ended soon, end it by force."""
        signal.pthread_kill(self._main, _INTERRUPTION)
        self._wait_for_another(PATIENCE)
        with suppress(OSError):
            for child in _children():
                os.kill(child, signal.SIGKILL)
        os._exit(130)


_listener: _Listener | None = None


def listen(passed: int | None = None) -> None:
    """Handle SIGTERM like Ctrl-C: it interrupts the program, which ends with exit code 130 and cleans up.

    Args:
        passed: a pipe with the numbers of signals that the parent passes on; at the first call only.
    """
    global _listener  # noqa: PLW0603  a process has one set of signal handlers
    if _listener is None and threading.current_thread() is threading.main_thread():
        _listener = _Listener(passed)


def finish_on_signals(
    finish: Callable[[], object],
    doing: str,
    verb: str,
    end: Callable[[], None] | None = None,
    has_begun: Callable[[], bool] = lambda: True,
) -> None:
    """Call `finish` on the first SIGTERM or Ctrl-C, in a separate thread, and end the program on the next one.

    Args:
        finish: asks the program to finish the items in progress; must be safe to call from another thread.
        doing: word in the message for the user, such as "stopping".
        verb: word in the message for the user, such as "stop".
        end: ends the program; if None, KeyboardInterrupt is raised in the main thread.
        has_begun: whether there may be items in progress. If not, the first signal ends the program.
    """

    def finish_if_begun() -> bool:
        if not has_begun():
            return False
        finish()
        return True

    listen()
    if _listener is not None:
        _listener.said = (
            f"{doing}: finishing the items in progress (a second signal or Ctrl-C: {verb} at once)"
        )
        _listener.finish = finish_if_begun
        _listener.end = end or _listener.end


def _children() -> list[int]:
    """The process ids of this program's child processes, as far as the system tells."""
    if sys.platform != "linux":
        return []
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found


def _pass(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python writes the signal's number into the pipe only if the signal has a handler."""
