"""What became of an item, and how far a job is: plain data for users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from imageloom.model import Failure, Plain
from imageloom.records.events import Done, Event, Failed, Skipped, SkipReason
from imageloom.records.schema import ItemRecord


class ItemResult(Plain, frozen=True):
    """What became of one item of a job."""

    key: str
    """Path of the input relative to the source, with forward slashes; a page of a file ends with
    `/./page=N`."""
    state: Literal["done", "failed", "skipped"]
    """Whether its outputs are made, it has failed for good, or nothing had to be done."""
    outputs: tuple[str, ...] = ()
    """Paths or addresses of the outputs. Empty unless the state is `done`, and in `Job.items`."""
    failure: Failure | None = None
    """Why it failed."""
    reason: SkipReason | None = None
    """Why it was skipped."""
    dropped: tuple[str, ...] = ()
    """What the input has and an output lacks."""
    warnings: tuple[str, ...] = ()
    """Damage of the input that did not prevent its decoding."""
    attempts: int = 1
    """Number of attempts at it, the last one too."""
    seconds: float = 0.0
    """Time that the last attempt took in its worker."""


class Progress(Plain, frozen=True):
    """How far a job is."""

    done: int = 0
    """Number of items whose outputs are made."""
    failed: int = 0
    """Number of items that have failed for good."""
    skipped: int = 0
    """Number of items for which nothing had to be done."""
    seconds: float = 0.0
    """Since the start of the job, or its whole duration."""
    is_running: bool = True
    """Whether the job has not ended."""

    @property
    def total(self) -> int:
        """Number of items that have ended."""
        return self.done + self.failed + self.skipped

    @property
    def rate(self) -> float:
        """Items per second that were processed; skipped ones are not counted."""
        return (self.done + self.failed) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        state = "running" if self.is_running else "ended"
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        numbers = f"{self.done} done, {self.failed} failed{skipped}"
        return f"{state}: {numbers}, {self.seconds:.1f} s, {self.rate:.0f}/s"


def of_event(event: Event, sink: str) -> ItemResult | None:
    """The result of the item that an event ends; None for other events.

    Args:
        sink: address of the job's sink.
    """
    match event:
        case Done(result, attempt):
            outputs = tuple(f"{sink.rstrip('/')}/{one.name}" for one in result.written)
            return ItemResult(
                result.key,
                "done",
                outputs,
                dropped=result.dropped,
                warnings=result.warnings,
                attempts=attempt,
                seconds=result.times.total,
            )
        case Failed(result, attempt):
            failure, seconds = result.failure, result.times.total
            return ItemResult(result.key, "failed", failure=failure, attempts=attempt, seconds=seconds)
        case Skipped(item, reason):
            return ItemResult(item.key, "skipped", reason=reason)
    return None


def of_records(records: Iterator[ItemRecord]) -> Iterator[ItemResult]:
    """The results of items in the ledger."""
    for one in records:
        yield ItemResult(
            one.key,
            one.state,
            failure=one.failure,
            dropped=one.dropped,
            warnings=one.warnings,
            attempts=one.attempts,
            seconds=one.times.total,
        )
