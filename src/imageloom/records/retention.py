"""How long the history of items is kept."""

from __future__ import annotations

import time

from imageloom.records.events import Began, Event
from imageloom.records.ledger import Ledger

DAY = 86400.0
HOUR = 3600.0


class Retention:
    """Deletes the history of old items from the ledger, once an hour.

    Args:
        days: age up to which the history is kept; 0 keeps it for ever.
    """

    def __init__(self, ledger: Ledger, days: float) -> None:
        self._ledger = ledger
        self._days = days
        self._job = 0
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Began):
            self._job = event.job
        elif self._days and time.monotonic() >= self._next:
            self._next = time.monotonic() + HOUR
            self._ledger.forget_items(self._job, time.time() - self._days * DAY)
