"""Signals: the first SIGTERM or Ctrl-C finishes the items in progress, the second ends the program at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from imageloom.cli.text import say_amid

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_INTERRUPTION = signal.SIGURG
"""Sent to the main thread to interrupt a wait. Other programs do not send it, and it is ignored by default."""


def finish_on_signals(
    finish: Callable[[], None], doing: str, verb: str, end: Callable[[], None] | None = None
) -> None:
    """Call `finish` on the first SIGTERM or Ctrl-C, in a separate thread, and end the program on the next one.

    The kernel may deliver a signal to any thread. Python runs signal handlers only in the main thread, and the
    main thread does not wake up if another thread received the signal. Therefore a thread reads the signals here.

    Args:
        finish: asks the program to finish the items in progress; must be safe to call from another thread.
        doing: word in the message for the user, such as "stopping".
        verb: word in the message for the user, such as "stop".
        end: ends the program; if None, KeyboardInterrupt is raised in the main thread.
    """
    arrived, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
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
                say_amid(f"{doing}: finishing the items in progress (once more to {verb} at once)")
                finish()
            elif end:
                end()
            else:
                signal.pthread_kill(main_thread, _INTERRUPTION)

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _pass(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python writes the signal's number into the pipe only if the signal has a handler."""
