"""What every worker on every engine runs: a task in, an outcome out.

A task is of items or of a part of one: `items` and `parts` have the stages of each. A failure of an operator or of
a file is data in the outcome; nothing of it is raised.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol

from msgspec.structs import asdict, replace

from imageloom import operators
from imageloom.model import Outcome, Result, Task, Times, Work
from imageloom.records.faults import failure_of
from imageloom.records.inprogress import open_records
from imageloom.stores import Store, open_bounded
from imageloom.worker import items
from imageloom.worker.items import Chunk, Lap

Turn = contextlib.AbstractContextManager[object]


NO_BOUND = contextlib.nullcontext()


def perform(task: Task, on_result: Callable[[int, Result], None] | None = None) -> Outcome:
    """Do a task: read, decode, filter and encode each of its items, and commit the outputs to the sink.

    Args:
        on_result: called with an item's place and its result, as soon as it is there.
    """
    made: list[Result] = []
    for place, result in enumerate(results(task)):
        made.append(result)
        if on_result is not None:
            on_result(place, result)
    return Outcome(task.id, worker_name(), tuple(made))


def results(task: Task, computing: Turn = NO_BOUND) -> Iterator[Result]:
    """The results of a task's items in their order, each as soon as it is there.

    Args:
        computing: held while pixels are worked on, so that more tasks than cores can wait for a store.
    """
    try:
        prepare(task)
    except Exception as error:  # its operators cannot be loaded here
        yield from (_failed(work, error) for work in task.work)
        return
    for work in task.work:
        attempt = Attempt(task, work)
        attempt.read()
        with computing:
            attempt.compute()
        attempt.commit()
        yield attempt.result


def _failed(work: Work, error: BaseException) -> Result:
    return Result(work.item.key, failure=failure_of(work.item.key, error), started=time.time())


def prepare(task: Task) -> None:
    """Make this process a good worker, and the task's operators known to it."""
    configure_process()
    operators.load_files(task.recipe.operators, task.digests)


def worker_name() -> str:
    """The process and the thread that this runs in."""
    return f"{os.getpid()}/{threading.current_thread().name}"


class Stages(Protocol):
    """What is done of a task's item, one stage after the other.

    Raises:
        Exception: whatever goes wrong, in each stage; an `ItemError` where it is the item's fault.
    """

    def fetch(self, task: Task, work: Work, source: Store, lap: Lap) -> bytes:
        """Read the bytes."""

    def load(self, task: Task, work: Work, data: bytes, lap: Lap) -> Chunk:
        """Decode them."""

    def run_filters(self, task: Task, chunk: Chunk, lap: Lap) -> Chunk:
        """From the decoded pixels to those of each output."""

    def finish(self, task: Task, work: Work, chunk: Chunk, sink: Store, lap: Lap) -> Result:
        """Encode the outputs and stage them in the sink; the result is without times."""

    def commit(self, task: Task, work: Work, made: Result, sink: Store, lap: Lap) -> None:
        """Say of what is staged that it is an item's outputs, when all are there, or none."""


def stages_of(task: Task) -> Stages:
    """The stages of a task's kind."""
    if task.part is None:
        return items
    from imageloom.worker import parts  # no small image waits for it

    return parts


class Attempt:
    """An attempt at one item, in three pieces that different threads may do, one after the other.

    What goes wrong in a piece is the result, and the pieces after it do nothing.
    """

    def __init__(self, task: Task, work: Work) -> None:
        self._task, self._work, self._stages = task, work, stages_of(task)
        self._started, self._watch = time.time(), Stopwatch()
        self._data = b""
        self._made = Result(work.item.key)

    def read(self) -> None:
        self._do(self._read)

    def compute(self) -> None:
        """From the bytes to outputs that are staged."""
        notes = open_records.get(self._task.sink)
        if notes is None:
            self._do(self._compute)
            return
        slot = notes.begin(self._work.item)
        self._do(self._compute)
        notes.end(slot)

    def commit(self) -> None:
        self._do(self._commit)

    @property
    def result(self) -> Result:
        return replace(self._made, times=self._watch.times(), started=self._started)

    def _do(self, piece: Callable[[], None]) -> None:
        if self._made.failure is None:
            self._watch.skip()
            try:
                piece()
            except KeyboardInterrupt:  # where the caller's thread is the only worker
                raise
            except BaseException as error:  # an operator that exits, too, and a panic of a library in Rust
                self._made = _failed(self._work, error)

    def _read(self) -> None:
        self._source, self._sink = source_of(self._task), sink_of(self._task)
        self._data = self._stages.fetch(self._task, self._work, self._source, self._watch.lap)

    def _compute(self) -> None:
        data, self._data = self._data, b""
        chunk = self._stages.load(self._task, self._work, data, self._watch.lap)
        chunk = self._stages.run_filters(self._task, chunk, self._watch.lap)
        self._made = self._stages.finish(self._task, self._work, chunk, self._sink, self._watch.lap)

    def _commit(self) -> None:
        try:
            self._stages.commit(self._task, self._work, self._made, self._sink, self._watch.lap)
        except BaseException:
            for output in self._made.written:
                self._sink.discard(output.staged)
            raise


def source_of(task: Task) -> Store:
    """The store that a task's items are read from, within the task's bounds."""
    return open_bounded(task.source, task.links, task.source_roots)


def sink_of(task: Task) -> Store:
    """The store that a task's outputs are staged in, within the task's bounds."""
    return open_bounded(task.sink, "follow", task.roots)


class Stopwatch:
    """Adds up the seconds of each stage.

    Args:
        before: what was spent already, elsewhere.
    """

    def __init__(self, before: Times | None = None) -> None:
        self._spent: dict[str, float] = asdict(before) if before else {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._spent[stage] = self._spent.get(stage, 0.0) + now - self._last
        self._last = now

    def skip(self) -> None:
        """Waiting for its turn is no work."""
        self._last = time.perf_counter()

    def times(self) -> Times:
        return Times(**self._spent)


@lru_cache(maxsize=1)
def configure_process() -> None:
    """Make this process a good worker: once, before its first item."""
    import cv2

    cv2.setNumThreads(1)  # parallel work is the engine's to divide
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    _keep_freed_memory()


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def _keep_freed_memory() -> None:
    """Have malloc keep an image's memory for the next one: returning and clearing it costs a tenth of the time.

    What is larger than 32 MB goes back at once all the same. Only glibc can be on_result so.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):  # another C library
        tell = ctypes.CDLL(None).mallopt
        tell(_MMAP_THRESHOLD, 32 << 20)
        tell(_TRIM_THRESHOLD, 256 << 20)
        tell(_TOP_PAD, 16 << 20)
