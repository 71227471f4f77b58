"""How processes ended."""

from __future__ import annotations

import signal


def cause_of(exitcode: int | None) -> str:
    """The cause of a process's end, as text."""
    if exitcode is None:
        return "for an unknown reason"
    if exitcode >= 0:
        return f"it exited with code {exitcode}"
    known = -exitcode in set(signal.Signals)
    return f"killed by {signal.Signals(-exitcode).name if known else f'signal {-exitcode}'}"
