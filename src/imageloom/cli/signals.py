"""Leaving on signals: the first SIGTERM or Ctrl-C finishes what is in hand, one more ends the program."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from imageloom.cli.text import say_amid

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_INTERRUPTION = signal.SIGURG
"""Sent to the main thread to end its waiting; other programs do not send it, and it is ignored by default."""


def finish_on_signals(
    finish: Callable[[], None], doing: str, verb: str, end: Callable[[], None] | None = None
) -> None:
    """Call `finish` on the first SIGTERM or Ctrl-C, in a thread of its own, and end on each further one.

    The kernel may give a signal to any thread. Python runs handlers in the main thread alone, and nothing wakes
    that one where another thread was given the signal. Therefore a thread reads here which signals have come.

    Args:
        finish: has the program finish what is in hand; it must be safe to call from another thread.
        doing: said to the user, as "stopping".
        verb: said to the user, as "stop".
        end: ends the program; without it, KeyboardInterrupt is raised in the main thread.
    """
    arrived, note = os.pipe()
    os.set_blocking(note, False)
    signal.set_wakeup_fd(note, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _pass)
    signal.signal(_INTERRUPTION, signal.default_int_handler)
    main_thread = threading.get_ident()

    def listen() -> None:
        asked = False
        while True:
            if os.read(arrived, 1)[0] not in SIGNALS:
                continue
            if not asked:
                asked = True
                say_amid(f"{doing}: finishing what is in hand (once more to {verb} at once)")
                finish()
            elif end:
                end()
            else:
                signal.pthread_kill(main_thread, _INTERRUPTION)

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _pass(number: int, frame: FrameType | None) -> None:
    """Nothing: the number in the pipe counts, which Python writes for a signal that has a handler."""
