"""What becomes of the items of a run: published, tried again, given up or left out; counted, recorded and told."""

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
from imageloom.records.events import Done, Event, Failed, Listener, Retried, Skipped, SkipReason
from imageloom.records.faults import failure_of
from imageloom.records.ledger import Ledger

log = logging.getLogger(__name__)


class Accounts:
    """The accounts of one run.

    Args:
        recipe: its meaning, as the ledger has it.
        listeners: called with each event; one that cannot write any more is left out.
    """

    def __init__(
        self,
        job: Job,
        source: Source,
        sink: Sink,
        ledger: Ledger,
        recipe: str,
        suspects: Suspects,
        listeners: Iterable[Listener],
        clock: Clock = REAL,
    ) -> None:
        self.job = 0
        """The run's number in the ledger."""
        self.is_ending = False
        """Nothing is tried again."""
        self.again = Retries(clock)
        self._attempts = job.attempts
        self._source = source
        self._sink = sink
        self._ledger = ledger
        self._recipe = recipe
        self._suspects = suspects
        self._listeners = tuple(listeners)
        self._done = self._failed = self._skipped = 0

    @property
    def numbers(self) -> tuple[int, int, int]:
        """How many items were done, have failed and were left out."""
        return self._done, self._failed, self._skipped

    @property
    def are_told(self) -> bool:
        """Somebody listens."""
        return bool(self._listeners)

    def tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except StorageError:
                raise
            except OSError as error:  # its reader is gone, or the disk is full: the work goes on
                self._listeners = tuple(other for other in self._listeners if other is not listener)
                log.warning("a log or report cannot be written any more: %s", error)

    def accept(self, work: Work, result: Result, worker: str, needs: int) -> None:
        """Publish a result, have the item tried again, or give it up.

        Args:
            needs: bytes of memory that another attempt may take.
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
            self._suspects.settle(work.item, None)
            self._ledger.record_done(self.job, self._sink.address, result, work.attempt, worker)
            if self._listeners:
                self.tell(Done(result, work.attempt, worker, self._source.waited(result.key)))
        elif self.may_retry(work, result):
            self.tell(Retried(result, work.attempt, worker, self.again.add(work, needs)))
        else:
            self._suspects.settle(work.item, failure)
            self.fail(result, work.attempt, worker, work.names)

    def _publish(self, work: Work, result: Result) -> Result:
        try:
            self._sink.publish(self.job, work, self._recipe, result)
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
        """Give up an item by what the driver's own part of its work has raised."""
        result = Result(item.key, failure=failure_of(item.key, error), started=time.time())
        self.fail(result, 1, "driver", names)

    def fail(self, result: Result, attempt: int, worker: str, names: tuple[str, ...] = ()) -> None:
        """Give up an item.

        Args:
            names: of outputs that are free again.
        """
        self._failed += 1
        self._ledger.record_failed(self.job, self._sink.address, result, attempt, worker, names)
        self.tell(Failed(result, attempt, worker))

    def is_outdated(self, item: Item, failed: bool) -> bool:
        """Whether an item is another one by now, or has gone: what came of it does not count."""
        reason = self._source.outdated(item, failed)
        if reason:
            self.skip(item, reason)
        return reason is not None

    def skip(self, item: Item, reason: SkipReason) -> None:
        """Leave an item out."""
        self._skipped += 1
        if self._listeners:
            self.tell(Skipped(item, reason))
