"""The function that workers of all engines run: it takes a task and returns an outcome.

A task has items, or a part of one item: their stages are in `items` and `parts`. A failure of an operator or of a
file is data in the outcome and is not raised.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from imageloom.errors import InvalidResult, ItemTimeout, NotBegun, WorkerLost
from imageloom.model import Outcome, Result, Task, Work
from imageloom.records.faults import failure_of, log_failure
from imageloom.records.inprogress import open_records
from imageloom.stores import Store, open_bounded
from imageloom.worker import items, sandbox
from imageloom.worker.items import Chunk, Lap, Stopwatch
from imageloom.worker.setup import prepare

Turn = contextlib.AbstractContextManager[object]


TaskName = tuple[str, int]
"""The job and the number of a task: drivers that share an engine use the same numbers."""
STOPPED = "the run was stopped before it was begun"
NO_BOUND = contextlib.nullcontext()


def perform(
    task: Task, on_result: Callable[[int, Result], None] | None = None, cut_short: Container[TaskName] = ()
) -> Outcome:
    """Run a task: read, decode, filter and encode each of its items, and commit the outputs to the sink.

    Args:
        on_result: called with an item's position and its result, as soon as the result is known.
        cut_short: the tasks of which no further item is begun, by job and number; it may change meanwhile.
    """
    made: list[Result] = []
    worker = worker_name()
    for place, result in enumerate(results(task)):
        made.append(result)
        if on_result is not None:
            on_result(place, replace(result, worker=worker))
        if (task.job, task.id) in cut_short:
            stopped = NotBegun(STOPPED)
            made += [_failed(work, stopped) for work in task.work[place + 1 :]]
            break
    return Outcome(task.id, worker, tuple(made))


def results(task: Task, computing: Turn = NO_BOUND) -> Iterator[Result]:
    """Yield the results of a task's items in their order, each as soon as it is known.

    Args:
        computing: held while pixels are processed, so that more tasks than cores can wait for a store.
    """
    try:
        prepare(task, with_operators=not sandbox.is_used_for_all(task))
    except Exception as error:  # its operators cannot be loaded on this machine
        yield from (_failed(work, error) for work in task.work)
        return
    if sandbox.is_used_for_all(task) and computing is NO_BOUND:
        yield from _results_apart(task)
        return
    for work in task.work:
        attempt = Attempt(task, work)
        attempt.read()
        with computing:
            attempt.compute()
        attempt.commit()
        yield attempt.result


def _results_apart(task: Task) -> Iterator[Result]:
    """Like `results`, with items in a child process. Small items are passed to it together."""
    lease, rest = sandbox.Lease(task), task.work
    try:
        while rest:
            count = sandbox.group(work.item.size for work in rest)
            attempts = [Attempt(task, work) for work in rest[:count]]
            rest = rest[count:]
            for attempt in attempts:
                attempt.read()
            ordered = [attempt for attempt in attempts if attempt.goes_on]
            answers = lease.process([attempt.piece for attempt in ordered])
            for attempt in attempts:
                if attempt in ordered:
                    attempt.take(answers)
                attempt.commit()
                yield attempt.result
    finally:
        lease.close()


def _failed(work: Work, error: BaseException) -> Result:
    return Result(work.item.key, failure=failure_of(work.item.key, error), started=time.time())


def worker_name() -> str:
    """Name of the current process and thread."""
    return f"{os.getpid()}/{threading.current_thread().name}"


class Stages(Protocol):
    """The stages of an item or a part, in their order.

    Raises:
        ItemError: the item itself is faulty. Any other exception may be raised too, in each stage.
    """

    def fetch(self, task: Task, work: Work, source: Store, lap: Lap) -> bytes:
        """Read the bytes."""

    def load(self, task: Task, work: Work, data: bytes, lap: Lap) -> Chunk:
        """Decode them."""

    def run_filters(self, task: Task, chunk: Chunk, lap: Lap) -> Chunk:
        """Compute the pixels of each output from the decoded pixels."""

    def finish(self, task: Task, work: Work, chunk: Chunk, sink: Store, lap: Lap) -> Result:
        """Encode the outputs and stage them in the sink. The result has no times."""

    def commit(self, task: Task, work: Work, made: Result, sink: Store, lap: Lap) -> None:
        """Commit the staged outputs of an item: all of them or none."""


def stages_of(task: Task) -> Stages:
    """The stages for this kind of task."""
    if task.part is None:
        return items
    from imageloom.worker import parts  # imported late: small images do not need it

    return parts


class Attempt:
    """An attempt at one item, in three steps. Different threads may run them, one after the other.

    An exception in a step becomes the result, and the later steps do nothing.
    """

    def __init__(self, task: Task, work: Work) -> None:
        self._task, self._work, self._stages = task, work, stages_of(task)
        self._started, self._watch = time.time(), Stopwatch()
        self._data = b""
        self._made = Result(work.item.key)
        self._is_apart: bool | None = None

    def read(self) -> None:
        self._do(self._read)

    @property
    def goes_on(self) -> bool:
        """Whether no step has failed so far."""
        return self._made.failure is None

    @property
    def piece(self) -> tuple[int, bytes]:
        """For `sandbox.Lease`: the item's position in its task, and its file."""
        data, self._data = self._data, b""
        return self._task.work.index(self._work), data

    def take(self, answers: Iterator[sandbox.Answer]) -> None:
        """Wait for the next answer of a child process, and stage the outputs that it has made."""
        asked = time.monotonic()
        answer = next(answers)
        spent = time.monotonic() - asked
        self._do(partial(self._take, answer))
        if isinstance(answer, (WorkerLost, ItemTimeout)):  # with the times of the stages
            self._made = replace(self._made, lost=spent)
        self._started = time.time() - self._watch.times().total - self._made.lost

    @property
    def is_apart(self) -> bool:
        """Whether it is computed in another process, where a time-out ends it."""
        if self._is_apart is None:
            self._is_apart = sandbox.is_used(self._task, self._work)
        return self._is_apart

    def fail(self, error: Exception) -> None:
        """End it with this result."""
        self._made = _failed(self._work, error)

    def compute(self) -> None:
        """Decode and filter the bytes, and stage the outputs."""
        if self.is_apart:
            if self._task.part is not None:
                self._do(self._compute_part)
            elif self.goes_on:
                lease = sandbox.Lease(self._task)
                self.take(lease.process([self.piece]))
                lease.close()
            return
        notes = open_records.get(self._task.sink)
        if notes is None:
            self._do(self._compute)
            return
        slot = notes.begin(self._work.item)
        self._do(self._compute)
        notes.end(slot)

    def commit(self) -> None:
        """Commit the staged outputs. Those in a local sink need no commit."""
        if self._made.written and not self._sink.is_local:
            self._do(self._commit)

    @property
    def result(self) -> Result:
        return replace(self._made, times=self._watch.times(), started=self._started)

    def _do(self, piece: Callable[[], None]) -> None:
        if self._made.failure is None:
            self._watch.skip()
            try:
                piece()
            except KeyboardInterrupt:  # the caller's thread may be the only worker
                raise
            except (
                BaseException
            ) as error:  # includes SystemExit of an operator, and a panic of a Rust library
                self._made = _failed(self._work, error)

    def _read(self) -> None:
        self._source, self._sink = source_of(self._task), sink_of(self._task)
        self._data = self._stages.fetch(self._task, self._work, self._source, self._watch.lap)

    def _compute(self) -> None:
        data, self._data = self._data, b""
        chunk = self._stages.load(self._task, self._work, data, self._watch.lap)
        chunk = self._stages.run_filters(self._task, chunk, self._watch.lap)
        self._made = self._stages.finish(self._task, self._work, chunk, self._sink, self._watch.lap)

    def _compute_part(self) -> None:
        from imageloom.worker import large_sandbox  # small images do not need it

        self._made = large_sandbox.process_part(self._task, self._sink, self._watch)

    def _take(self, answer: sandbox.Answer) -> None:
        if isinstance(answer, BaseException):
            raise answer
        self._watch.add(*zip(("decode", "filter", "encode"), answer.laps, strict=True))
        if answer.failure is not None:
            log_failure(self._work.item.key, answer.failure)
            self._made = replace(self._made, failure=answer.failure)
            return
        if len(answer.outputs) != len(self._work.names):
            raise InvalidResult(f"its decoding process made {len(answer.outputs)} outputs")
        outputs = [*answer.outputs, *([sandbox.about(answer.about)] if answer.about else [])]
        lap = self._watch.lap
        self._made = items.stage_all(self._task, self._work, outputs, answer.pixels, self._sink, lap)

    def _commit(self) -> None:
        try:
            self._stages.commit(self._task, self._work, self._made, self._sink, self._watch.lap)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the staged outputs."""
        for output in self._made.written:
            self._sink.discard(output.staged)


def source_of(task: Task) -> Store:
    """The store of a task's source, within the task's limits."""
    return open_bounded(task.source, task.links, task.source_roots, task.relay)


def sink_of(task: Task) -> Store:
    """The store of a task's sink, within the task's limits."""
    return open_bounded(task.sink, "follow", task.roots, task.relay)
