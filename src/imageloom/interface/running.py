"""Jobs that run in a thread of this process: to wait for, to stop, to ask, and to iterate over."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Self

from imageloom.driver.run import Driver
from imageloom.engines import opened_engine
from imageloom.interface import notebook
from imageloom.interface.manifests import write_manifests
from imageloom.interface.options import Prepared
from imageloom.interface.results import ItemResult, Progress, of_event, of_records
from imageloom.records.events import Began, Event
from imageloom.records.ledger import Ledger, default_path
from imageloom.records.recorder import Recorder
from imageloom.records.summary import Summary
from imageloom.stores import is_remote, local_path

MOST_WAITING = 1000
"""Number of results that wait for the reader of a stream, before the job pauses."""


def run(prepared: Prepared, on_driver: Callable[[Driver], None] = lambda driver: None) -> Summary:
    """Run a job in this thread.

    Args:
        on_driver: called before the run begins.

    Raises:
        UsageError, StorageError, MissingExtra, EngineFailed: see `imageloom.process`.
    """
    job, engine, settings, ledger, timeline, progress, prune, listeners = prepared[:8]
    with (
        opened_engine(engine, settings) as opened,
        Ledger(ledger) as book,
        Recorder(book.path, job, engine, opened.capacity, timeline) as recorder,
        notebook.Bar(job if progress else None) as bar,
    ):
        driver = Driver(job, opened, book, engine, (*recorder.listeners, *bar.listeners, *listeners))
        on_driver(driver)
        if prune:
            driver.prune()
        summary = driver.run()
        if prepared.manifest:
            write_manifests(driver, prepared.manifest, prepared.sizes)
        return summary


class Job:
    """A job that was started. `imageloom.start` makes it.

    It runs in a thread of this process. `await job` is `wait` for asyncio. At the end of the program, a
    running job is stopped as by `stop`; the same call resumes it.
    """

    def __init__(self, prepared: Prepared, feed: _Feed | None = None) -> None:
        sink = prepared.job.sink
        self._sink = sink if is_remote(sink) else os.path.abspath(local_path(sink))
        self._ledger = prepared.ledger if prepared.ledger is not None else default_path()
        self._number = 0
        self._counts = dict.fromkeys(("done", "failed", "skipped"), 0)
        self._began = time.monotonic()
        self._seconds: float | None = None
        self._stopping = False
        self._driver: Driver | None = None
        self._opened: Future[None] = Future()
        self._ended: Future[Summary] = Future()
        self._ended.set_running_or_notify_cancel()
        self._opened.set_running_or_notify_cancel()
        self._feed = feed
        listeners = (self._take, *prepared.listeners)
        self._thread = threading.Thread(
            target=self._run, args=(prepared._replace(listeners=listeners),), name="imageloom job"
        )

    def _start(self) -> Self:
        """Start the thread, and wait until source, sink and engine are open.

        Raises:
            ImageloomError: see `imageloom.process`.
        """
        _stop_at_exit(self)
        self._thread.start()
        self._opened.result()
        return self

    @property
    def number(self) -> int:
        """The number of the job in the ledger, for `imageloom jobs show`; 0 before it has begun."""
        return self._number

    @property
    def progress(self) -> Progress:
        """How far the job is."""
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self._began
        return Progress(**self._counts, seconds=seconds, is_running=not self._ended.done())

    @property
    def items(self) -> Iterator[ItemResult]:
        """The items that are done or failed so far, from the ledger, ordered by key.

        Raises:
            StorageError: the ledger cannot be read.
        """
        return self._items(None)

    @property
    def failures(self) -> Iterator[ItemResult]:
        """The items that have failed so far, from the ledger, ordered by key.

        Raises:
            StorageError: the ledger cannot be read.
        """
        return self._items("failed")

    def _items(self, state: str | None) -> Iterator[ItemResult]:
        with Ledger(self._ledger) as book:
            yield from of_records(book.items(self._number, state))

    def stop(self) -> None:
        """Finish the items in progress, and start no others. Returns at once; `wait` waits for the end."""
        self._stopping = True
        if self._driver:
            self._driver.stop()

    def wait(self, timeout: float | None = None) -> Summary:
        """Wait for the end of the job. Failed items raise no exception: the summary has them.

        Args:
            timeout: in seconds; None: no limit.

        Raises:
            TimeoutError: the job has not ended after that time; it goes on.
            StorageError, EngineFailed: the job had to end early; it can be resumed.
        """
        return self._ended.result(timeout)

    def __await__(self) -> Generator[Any, None, Summary]:
        return asyncio.wrap_future(self._ended).__await__()

    def __repr__(self) -> str:
        return f"<Job {self._number}: {self.progress}>"

    def _repr_html_(self) -> str:
        return notebook.progress_html(self.progress)

    def _leave(self) -> None:
        """Stop the job, and drop its results: nobody reads them."""
        if self._feed:
            self._feed.close()
        self.stop()

    # In the thread of the job

    def _run(self, prepared: Prepared) -> None:
        try:
            summary = run(prepared, self._on_driver)
        except BaseException as error:
            self._end()
            if not self._opened.done():
                self._opened.set_exception(error)
            self._ended.set_exception(error)
        else:
            self._end()
            self._ended.set_result(summary)

    def _end(self) -> None:
        self._seconds = time.monotonic() - self._began

    def _on_driver(self, driver: Driver) -> None:
        self._driver = driver
        if self._stopping:
            driver.stop()
        self._opened.set_result(None)

    def _take(self, event: Event) -> None:
        if isinstance(event, Began):
            self._number = event.job
        elif result := of_event(event, self._sink):
            self._counts[result.state] += 1
            if self._feed:
                self._feed.put(result)


class Stream:
    """The results of a job's items, as they end: an iterator, also for `async for`. `imageloom.stream` makes
    it.

    `close` stops the job, and so does the end of a `with` statement. A `for` loop that is left early stops
    the job when nothing refers to the stream any more.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._feed = _Feed()
        self._job = Job(prepared, self._feed)
        self._job._ended.add_done_callback(self._feed.end)
        weakref.finalize(self, self._job._leave)
        self._job._start()

    @property
    def job(self) -> Job:
        """The job, to stop it or to ask for its progress."""
        return self._job

    @property
    def summary(self) -> Summary:
        """The summary of the job. This waits for its end; results that were not read can be read afterwards.

        Raises:
            StorageError, EngineFailed: the job had to end early; it can be resumed.
        """
        self._feed.keep_all()
        return self._job.wait()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemResult:
        while (found := self._feed.take()) is None:
            if self._feed.has_ended:
                if not self._feed.is_closed:
                    self._job.wait()  # raises what has ended it early
                raise StopIteration
            if waiter := self._feed.waiter():
                waiter.result()
        return found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemResult:
        while (found := self._feed.take()) is None:
            if self._feed.has_ended:
                if not self._feed.is_closed:
                    self._job.wait()  # has ended: this does not block
                raise StopAsyncIteration
            if waiter := self._feed.waiter():
                await asyncio.wrap_future(waiter)
        return found

    def close(self) -> None:
        """Stop the job: items in progress are finished. This waits for its end. Results that were not read
        are lost."""
        self._job._leave()
        self._job._thread.join()

    async def aclose(self) -> None:
        """`close` for asyncio."""
        self._job._leave()
        await asyncio.to_thread(self._job._thread.join)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Stream of {self._job!r}>"


class _Feed:
    """Results on their way from the job's thread to a reader in another thread or in an event loop."""

    def __init__(self) -> None:
        self._results: deque[ItemResult] = deque()
        self._change = threading.Condition()
        self._waiters: list[Future[None]] = []
        self.has_ended = False
        """No more results come, but there may be some to take."""
        self.is_closed = False
        """Nobody reads any more."""
        self._keeps_all = False

    def put(self, result: ItemResult) -> None:
        """Add a result; wait while the reader is far behind."""
        with self._change:
            self._change.wait_for(
                lambda: len(self._results) < MOST_WAITING or self._keeps_all or self.is_closed
            )
            if not self.is_closed:
                self._results.append(result)
            self._wake()

    def keep_all(self) -> None:
        """From now on, the job does not wait for the reader."""
        with self._change:
            self._keeps_all = True
            self._change.notify_all()

    def end(self, _: object = None) -> None:
        with self._change:
            self.has_ended = True
            self._wake()

    def close(self) -> None:
        with self._change:
            self.is_closed = self.has_ended = True
            self._results.clear()
            self._wake()

    def take(self) -> ItemResult | None:
        """The next result, if there is one."""
        with self._change:
            found = self._results.popleft() if self._results else None
            self._change.notify_all()
            return found

    def waiter(self) -> Future[None] | None:
        """A future that is done when there is something new; None if there is already."""
        with self._change:
            if self._results or self.has_ended:
                return None
            waiter: Future[None] = Future()
            self._waiters.append(waiter)
            return waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if waiter.set_running_or_notify_cancel():  # a reader in an event loop may have given up
                waiter.set_result(None)
        self._change.notify_all()


_running: weakref.WeakSet[Job] = weakref.WeakSet()
_watching = threading.Lock()
_watcher: threading.Thread | None = None


def _stop_at_exit(job: Job) -> None:
    """Stop the job when the main thread ends: Python waits for the job's thread, and then closes thread
    pools."""
    global _watcher  # noqa: PLW0603 - one for all jobs
    with _watching:
        _running.add(job)
        if _watcher is None or not _watcher.is_alive():
            _watcher = threading.Thread(target=_watch, name="imageloom exit", daemon=True)
            _watcher.start()


def _watch() -> None:
    threading.main_thread().join()
    for job in list(_running):
        job._leave()
