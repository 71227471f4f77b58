"""Coverage: which events occurred in which states of a worker, a delivery and a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from imageloom.scheduling.protocol import Event, Joined
from imageloom.scheduling.scheduler import Scheduler
from imageloom.scheduling.workers import Delivery, Worker

EVENTS = ("Joined", "Begun", "Received", "Finished", "Refused", "Returned", "Left", "Broken", "Died")
WORKER = ("unknown", "starting", "idle", "busy")
DELIVERY = ("none", "over", "sent", "begun", "partly done", "cut")
TICKET = ("fresh", "suspect", "copied", "lost before", "over")
Coverage = Counter[tuple[str, str, str]]
"""Number of occurrences by event, by kind of object, and by the object's state."""


def note(coverage: Coverage, scheduler: Scheduler, event: Event) -> None:
    """Count an event before it is handled."""
    kind = type(event).__name__
    worker = scheduler._workers.get(event.worker)
    coverage[kind, "worker", _of_worker(worker)] += 1
    if isinstance(event, Joined):
        return
    number = getattr(event, "delivery", None)
    if number is None:
        deliveries = list(worker.deliveries.values()) if worker else []
        if not deliveries:
            coverage[kind, "delivery", "none"] += 1
    else:
        known = worker.deliveries.get(number) if worker else None
        deliveries = [known] if known else []
        if not known:
            coverage[kind, "delivery", "over" if scheduler.has_sent(number) else "none"] += 1
    for delivery in deliveries:
        coverage[kind, "delivery", _of_delivery(delivery)] += 1
        for state in _of_ticket(delivery):
            coverage[kind, "task", state] += 1


def _of_worker(worker: Worker | None) -> str:
    if worker is None:
        return "unknown"
    if not worker.is_ready:
        return "starting"
    return "busy" if worker.deliveries else "idle"


def _of_delivery(delivery: Delivery) -> str:
    if delivery.is_cut:
        return "cut"
    if delivery.done:
        return "partly done"
    return "begun" if delivery.has_begun else "sent"


def _of_ticket(delivery: Delivery) -> Iterable[str]:
    ticket = delivery.ticket
    if ticket.is_over:
        yield "over"
    if ticket.is_suspect:
        yield "suspect"
    if ticket.was_lost:
        yield "lost before"
    if ticket.deliveries > 1:
        yield "copied"
    if not (ticket.is_over or ticket.is_suspect or ticket.was_lost):
        yield "fresh"


IMPOSSIBLE = {
    ("Returned", "delivery", "none"),  # the transport asks the scheduler what there is
    ("Left", "delivery", "over"),  # they are not about one delivery
    ("Died", "delivery", "over"),
    ("Broken", "worker", "starting"),  # it has begun nothing
}
"""Combinations that no transport can cause."""
RARE = {
    ("Broken", "task", "over"),
    ("Broken", "worker", "unknown"),
    ("Died", "worker", "unknown"),
    ("Left", "delivery", "cut"),
    ("Left", "task", "over"),
    ("Refused", "delivery", "cut"),
    ("Refused", "task", "over"),
    ("Refused", "worker", "unknown"),
}
"""Combinations that occur less than ten times in 2,000 histories."""


def missing(coverage: Coverage) -> list[tuple[str, str, str]]:
    """Combinations that are possible but never occurred."""
    return [cell for cell in _cells() if not coverage[cell] and cell not in IMPOSSIBLE]


def _cells() -> Iterable[tuple[str, str, str]]:
    for event in EVENTS:
        yield from ((event, "worker", state) for state in WORKER)
        if event != "Joined":
            yield from ((event, "delivery", state) for state in DELIVERY)
            yield from ((event, "task", state) for state in TICKET)


def table(coverage: Coverage) -> str:
    """The table in text: a row for each event, a column for each state."""
    columns = [*(("worker", s) for s in WORKER), *(("delivery", s) for s in DELIVERY)]
    columns += [("task", s) for s in TICKET]
    lines = []
    for of in ("worker", "delivery", "task"):
        states = [state for what, state in columns if what == of]
        lines.append(f"{of:10}" + "".join(f"{state:>14}" for state in states))
        for event in EVENTS:
            if of == "worker" or event != "Joined":
                cells = ((event, of, state) for state in states)
                shown = ("-" if c in IMPOSSIBLE and not coverage[c] else f"{coverage[c]:,}" for c in cells)
                lines.append(f"{event:10}" + "".join(f"{text:>14}" for text in shown))
    return "\n".join(lines)
