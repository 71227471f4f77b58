"""The flow: source -> plan -> tasks -> engine -> assemble -> sink, with the ledger beside it.

The driver owns what every engine would otherwise write again: the window of tasks in flight, admission by
bytes, retries with backoff, quarantine, interruption. An engine only runs tasks. Only the driver counts
attempts and publishes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from imageloom import plan, results
from imageloom.ahead import Look, Questions, with_next
from imageloom.batches import UPLOADED, Ready, gather
from imageloom.engines import Engine, submit
from imageloom.errors import ImageloomError, ItemError, LimitExceeded, WorkerLost
from imageloom.events import (
    Began,
    Collected,
    Done,
    Event,
    Failed,
    Listener,
    Planned,
    Retried,
    Skipped,
    SkipReason,
    Started,
)
from imageloom.ledger import JobState, Ledger
from imageloom.machine import half_of_memory
from imageloom.model import Failure, Item, Job, Outcome, Result, Task, Unlisted, Work
from imageloom.pipeline import to_text
from imageloom.sink import InPlace, Sink, check_template
from imageloom.source import Source
from imageloom.summary import Summary
from imageloom.window import LATE, Flight, Retries, Window

if TYPE_CHECKING:
    from imageloom.large import LargeImages


class Driver:
    """Runs one job on one engine.

    Args:
        job: what is to be done.
        engine: where; the caller opens and closes it.
        ledger: what was done before, and the record of this run.
        engine_name: for the record.
        listeners: called with each event, in this thread.
        source: the job's, opened in another way than usual.

    Raises:
        StorageError: the source or the sink cannot be used, or another run writes into the sink.
        UsageError: the sink lies in the source.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        ledger: Ledger,
        engine_name: str = "serial",
        listeners: Iterable[Listener] = (),
        source: Source | None = None,
    ) -> None:
        self._job = job
        self._engine = engine
        self._engine_name = engine_name
        self._ledger = ledger
        self._listeners = (*listeners, *getattr(engine, "listeners", ()))  # an engine's broker may take notes
        self._source = source or Source(job.source, job.include, job.exclude)
        kind, sink = (InPlace, self._source.root) if job.in_place else (Sink, job.sink)
        self._sink = kind(sink, self._source, ledger, job.if_exists, job.scratch)
        check_template(job.name)
        self._sink.check_formats(job.recipe)
        self._recipe = plan.meaning(job.recipe, job.name)
        self._memory = job.memory or half_of_memory()
        self._questions = Questions(job, self._source, self._sink, self._recipe, engine, self._memory)
        self._stopping = False
        self._id = 0
        self._tasks = 0
        self._done = self._failed = self._skipped = 0
        self._overlaps = self._questions.take_long and getattr(engine, "overlaps", False)
        self._in_flight = Window(self._memory, self._overlaps)
        self._is_last = False
        """Nothing waits behind the item that is planned."""
        self._finished: SimpleQueue[tuple[int, Future[Outcome]] | None] = SimpleQueue()
        self._again = Retries()
        self._item_numbers = itertools.count(1)
        self._large: LargeImages | None = None

    def stop(self) -> None:
        """Finish what is in hand and begin nothing new. Safe to call from a signal handler."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        self._finished.put(None)

    def run(self) -> Summary:
        """Do the whole job."""
        began = time.perf_counter()
        if self._job.scratch:
            from imageloom.raster import check_folder  # few runs have such a folder

            check_folder(self._job.scratch)
        self._sink.open()
        try:
            text = "; ".join(to_text(output.steps) for output in self._job.recipe.outputs)
            self._id = self._ledger.begin(
                self._source.root, self._sink.address, text, self._engine_name, self._engine.capacity
            )
            self._tell(Began(self._id))
            try:
                for batch in gather(self._planned(), self._most_in_batch):
                    if self._stopping:
                        break
                    if not batch:
                        self._wait_for_more()
                    elif batch[0].plan:
                        self._begin_large(batch[0])
                    else:
                        self._submit(batch)
                    self._retry()
                    self._pump()
                    while not self._finished.empty():  # publish early: a kill loses less
                        self._collect()
                    self._collect_late()
                self._finish()
            finally:
                self._questions.close()
                if self._large:
                    self._large.close()
                state: JobState = "killed" if self._in_flight else "interrupted" if self._stopping else "done"
                self._ledger.finish(self._id, state, *self._numbers())
        finally:
            self._sink.close()
        seconds = time.perf_counter() - began
        return Summary(self._id, *self._numbers(), seconds, self._stopping)

    def preview(self) -> Summary:
        """Plan the whole job, and do nothing: the items that would be done are told as `Planned`.

        The ledger takes notes all the same: give it a scratch one.
        """
        began = time.perf_counter()
        waiting = sum(1 for _ in self._planned())
        _, failed, skipped = self._numbers()
        return Summary(0, waiting, failed, skipped, time.perf_counter() - began)

    def _numbers(self) -> tuple[int, int, int]:
        return self._done, self._failed, self._skipped

    # source -> plan

    def _planned(self) -> Iterator[Ready | None]:
        """The items that are to be done, with their plans; the others are skipped or failed here."""
        failed_before = (
            self._ledger.failed_before(self._source.root, self._sink.address)
            if self._job.retry_failed
            else None
        )
        for (entry, look), is_last in with_next(self._questions.entries(self._wake)):
            self._is_last = is_last
            if self._stopping:
                return
            if entry is None:
                yield None
                continue
            if failed_before is not None and entry.key not in failed_before:
                if isinstance(entry, Item):
                    self._skip(entry, "not failed before")
                continue
            if isinstance(entry, Unlisted):
                self._fail(_failed_in_planning(entry.key, entry.failure), 1, "driver")
                continue
            try:
                ready = self._plan(entry, look())
            except ItemError as error:
                if not self._is_outdated(entry, True):
                    self._fail(_failed_in_planning(entry.key, Failure.of(error)), 1, "driver")
                ready = None
            if ready is not None:
                yield ready
            if ready is None or ready.plan:
                self._questions.drop(entry)

    def _plan(self, item: Item, look: Look | None) -> Ready | None:
        if look is None:
            self._skip(item, "done before")
            return None
        limits, recipe = self._job.limits, self._job.recipe
        header, names, taken = look
        plan.check_limits(header, limits, item.size)
        planned = plan.make_plan(header, recipe)
        needs, what, capacity = planned.bytes + item.size, "it", self._engine.capacity
        tiled = plan.why_tiled(self._job, header, planned, needs, self._memory, capacity, self._is_alone)
        if tiled:
            from imageloom.large import needs_of  # no small image waits for it

            most = max(needs_of(header, planned, item.size).values(), key=lambda need: need.bytes)
            needs, what = most.bytes, most.what
        if needs > self._memory:
            raise LimitExceeded(
                f"{what} needs {needs:,} bytes of memory, over the limit of {self._memory:,} (--memory)"
            )
        may_replace = self._sink.claim(self._id, item, self._recipe, names, taken)
        if may_replace is None:
            self._skip(item, "output exists")
            return None
        if self._listeners:
            self._tell(Planned(item, names))
        steady = self._source.is_endless and self._source.store.is_local
        work = Work(item, names, next(self._item_numbers), 1, header, may_replace, steady)
        return Ready(work, header.frame.pixels, needs, plan=(header, planned) if tiled else None)

    @property
    def _is_alone(self) -> bool:
        """No other image waits to be planned."""
        return self._is_last or self._job.items_at_once == 1

    def _most_in_batch(self) -> int:
        """How many items the next task may have: one where each would wait for the others' requests."""
        if self._job.items_at_once == 1:
            return 1
        if self._questions.take_long:
            return UPLOADED if self._overlaps and self._in_flight.is_busy(self._engine.capacity) else 1
        return plan.BATCH_ITEMS

    # tasks -> engine

    def _begin_large(self, ready: Ready) -> None:
        """Begin an image that is done in tiles, as soon as those before it leave room."""
        from imageloom.large import LargeImages  # no small image waits for it

        if self._large is None:
            scratch = self._job.scratch or self._sink.store.staging("")
            held = self._memory // 4 if getattr(self._engine, "shares_memory", False) else 0
            self._large = LargeImages(
                self._job, self._source.store, self._sink.store, scratch, str(self._id), held, self._wake
            )
        while self._large.is_full and not self._stopping:
            self._advance()
        assert ready.plan is not None
        try:
            self._large.begin(ready.work, *ready.plan, self._engine.capacity)
        except ImageloomError as error:
            failed = _failed_in_planning(ready.work.item.key, Failure.of(error))
            self._fail(failed, 1, "driver", ready.work.names)
        self._pump()

    def _pump(self) -> None:
        """Hand out the parts of large images that are ready, as far as there is room."""
        while self._large and not self._stopping and (found := self._large.next_part()):
            if len(found) == 2:
                work, failed = found
                self._fail(failed, work.attempt, "driver", work.names)
                continue
            work, part, needs = found
            self._submit([Ready(work, 0, needs, part)])

    def _submit(self, batch: list[Ready]) -> None:
        """Hand a batch to the engine as soon as the window and the memory have room."""
        needs = max(ready.bytes for ready in batch)
        if self._questions.take_long:  # what was read of the others waits in memory
            needs += sum(ready.work.item.size for ready in batch[1:])
        while self._in_flight.is_full(self._engine.capacity, needs):
            self._collect()
        self._tasks += 1
        task = Task(
            self._tasks,
            str(self._id),
            self._source.root,
            self._sink.address,
            self._job.recipe,
            self._job.limits,
            tuple(ready.work for ready in batch),
            batch[0].part,
        )
        if self._listeners:
            self._tell(Started(task.id, len(batch), sum(ready.pixels for ready in batch)))
        self._sink.begin()
        flight = self._in_flight.add(task, needs)
        flight.future = submit(self._engine, task, flight.tell)
        flight.future.add_done_callback(lambda done: self._finished.put((task.id, done)))

    def _finish(self) -> None:
        """Wait for all that is in flight, and for the retries."""
        while self._in_flight or ((self._again or self._large) and not self._stopping):
            self._advance()

    def _advance(self) -> None:
        """Hand out what is due, and take one outcome in."""
        self._retry()
        self._pump()
        if not (self._in_flight or self._again or self._large):
            return  # the last image has failed just now: nothing more will arrive
        self._collect(None if self._stopping else self._again.pause)

    def _wait_for_more(self) -> None:
        """Take one outcome in, unless the source has something before."""
        self._ledger.note_progress(self._id, *self._numbers())
        until_retry = None if self._stopping else self._again.pause
        pause = self._source.pause
        self._collect(pause if until_retry is None else min(pause, until_retry))

    def _retry(self) -> None:
        """Submit the items whose pause is over, each as a task of its own."""
        if self._stopping:
            return
        for ready in self._again.due():
            if ready.part is None or (self._large and self._large.has(ready.work)):
                self._submit([ready])

    # engine -> sink

    def _collect(self, patience: float | None = None) -> None:
        """Take one outcome in; wait at most `patience` seconds for it."""
        if self._in_flight.has_arrived:
            patience = LATE if patience is None else min(patience, LATE)
        try:
            arrived = self._finished.get(timeout=patience)
        except Empty:
            self._collect_late()
            return
        if arrived is None:
            if self._stopping:
                self._in_flight.cancel()
            return
        number, future = arrived
        flight = self._in_flight.pop(number)
        if self._stopping and future.cancelled():
            return
        try:
            outcome = future.result()
        except (WorkerLost, CancelledError) as error:
            lost = Failure(type(error).__name__, str(error) or "the worker died", transient=True)
            outcome = Outcome(number, "", tuple(Result(w.item.key, failure=lost) for w in flight.task.work))
        rest = flight.take_rest(results.all_of(flight.task, outcome))
        self._take_in(flight, rest, results.shown(outcome.worker), is_last=True)

    def _collect_late(self) -> None:
        """Take in what has arrived of tasks that take long."""
        for flight in self._in_flight.late():
            if found := flight.take_arrived():
                self._take_in(flight, found, "", is_last=False)

    def _take_in(self, flight: Flight, found: list[tuple[Work, Result]], worker: str, is_last: bool) -> None:
        """Take results in, and say what becomes of their items."""
        task, needs = flight.task, flight.bytes
        found = [(work, results.checked(task, work, result, worker)) for work, result in found]
        if self._listeners:
            outcome = Outcome(task.id, worker, tuple(result for _, result in found))
            self._tell(Collected(task, outcome, is_last))
        for work, result in found:
            name = result.worker or worker
            if task.part is None or self._large is None:
                self._accept(work, result, name, needs)
            elif self._large.has(work) and self._may_retry(work, result):
                self._tell(Retried(result, work.attempt, name, self._again.add(work, needs, task.part)))
            elif ended := self._large.accept(task, result):
                self._accept(*ended, name, needs)

    def _may_retry(self, work: Work, result: Result) -> bool:
        failure = result.failure
        return (
            failure is not None
            and failure.transient
            and work.attempt < self._job.attempts
            and not self._stopping
        )

    def _accept(self, work: Work, result: Result, worker: str, needs: int) -> None:
        """Publish a result, try the item again, or give it up."""
        if self._is_outdated(work.item, result.failure is not None):
            self._sink.discard(result)
            self._ledger.release(self._id, self._sink.address, work.names)
            return
        if result.failure is None:
            try:
                self._sink.publish(self._id, work, self._recipe, result)
            except ItemError as error:
                self._sink.discard(result)
                result = Result(result.key, (), Failure.of(error), result.times, result.started)
        failure = result.failure
        if failure is None:
            self._done += 1
            self._ledger.record_done(self._id, self._sink.address, result, work.attempt, worker)
            if self._listeners:
                self._tell(Done(result, work.attempt, worker, self._source.waited(result.key)))
        elif self._may_retry(work, result):
            self._tell(Retried(result, work.attempt, worker, self._again.add(work, needs)))
        else:
            self._fail(result, work.attempt, worker, work.names)

    def _fail(self, result: Result, attempt: int, worker: str, names: tuple[str, ...] = ()) -> None:
        self._failed += 1
        self._ledger.record_failed(self._id, self._sink.address, result, attempt, worker, names)
        self._tell(Failed(result, attempt, worker))

    def _is_outdated(self, item: Item, failed: bool) -> bool:
        """Whether an item is another one by now, or has gone: what came of it does not count."""
        reason = self._source.outdated(item, failed)
        if reason:
            self._skip(item, reason)
        return reason is not None

    def _skip(self, item: Item, reason: SkipReason) -> None:
        self._skipped += 1
        if self._listeners:
            self._tell(Skipped(item, reason))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _failed_in_planning(key: str, failure: Failure) -> Result:
    return Result(key, failure=failure, started=time.time())
