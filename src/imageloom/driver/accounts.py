"""The outcomes of a run's items: published, retried, failed or skipped. Counts, records and reports them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from msgspec.structs import replace

from imageloom.driver import rounds
from imageloom.driver.clock import REAL, Clock
from imageloom.driver.rounds import Finished, Rounds, left_out
from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.driver.suspects import Suspects
from imageloom.driver.window import Retries
from imageloom.errors import DiskFull, StorageError
from imageloom.model import Failure, Item, Job, Result, Unlisted, Work
from imageloom.recipes.meaning import Meanings
from imageloom.records.events import Done, Event, Failed, Listener, Retried, Skipped, SkipReason
from imageloom.records.faults import failure_of
from imageloom.records.ledger import Ledger
from imageloom.records.losses import Losses
from imageloom.records.summary import MOST_FAILURES, Summary

MOST_UNWRITTEN = 3
"""A run stops after this number of items in a row that failed for lack of space."""
LONGEST_UNRECORDED = 0.25
"""After this number of seconds, the next done item has the ledger written: a kill then loses the record of few."""

log = logging.getLogger(__name__)


class Accounts:
    """Counts and records the outcomes of one run.

    Args:
        meanings: the texts that identify the recipe in the ledger.
        listeners: called with each event; a listener that raises OSError is removed.
        followed: somebody waits for each output, so with `Job.durable` they are published often.
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
        followed: bool = False,
    ) -> None:
        self.job = 0
        """The number of the run in the ledger."""
        self.is_ending = False
        """The run ends: no item is retried."""
        self.again = Retries(clock)
        self._clock, self._flushed = clock, clock.monotonic()
        self._attempts = job.attempts
        self._source = source
        self._sink = sink
        self._ledger = ledger
        self._meanings = meanings
        self._suspects = suspects
        self._listeners = tuple(listeners)
        self._done = self._failed = self._skipped = self._unchanged = 0
        self._unwritten: list[str] = []
        """Why the latest items failed, if each failed for lack of space."""
        self.losses = Losses()
        self._failures: dict[str, Failure] = {}
        longest = rounds.LONGEST_FOLLOWED if followed or source.is_endless else rounds.LONGEST
        self._rounds = Rounds(sink, ledger, meanings, longest, clock) if job.is_durable else None

    @property
    def waits(self) -> bool:
        """Whether finished items wait to be published and recorded."""
        return bool(self._rounds)

    @property
    def pause(self) -> float | None:
        """Seconds until `publish_waiting` is due; None if no item waits."""
        return self._rounds.pause if self._rounds else None

    @property
    def is_sink_full(self) -> bool:
        """Whether several items in a row failed for lack of space."""
        return len(self._unwritten) >= MOST_UNWRITTEN

    def check_space(self) -> None:
        """Raise a StorageError if the run has ended for lack of space."""
        if self.is_sink_full:
            raise StorageError(
                f"stopped after {self._done} items: there is no space for outputs ({self._unwritten[0]}); make "
                "space and repeat the command: it goes on where it stopped"
            )

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The numbers of done, failed and skipped items."""
        return self._done, self._failed, self._skipped

    def summary(self, seconds: float, is_interrupted: bool, waiting: int = 0) -> Summary:
        """The summary of the run.

        Args:
            seconds: its duration.
            waiting: number of items that would be done, for a preview.
        """
        losses = self.losses
        return Summary(
            self.job,
            self._done + waiting,
            self._failed,
            self._skipped,
            seconds,
            is_interrupted,
            losses.lost,
            dict(losses.dropped.most_common()),
            losses.damaged,
            losses.incomplete,
            dict(self._source.left_out.suffixes),
            self._unchanged,
            self._failures,
            self._source.elsewhere,
        )

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
        one = Finished(work, result, worker, needs)
        if result.failure is None:
            try:
                if self._rounds is not None:
                    self._rounds.add(self.job, one)
                    self.publish_waiting(all=False)
                    return
                self._sink.publish(self.job, work, self._meanings.of(work.item.key), result)
                times = self._sink.times_of(result)
                self._ledger.record_done(
                    self.job, self._sink.address, result, work.attempt, worker, times, left_out(one)
                )
                self._flush()
            except StorageError:
                raise
            except BaseException as error:
                self._sink.discard(result)
                reason = failure_of(result.key, error)
                failed = Result(result.key, (), reason, result.times, result.started)
                one = Finished(work, failed, worker, needs)
        self._end(one)

    def _flush(self) -> None:
        """Write what is done to the ledger, if that was not done for a while."""
        now = self._clock.monotonic()
        if now >= self._flushed + LONGEST_UNRECORDED:
            self._flushed = now
            self._ledger.flush()

    def publish_waiting(self, all: bool) -> None:
        """Publish and record the items that wait for that, if it is due.

        Args:
            all: do it now, until no item waits.
        """
        if not self._rounds:
            return
        if (
            not all and self._rounds.is_full
        ):  # more will come: the names of this round are flushed by the next
            self._turn(self._rounds)
        elif all or self._rounds.pause == 0.0:
            while self._rounds:
                self._turn(self._rounds)

    def _turn(self, rounds: Rounds) -> None:
        for one in rounds.turn(self.job):
            self._end(one)

    def _end(self, one: Finished) -> None:
        """Count and report an item that is done and recorded, or retry it, or record it as failed."""
        work, result, worker = one.work, one.result, one.worker
        failure = result.failure
        if failure is None:
            self._done += 1
            self._unwritten.clear()
            if result.dropped or result.warnings:
                self.losses.add(result)
            self._suspects.record_outcome(work.item, None)
            if self._listeners:
                self.emit(Done(result, work.attempt, worker, self._source.waited(result.key)))
        elif self.may_retry(work, result):
            self.emit(Retried(result, work.attempt, worker, self.again.add(work, one.bytes)))
        else:
            self._suspects.record_outcome(work.item, failure)
            self.fail(result, work.attempt, worker, work.names)

    def end_without_outputs(self, item: Item) -> None:
        """Count and record an item of which no output is to be made."""
        result = Result(item.key, started=time.time())
        self._ledger.record_done(self.job, self._sink.address, result, 1, "driver")
        self._end(Finished(Work(item, (), 0), result, "driver", 0))

    def may_retry(self, work: Work, result: Result) -> bool:
        failure = result.failure
        return (
            failure is not None and failure.transient and work.attempt < self._attempts and not self.is_ending
        )

    def fail_here(self, item: Item, error: BaseException, names: tuple[str, ...] = ()) -> None:
        """Record an item as failed because of an exception in the driver."""
        result = Result(item.key, failure=failure_of(item.key, error), started=time.time())
        self.fail(result, 1, "driver", names)

    def fail_unlisted(self, entry: Unlisted) -> None:
        """Record a name that cannot be processed as failed."""
        self.fail(Result(entry.key, failure=entry.failure, started=time.time()), 1, "driver")

    def fail(self, result: Result, attempt: int, worker: str, names: tuple[str, ...] = ()) -> None:
        """Record an item as failed.

        Args:
            names: names of its outputs, whose claims are released.
        """
        self._failed += 1
        if not result.started:  # a large image: only its parts have begun
            result = replace(result, started=time.time())
        if result.failure and result.failure.kind == DiskFull.__name__ and not self._source.is_endless:
            self._unwritten.append(result.failure.message)
        if result.failure and len(self._failures) < MOST_FAILURES:
            self._failures[result.key] = result.failure
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
        self._unchanged += reason == "done before"
        if self._listeners:
            self.emit(Skipped(item, reason))
