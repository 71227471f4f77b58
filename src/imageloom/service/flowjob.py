"""A job of a flow in its own thread: one driver after the other, until nothing is left to do."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from imageloom.driver.run import Driver
from imageloom.driver.source import Source
from imageloom.errors import ImageloomError, StorageError
from imageloom.model import Plain
from imageloom.records.events import Advanced, Began, Done, Event, Failed, Listener, Retried, Skipped
from imageloom.records.history import History
from imageloom.records.ledger import Ledger
from imageloom.records.recorder import Recorder
from imageloom.records.retention import Retention
from imageloom.service.activity import Activity
from imageloom.service.feed import Feed
from imageloom.service.flows import Flow
from imageloom.service.outcomes import Outcomes
from imageloom.service.state import JobRow, ServiceState
from imageloom.service.steering import ChosenItems, ListedSource, SteeredWatch
from imageloom.service.turns import FlowEngine, Turns
from imageloom.service.webhooks import Webhooks

KEPT_DAYS = 30.0
"""How long the items of a watched flow are kept in the history, in days."""
RATE_SECONDS = 30.0
"""The rate is that of the last seconds."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
"""Seconds until a watched flow is started again after its storage failed. The pause doubles each time."""

FLUSH = 0.2
"""Minimum seconds between two flushes of the ledger because of failures, which people wait for."""

log = logging.getLogger(__name__)


class Numbers(Plain, frozen=True):
    """The progress of a job."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    """Items whose outputs existed before the job."""
    retried: int = 0
    """Attempts that failed and were followed by another, since the service started."""
    written: int = 0
    """Bytes of outputs, since the service started."""
    rate: float = 0.0
    """Items per second, of the last seconds."""
    median: float | None = None
    """Median of the seconds from a complete file to its outputs, of a watched flow."""
    slow: float | None = None
    """The same, for the 95th percentile."""


class Site(NamedTuple):
    """What all jobs of a service share."""

    state: ServiceState
    ledger: Path
    turns: Turns
    roots: tuple[str, ...]
    feed: Feed
    timeout: float
    outcomes: Outcomes
    webhooks: Webhooks


class FlowJob:
    """A job that runs, or waits for that.

    Args:
        row: the job as it was recorded.
        changed: called from any thread when its progress has changed.
    """

    def __init__(self, row: JobRow, flow: Flow, site: Site, changed: Callable[[], None]) -> None:
        self.id, self.flow = row.id, flow
        self.activity = Activity()
        self.not_before = 0.0
        """Monotonic time before which it is not started again."""
        self.is_running = False
        self.is_dirty = True
        """Its progress has changed since it was reported."""
        self._site, self._changed = site, changed
        self._lock = threading.Lock()
        self._driver: Driver | None = None
        self._source: Source | None = None
        self._is_stopping = False
        self._failures = 0
        self._written = self._retried = 0
        self._done, self._skips, self._seen_before = row.done, row.skipped, 0
        self._failed: set[str] = set()
        self._aside: set[str] = set()
        self._recent: deque[tuple[float, int]] = deque()
        self._engine = FlowEngine(site.turns, flow.name, flow.when == "watched", flow.options.workers)

    # Called by the service

    def start(self, ended: Callable[[FlowJob], None]) -> threading.Thread:
        """Run in a thread, which calls `ended` at its end. Returns the thread."""
        self.is_running, self._is_stopping = True, False

        def run() -> None:
            try:
                self._run()
            finally:
                self.is_running = False
                ended(self)

        thread = threading.Thread(target=run, name=f"job-{self.id}")
        thread.start()
        return thread

    def stop(self) -> None:
        """Finish the items in progress, and begin no others."""
        with self._lock:
            self._is_stopping = True
            if self._driver:
                self._driver.stop()
            if isinstance(self._source, SteeredWatch):
                self._source.end()

    def again(self, key: str) -> None:
        """Process an item again, if the flow is watched. Other jobs look at their end for such items."""
        with self._lock:
            if isinstance(self._source, SteeredWatch):
                self._source.again(key)

    def hear(self, keys: Iterable[str]) -> bool:
        """Look at items that may be new, if the flow is watched and runs. Returns whether it does."""
        with self._lock:
            if not isinstance(self._source, SteeredWatch):
                return False
            self._source.hear(keys)
            return True

    def set_aside(self, key: str, is_aside: bool) -> None:
        (self._aside.add if is_aside else self._aside.discard)(key)

    @property
    def numbers(self) -> Numbers:
        now = time.monotonic()
        median = slow = None
        source = self._source
        if isinstance(source, SteeredWatch) and source.latencies:
            times = sorted(source.latencies.copy())
            median, slow = times[len(times) // 2], times[min(len(times) - 1, len(times) * 95 // 100)]
        return Numbers(
            self._done,
            len(self._failed),
            max(0, self._skips - self._seen_before),
            self._retried,
            self._written,
            self._rate(now),
            median,
            slow,
        )

    def _rate(self, now: float) -> float:
        recent = [one for one in self._recent.copy() if one[0] > now - RATE_SECONDS]
        if len(recent) < 2:
            return 0.0
        return (recent[-1][1] - recent[0][1]) / max(0.5, now - recent[0][0])

    # In the job's thread

    def _run(self) -> None:
        state, id = self._site.state, self.id
        try:
            state.set_job(id, state="running", message="")
            self._aside = set(state.asides(self.flow.name))
            while not self._is_stopping and self._step():
                pass
            self._end()
        except StorageError as error:
            if self.flow.when == "watched" and not self._is_stopping:
                self._wait_for_storage(error)
            else:
                self._fail(str(error))
        except ImageloomError as error:
            self._fail(str(error))
        except Exception as error:
            log.exception("job %s", id)
            self._fail(f"the service failed: {type(error).__name__}: {error}")

    def _step(self) -> bool:
        """Do one run over what is left. Returns whether more may be left."""
        site, flow = self._site, self.flow
        row = site.state.job(self.id)
        assert row is not None
        failed = self._look_back()
        retries = site.state.retries(self.id)
        if not row.is_listed and flow.when == "watched":
            for key in retries:
                failed.pop(key, None)
            self._drive(SteeredWatch(flow, site.roots, self._may_begin, failed))
            return False
        if not row.is_listed:
            left = failed.keys() - set(retries)
            source = ListedSource(flow, site.roots, lambda key: key not in left and self._may_begin(key))
            if row.total is None and source.store.is_local:
                site.state.set_job(self.id, total=source.count())
            if self._drive(source):
                site.state.set_job(self.id, is_listed=1)
            return True
        if not retries:
            return False
        if self._drive(ChosenItems(flow, site.roots, retries)):
            site.state.remove_retries(self.id, retries)
        return True

    def _look_back(self) -> dict[str, float]:
        """Take over what earlier runs of this job have done. Returns the items that failed."""
        runs = self._site.state.runs(self.id)
        if not runs:
            return {}
        with History(self._site.ledger) as history:
            self._done, _ = history.counts(runs)
            failed = history.failed(runs)
        self._failed = set(failed)
        return failed

    def _may_begin(self, key: str) -> bool:
        return key not in self._aside

    def _drive(self, source: Source) -> bool:
        """Run a driver over a source. Returns whether it has seen all items."""
        site, flow = self._site, self.flow
        if isinstance(source, (ListedSource, SteeredWatch)):
            self._skips, self._seen_before = 0, self._done
        is_watched = isinstance(source, SteeredWatch)  # it has no end: its timeline would grow without one
        with (
            Ledger(site.ledger) as ledger,
            Recorder(
                ledger.path, flow.job, "service", site.turns.engine.capacity, not is_watched
            ) as recorder,
        ):
            listeners: list[Listener] = [self.activity, self._on_event, _FailureFlush(ledger)]
            listeners += recorder.listeners
            if isinstance(source, SteeredWatch):
                listeners += [source, Retention(ledger, KEPT_DAYS)]
            driver = Driver(flow.job, self._engine, ledger, "service", listeners, source, followed=True)
            with self._lock:
                self._driver, self._source = driver, source
                is_stopping = self._is_stopping
            try:
                if is_stopping:
                    return False
                return not driver.run().interrupted
            finally:
                with self._lock:
                    self._driver = None

    def _on_event(self, event: Event) -> None:
        self._site.outcomes.add(self.id, event)
        match event:
            case Began(number):
                self._failures = 0
                self._site.state.add_run(self.id, number)
            case Done(result):
                self._done += 1
                self._written += sum(written.size for written in result.written)
                self._settle(result.key)
            case Failed(result):
                self._settle(result.key)
                self._failed.add(result.key)
                kind, message = (result.failure.kind, result.failure.message) if result.failure else ("", "")
                self._site.webhooks.failed(self.id, self.flow.name, result.key, kind, message)
                self._site.feed.add("failed", job=self.id, flow=self.flow.name, key=result.key, failure=kind)
            case Retried():
                self._retried += 1
            case Skipped(item):
                self._skips += 1
                self._settle(item.key, is_counted=False)
            case Advanced():
                pass
            case _:
                return
        self.is_dirty = True
        self._changed()

    def _settle(self, key: str, is_counted: bool = True) -> None:
        """An item has an outcome: it is no longer to be tried again."""
        if key in self._failed:
            self._failed.discard(key)
            self._site.state.remove_retries(self.id, [key])
        if is_counted:
            self._recent.append((time.monotonic(), self._done + len(self._failed)))
            if len(self._recent) > 10_000 or self._recent[0][0] < time.monotonic() - RATE_SECONDS:
                self._recent.popleft()

    def _end(self) -> None:
        """Record the state that follows from what is wanted."""
        state = self._site.state
        self._site.webhooks.flush()
        row = state.job(self.id)
        assert row is not None
        numbers = self.numbers
        counts = {"done": numbers.done, "failed": numbers.failed, "skipped": numbers.skipped}
        if row.wanted == "cancel":
            state.set_job(self.id, state="cancelled", ended=time.time(), is_listed=1, **counts)
        elif row.wanted == "pause":
            state.set_job(self.id, state="paused", **counts)
        elif self._is_stopping:  # the service ends, or the job was resumed meanwhile
            state.set_job(self.id, state="queued", **counts)
        else:
            state.set_job(self.id, state="done", ended=time.time(), **counts)

    def _wait_for_storage(self, error: StorageError) -> None:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 20))
        self._failures += 1
        self.not_before = time.monotonic() + pause
        self._site.state.set_job(self.id, state="queued", message=f"{error}; next attempt in {pause:.0f} s")

    def _fail(self, message: str) -> None:
        numbers = self.numbers
        self._site.state.set_job(
            self.id, state="error", message=message[:2000], ended=time.time(), is_listed=1,
            done=numbers.done, failed=numbers.failed, skipped=numbers.skipped,
        )  # fmt: skip


class _FailureFlush:
    """Writes failures into the ledger at once, but not too often: pages read them there."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._is_due = False
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        self._is_due = self._is_due or isinstance(event, Failed)
        if self._is_due and time.monotonic() - self._last >= FLUSH:
            self._ledger.flush()
            self._is_due, self._last = False, time.monotonic()
