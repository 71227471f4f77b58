"""The driver: source -> plan -> tasks -> engine -> assemble -> sink, recorded in the ledger.

The driver does what is the same for all engines: the window of tasks in flight, admission by memory, retries with
back-off, quarantine, interruption. An engine only runs tasks. Only the driver counts attempts and publishes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING

from msgspec.structs import replace

from imageloom import operators
from imageloom.driver.accounts import Accounts
from imageloom.driver.batches import UPLOADED, Ready, gather
from imageloom.driver.clock import REAL, Clock
from imageloom.driver.in_place import InPlace
from imageloom.driver.isolation import opener_of, sandbox_of
from imageloom.driver.lookahead import Lookahead
from imageloom.driver.naming import check_digests, check_pages, check_template
from imageloom.driver.planner import Planner
from imageloom.driver.sink import Sink
from imageloom.driver.source import Source
from imageloom.driver.suspects import Suspects
from imageloom.driver.window import LATE, Flight, Window
from imageloom.engines import Engine, submit
from imageloom.errors import ImageloomError, NotBegun, StorageError
from imageloom.model import Job, Outcome, Result, Task, Work
from imageloom.recipes import plan
from imageloom.recipes.checking import checked
from imageloom.recipes.files import resolved
from imageloom.recipes.meaning import Meanings
from imageloom.recipes.pipeline import to_text
from imageloom.records.events import Began, Collected, Listener, Pruned, Retried, Started
from imageloom.records.inprogress import InProgress
from imageloom.records.ledger import Ledger
from imageloom.records.schema import JobState
from imageloom.records.summary import Summary
from imageloom.scheduling import results
from imageloom.stores.names import job_of
from imageloom.system.announcing import Announcer
from imageloom.system.machine import half_of_memory

if TYPE_CHECKING:
    from imageloom.driver.manifest import Entry
    from imageloom.driver.pruning import Orphan
    from imageloom.tiling.large import LargeImages


SILENCE = 5.0
"""After this number of seconds without a result, a warning says what is missing."""

log = logging.getLogger("imageloom.driver")


class Driver:
    """Runs one job on one engine.

    Args:
        job: the job to run.
        engine: the engine that runs the tasks; the caller opens and closes it.
        ledger: the record of finished items and of this run.
        engine_name: the engine's name, for the ledger.
        listeners: called with each event, in this thread.
        source: the job's source, if the caller opens it; None to open it here.
        clock: the clock that the driver waits by.
        followed: somebody waits for each output, so with `durable` they are published often.

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
        clock: Clock = REAL,
        followed: bool = False,
    ) -> None:
        job = replace(job, recipe=resolved(job.recipe))
        self._job = job
        self._engine = engine
        self._engine_name = engine_name
        self._ledger = ledger
        self._source = source or Source.of(job)
        kind, sink = (InPlace, self._source.root) if job.in_place else (Sink, job.sink)
        self._sink = kind(sink, self._source, ledger, job.if_exists, job.scratch, job.adopt, job.shard)
        check_template(job.name, has_one_item=self._source.is_file)
        for output in checked(job.recipe).outputs:
            if output.name:
                check_template(output.name, self._source.is_file, f"name of the output {output.folder}")
        check_pages(job)
        check_digests(job)
        self._sink.check_recipe(job.recipe, job.name)
        self._meanings = Meanings(job.recipe, job.name)
        self._digests = operators.digests_of(job.recipe.operators)
        self._memory = job.memory or half_of_memory()
        self._lookahead = Lookahead(job, self._source, self._sink, self._meanings, engine, self._memory)
        self._stopping = False
        self._silence = Announcer("no progress", write=log.warning)
        self._pruned: Iterator[Orphan] = iter(())
        self._id = self._tasks = 0
        self._sandbox = sandbox_of(job, engine)
        self._overlaps = self._lookahead.take_long and engine.capabilities.overlaps
        self._in_flight = Window(self._memory, self._overlaps, self._wake, clock)
        self._finished = clock.queue()
        self._large: LargeImages | None = None
        shard = f"-{job.shard.number}-{job.shard.count}" if job.shard else ""
        numbers = f"{ledger.number(self._source.root)}-{ledger.number(self._sink.address)}{shard}"
        name = f"{ledger.path.name.replace('.', '-')}-{numbers}"  # other ledgers in the folder have such too
        self._in_progress = InProgress(ledger.path.parent / "in-hand" / name, self._sink.address)
        self._suspects = Suspects(job, engine, self._in_progress)
        listeners = (*listeners, *engine.listeners)  # an engine's broker may record items in progress
        self._accounts = Accounts(
            job, self._source, self._sink, ledger, self._meanings, self._suspects, listeners, clock, followed
        )
        self._again = self._accounts.again
        self._planner = Planner(
            job,
            engine,
            self._source,
            self._sink,
            ledger,
            self._meanings,
            self._memory,
            self._lookahead,
            self._in_progress,
            self._suspects,
            self._accounts,
        )

    @property
    def has_begun(self) -> bool:
        """Whether the job is in the ledger. Before that, nothing is in progress."""
        return self._id > 0

    @property
    def _task_job(self) -> str:
        """The job's number in tasks and tokens."""
        return job_of(self._job.shard.number if self._job.shard else 0, self._id)

    def prune(self) -> list[Orphan]:
        """Have the run first remove the outputs whose inputs are gone: see `Pruning.orphans`, also for errors."""
        from imageloom.driver.pruning import Pruning  # few runs need it

        pruning = Pruning(self._source, self._sink, self._ledger, self._job.in_place)
        self._pruned = pruning.remove(found := pruning.orphans(), lambda: self._stopping)
        return found

    def manifest(self) -> list[Entry]:
        """The items that are done with the recipe, and their outputs: see `driver.manifest`, also for errors."""
        from imageloom.driver.manifest import entries  # few runs need it

        return list(entries(self._source, self._sink, self._ledger, self._meanings))

    def stop(self) -> None:
        """Finish the items in progress and begin no others. Safe to call from another thread."""
        self._stopping = self._accounts.is_ending = True
        self._cut_short()
        self._wake()

    def _cut_short(self) -> None:
        """Have the engine finish only the items in progress of the tasks in flight."""
        for task in self._in_flight.tasks:
            self._engine.cut_short(task)

    def _wake(self) -> None:
        self._finished.put(None)

    def run(self) -> Summary:
        """Run the whole job."""
        began = time.perf_counter()
        state: JobState = "failed"
        self._sink.open()
        try:
            self._in_progress.open()
            if self._job.is_durable:
                self._sink.survive_power_cuts()
            text = "; ".join(to_text(output.steps) for output in self._job.recipe.outputs)
            try:
                self._id = self._accounts.job = self._ledger.begin(
                    self._source.root, self._sink.address, text, self._engine_name, self._engine.capacity
                )
                self._accounts.emit(Began(self._id, self._source.root, self._sink.address))
                for orphan in self._pruned:
                    self._accounts.emit(Pruned(orphan.made.name, orphan.key, orphan.kept))
                self._flow()
                self._accounts.check_space()
                state = "interrupted" if self._is_interrupted else "done"
            except KeyboardInterrupt:
                state = "killed" if self._in_flight else "interrupted"
                raise
            finally:
                self._lookahead.close()
                if self._large:
                    self._large.close()
                self._suspects.close()
                if self._id:
                    self._ledger.finish(self._id, state, *self._accounts.numbers)
        finally:
            self._in_progress.close(state == "done" and not self._job.retry_failed)
            self._sink.close()
        return self._accounts.summary(time.perf_counter() - began, self._is_interrupted)

    def _flow(self) -> None:
        try:
            for batch in gather(self._planner.ready(self._wake), self._most_in_batch):
                if self._stopping:
                    break
                if not batch:
                    self._wait_for_more()
                elif batch[0].plan:
                    self._begin_large(batch[0])
                else:
                    for piece in self._suspects.apart(batch):
                        self._submit(piece)
                self._retry()
                self._pump()
                while not self._finished.empty():  # publish early: a kill then loses less work
                    self._collect()
                self._collect_late()
        except StorageError:  # an error of the source, for example: the tasks in flight are finished
            self.stop()
            self._finish()
            raise
        self._finish()

    def preview(self) -> Summary:
        """Plan the whole job without running it. Listeners get a `Planned` event for each item that would be done.

        The ledger is changed nevertheless: use a scratch ledger.
        """
        began = time.perf_counter()
        waiting = 0
        self._lookahead.keeps = False  # there are no workers
        for ready in self._planner.ready(self._wake):
            if ready is None:
                with suppress(Empty):  # the listing wakes it
                    self._finished.get(timeout=self._source.pause)
            waiting += ready is not None
        return self._accounts.summary(time.perf_counter() - began, self._is_interrupted, waiting)

    @property
    def _is_interrupted(self) -> bool:
        """Whether it was stopped before its end. A watch has no other end."""
        return self._stopping and not self._source.is_endless

    # plan -> tasks

    def _most_in_batch(self) -> int:
        """Maximum number of items in the next task: one, if an item would wait for the others' requests."""
        if self._job.items_at_once == 1:
            return 1
        if self._lookahead.take_long:
            return UPLOADED if self._overlaps and self._in_flight.is_busy(self._engine.capacity) else 1
        return plan.BATCH_ITEMS

    # tasks -> engine

    def _begin_large(self, ready: Ready) -> None:
        """Start an image that is processed in tiles, as soon as there is enough memory for it."""
        from imageloom.tiling.large import LargeImages  # small images must not wait for it

        if self._large is None:
            held = self._memory // 4 if self._engine.capabilities.shares_memory else 0
            self._large = LargeImages(
                self._job,
                self._source.store,
                self._sink.store,
                self._sink.scratch,
                self._task_job,
                held,
                self._wake,
                self._in_progress,
                opener_of(self._sandbox, self._job.recipe),
                self._accounts.emit,
            )
        while self._large.is_full and not self._stopping:
            self._advance()
        if self._stopping:
            return
        assert ready.plan is not None
        try:
            self._large.begin(ready.work, *ready.plan, self._engine.capacity)
        except BaseException as error:
            self._accounts.fail_here(ready.work.item, error, ready.work.names)
        self._pump()

    def _pump(self) -> None:
        """Submit the parts of large images that are ready, as far as the window allows."""
        while self._large and not self._stopping and (found := self._large.next_part()):
            if len(found) == 2:
                work, failed = found
                self._accounts.fail(failed, work.attempt, "driver", work.names)
                continue
            work, part, needs = found
            self._submit([Ready(work, 0, needs, part)])

    def _submit(self, batch: list[Ready]) -> None:
        """Submit a batch to the engine as soon as the window and the memory allow it."""
        needs = max(ready.bytes for ready in batch)
        if self._lookahead.take_long:  # data that was read ahead for other items stays in memory
            needs += sum(ready.work.item.size for ready in batch[1:])
        while self._in_flight.is_full(self._engine.capacity, needs):
            self._collect()
        if self._stopping:
            return
        self._tasks += 1
        task = Task(
            self._tasks,
            self._task_job,
            self._source.root,
            self._sink.address,
            self._job.recipe,
            self._job.limits,
            tuple(ready.work for ready in batch),
            batch[0].part,
            self._job.links,
            digests=self._digests,
            sandbox=self._sandbox,
        )
        if self._accounts.has_listeners:
            self._accounts.emit(Started(task.id, len(batch), sum(ready.pixels for ready in batch)))
        self._sink.begin()
        flight = self._in_flight.add(task, needs)
        try:
            flight.future = submit(self._suspects.engine_for(task), task, flight.add_result)
        except ImageloomError:
            raise
        except Exception as error:  # the task cannot be sent
            flight.future.set_exception(error)
        flight.future.add_done_callback(lambda done: self._finished.put((task.id, done)))

    def _finish(self) -> None:
        """Wait for all that is in flight, and for the retries, until all results are published."""
        while (
            self._in_flight or self._accounts.waits or ((self._again or self._large) and not self._stopping)
        ):
            self._advance()

    def _advance(self) -> None:
        """Submit what is due, and collect one outcome."""
        self._retry()
        self._pump()
        if not self._in_flight:
            self._accounts.publish_waiting(all=True)
        if not (self._in_flight or self._again or self._large):
            return  # the last image has just failed, or was published: no more results will arrive
        self._collect(None if self._stopping else self._again.pause)

    def _wait_for_more(self) -> None:
        """Collect one outcome, or return earlier if the source has a new item."""
        self._ledger.note_progress(self._id, *self._accounts.numbers)
        until_retry = None if self._stopping else self._again.pause
        pause = self._source.pause
        self._collect(pause if until_retry is None else min(pause, until_retry))

    def _retry(self) -> None:
        """Submit the items whose back-off is over, each as a separate task."""
        if self._stopping:
            return
        for ready in self._again.due():
            if ready.part is None or (self._large and self._large.has(ready.work)):
                self._submit([ready])

    # engine -> sink

    def _collect(self, patience: float | None = None) -> None:
        """Collect one outcome; wait at most `patience` seconds, and no longer than results may wait."""
        self._accounts.publish_waiting(all=not self._in_flight and self._finished.empty())
        is_told = (patience is None or self._source.is_endless) and not self._accounts.waits
        limits = patience, self._accounts.pause, LATE if self._in_flight.has_arrived else None
        try:
            arrived = self._finished.get(timeout=min((s for s in limits if s is not None), default=SILENCE))
        except Empty:
            if is_told and (missing := self._engine.missing):
                self._silence.say(missing)
            self._collect_late()
            return
        if arrived is None:
            if self._stopping:
                self._in_flight.cancel()
                self._cut_short()  # also what was submitted meanwhile
            return
        number, future = arrived
        flight = self._in_flight.pop(number)
        if self._stopping and future.cancelled():
            return
        outcome = flight.outcome()
        rest = flight.take_rest(results.all_of(flight.task, outcome))
        self._take_in(flight, rest, results.shown(outcome.worker), is_last=True)

    def _collect_late(self) -> None:
        """Collect the results that have arrived from tasks that are still running."""
        for flight in self._in_flight.late():
            if found := flight.take_arrived():
                self._take_in(flight, found, "", is_last=False)

    def _take_in(self, flight: Flight, found: list[tuple[Work, Result]], worker: str, is_last: bool) -> None:
        """Process results: publish, retry or fail their items."""
        task, needs = flight.task, flight.bytes
        found = [(work, results.checked(task, work, result, worker)) for work, result in found]
        if self._accounts.has_listeners:
            outcome = Outcome(task.id, worker, tuple(result for _, result in found))
            self._accounts.emit(Collected(task, outcome, is_last))
        for work, result in found:
            if self._stopping and result.failure and result.failure.kind == NotBegun.__name__:
                continue
            name = result.worker or worker
            if task.part is None or self._large is None:
                self._accounts.accept(work, result, name, needs)
            elif self._large.has(work) and self._accounts.may_retry(work, result):
                pause = self._again.add(work, needs, task.part)
                self._accounts.emit(Retried(result, work.attempt, name, pause))
            elif ended := self._large.accept(task, result):
                self._accounts.accept(*ended, name, needs)
        if self._accounts.is_sink_full:
            self.stop()
