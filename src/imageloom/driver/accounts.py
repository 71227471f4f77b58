"""The outcomes of a run's items: published, retried, failed or skipped. Counts, records and reports them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from imageloom.driver.clock import REAL, Clock
from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.driver.suspects import Suspects
from imageloom.driver.window import Retries
from imageloom.errors import StorageError
from imageloom.model import Item, Job, Result, Work
from imageloom.recipes.meaning import Meanings
from imageloom.records.events import Done, Event, Failed, Listener, Retried, Skipped, SkipReason
from imageloom.records.faults import failure_of
from imageloom.records.ledger import Ledger
from imageloom.records.losses import Losses

log = logging.getLogger(__name__)


class Accounts:
    """Counts and records the outcomes of one run.

    Args:
        meanings: the texts that identify the recipe in the ledger.
        listeners: called with each event; a listener that raises OSError is removed.
    """

    def __init__(
        self,
        job: Job,
        source: Source,
        sink: Sink,
        ledger: Ledger,
        meanings: Meanings,
        suspects: Suspects,
        listeners: Iterable[Listener],
        clock: Clock = REAL,
    ) -> None:
        self.job = 0
        """The number of the run in the ledger."""
        self.is_ending = False
        """The run ends: no item is retried."""
        self.again = Retries(clock)
        self._attempts = job.attempts
        self._source = source
        self._sink = sink
        self._ledger = ledger
        self._meanings = meanings
        self._suspects = suspects
        self._listeners = tuple(listeners)
        self._done = self._failed = self._skipped = 0
        self.losses = Losses()

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The numbers of done, failed and skipped items."""
        return self._done, self._failed, self._skipped

    @property
    def has_listeners(self) -> bool:
        """Whether there are listeners."""
        return bool(self._listeners)

    def emit(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except StorageError:
                raise
            except OSError as error:  # a closed pipe or a full disk: the run continues without it
                self._listeners = tuple(other for other in self._listeners if other is not listener)
                log.warning("a log or report is no longer written: %s", error)

    def accept(self, work: Work, result: Result, worker: str, needs: int) -> None:
        """Publish a result, or retry the item, or record it as failed.

        Args:
            needs: memory that a retry needs, in bytes.
        """
        if self.is_outdated(work.item, result.failure is not None):
            self._sink.discard(result)
            self._ledger.release(self.job, self._sink.address, work.names)
            return
        if result.failure is None:
            result = self._publish(work, result)
        failure = result.failure
        if failure is None:
            self._done += 1
            if result.dropped or result.warnings:
                self.losses.add(result)
            self._suspects.record_outcome(work.item, None)
            self._ledger.record_done(self.job, self._sink.address, result, work.attempt, worker)
            if self._listeners:
                self.emit(Done(result, work.attempt, worker, self._source.waited(result.key)))
        elif self.may_retry(work, result):
            self.emit(Retried(result, work.attempt, worker, self.again.add(work, needs)))
        else:
            self._suspects.record_outcome(work.item, failure)
            self.fail(result, work.attempt, worker, work.names)

    def _publish(self, work: Work, result: Result) -> Result:
        try:
            self._sink.publish(self.job, work, self._meanings.of(work.item.key), result)
        except StorageError:
            raise
        except BaseException as error:
            self._sink.discard(result)
            reason = failure_of(result.key, error)
            return Result(result.key, (), reason, result.times, result.started)
        return result

    def may_retry(self, work: Work, result: Result) -> bool:
        failure = result.failure
        return (
            failure is not None and failure.transient and work.attempt < self._attempts and not self.is_ending
        )

    def fail_here(self, item: Item, error: BaseException, names: tuple[str, ...] = ()) -> None:
        """Record an item as failed because of an exception in the driver."""
        result = Result(item.key, failure=failure_of(item.key, error), started=time.time())
        self.fail(result, 1, "driver", names)

    def fail(self, result: Result, attempt: int, worker: str, names: tuple[str, ...] = ()) -> None:
        """Record an item as failed.

        Args:
            names: names of its outputs, whose claims are released.
        """
        self._failed += 1
        self._ledger.record_failed(self.job, self._sink.address, result, attempt, worker, names)
        self.emit(Failed(result, attempt, worker))

    def is_outdated(self, item: Item, failed: bool) -> bool:
        """Whether the item's file was changed or deleted since, so that its result is ignored."""
        reason = self._source.outdated(item, failed)
        if reason:
            self.skip(item, reason)
        return reason is not None

    def skip(self, item: Item, reason: SkipReason) -> None:
        """Record an item as skipped."""
        self._skipped += 1
        if self._listeners:
            self.emit(Skipped(item, reason))
