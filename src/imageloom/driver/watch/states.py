"""The states of files that are watched."""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """A file that may be incomplete."""

    version: str
    since: float
    """Monotonic time at which this version was first seen, in seconds."""
    was_busy: bool = False
    """Whether the file was open for writing."""


class InProgress(NamedTuple):
    """An item that is in progress in the driver."""

    version: str
    came: float
    """Time at which the file was complete, in seconds since the epoch."""
    left: int = 1
    """Number of its items that are not done: one, or one for each page."""
    is_known: bool = True
    """No item of it was skipped because the file had changed."""
