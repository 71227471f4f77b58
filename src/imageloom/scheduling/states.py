"""What workers have, to be shown. Kept apart from the scheduler, because all engines load it."""

from __future__ import annotations

from imageloom.model import Plain, Task


class InProgress(Plain, frozen=True):
    """An item that a worker processes."""

    task: Task
    key: str
    seconds: float
    """For how long, in seconds."""


class WorkerState(Plain, frozen=True):
    """A worker with what it has, to be shown."""

    name: str
    slots: int
    """Number of tasks that it processes at the same time; 0 if it gets none."""
    load: float
    """Load per core of its machine, as far as it is known."""
    items: tuple[InProgress, ...]
    waiting: int
    """Number of tasks that were sent to it and have not begun."""
