"""What every worker on every engine runs: a task in, an outcome out.

An operator's or a file's failure is data in the outcome; nothing of it is raised.
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
from typing import NamedTuple

from msgspec.structs import asdict, replace

from imageloom import codecs, operators, stores
from imageloom.codecs.metadata import for_output
from imageloom.model import (
    NO_METADATA,
    Failure,
    Header,
    Metadata,
    Outcome,
    Pixels,
    Result,
    Step,
    Task,
    Times,
    Work,
    Written,
)
from imageloom.recipes.plan import check_limits, make_plan
from imageloom.records.inprogress import open_records
from imageloom.stores import Store, open_bounded, stage
from imageloom.stores.names import new_token

Lap = Callable[[str], None]

Turn = contextlib.AbstractContextManager[object]


NO_BOUND = contextlib.nullcontext()
LONG = 0.25
"""Seconds of a task after which its results are told one by one."""


def perform(task: Task, told: Callable[[int, Result], None] | None = None) -> Outcome:
    """Do a task: read, decode, filter and encode each of its items, and commit the outputs to the sink.

    Args:
        told: called with an item's place and its result before the task's end, where that takes long.
    """
    made: list[Result] = []
    began, known = time.monotonic(), 0
    for result in results(task):
        made.append(result)
        if told is not None and time.monotonic() - began > LONG:
            for place in range(known, len(made)):
                told(place, made[place])
            known = len(made)
    return Outcome(task.id, worker_name(), tuple(made))


def results(task: Task, computing: Turn = NO_BOUND) -> Iterator[Result]:
    """The results of a task's items in their order, each as soon as it is there.

    Args:
        computing: held while pixels are worked on, so that more tasks than cores can wait for a store.
    """
    try:
        settle(task)
    except Exception as error:  # its operators cannot be loaded here
        yield from (Result(work.item.key, (), Failure.of(error), started=time.time()) for work in task.work)
        return
    for work in task.work:
        attempt = Attempt(task, work)
        attempt.read()
        with computing:
            attempt.compute()
        attempt.commit()
        yield attempt.result


def settle(task: Task) -> None:
    """Make this process a good worker, and the task's operators known to it."""
    _settle_process()
    operators.load_files(task.recipe.operators, task.digests)


def worker_name() -> str:
    """The process and the thread that this runs in."""
    return f"{os.getpid()}/{threading.current_thread().name}"


class Chunk(NamedTuple):
    """What goes from one stage to the next: pixels, and what the later stages need to know of them."""

    pixels: tuple[Pixels, ...]
    """As they were decoded; after the filters those of each output."""
    header: Header
    metadata: Metadata = NO_METADATA
    measure: bytes = b""
    """What a part has measured."""


class Attempt:
    """An attempt at one item, in three pieces that different threads may do, one after the other.

    What goes wrong in a piece is the result, and the pieces after it do nothing.
    """

    def __init__(self, task: Task, work: Work) -> None:
        self._task, self._work = task, work
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
                self._made = Result(self._work.item.key, (), Failure.of(error))

    def _read(self) -> None:
        self._source, self._sink = source_of(self._task), sink_of(self._task)
        self._data = fetch(self._task, self._work, self._source, self._watch.lap)

    def _compute(self) -> None:
        data, self._data = self._data, b""
        chunk = load(self._task, self._work, data, self._watch.lap)
        chunk = run_filters(self._task, chunk, self._watch.lap)
        self._made = finish(self._task, self._work, chunk, self._sink, self._watch.lap)

    def _commit(self) -> None:
        try:
            commit(self._task, self._work, self._made, self._sink, self._watch.lap)
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


def fetch(task: Task, work: Work, source: Store, lap: Lap) -> bytes:
    """Read an item's bytes; nothing for a part of one, which reads what it needs by itself.

    Args:
        lap: told the name of what has ended, for `Times`.

    Raises:
        Exception: whatever goes wrong, here as in the stages; an `ItemError` where it is the item's fault.
    """
    if task.part is not None:
        return b""
    data = stores.kept.pop((task.source, work.item.key, work.item.fingerprint), None)
    if data is None:
        data = source.read(work.item.key, task.limits.max_file_size, work.item)
    lap("read")
    return data


def load(task: Task, work: Work, data: bytes, lap: Lap) -> Chunk:
    """The first stage: decode an item, or a part of it."""
    if task.part is not None:
        from imageloom.worker import parts  # no small image waits for it

        return parts.load(task, task.part, lap)
    header = work.header
    if header is None:
        header = codecs.header_of(data)
        check_limits(header, task.limits, len(data))
    plan = make_plan(header, task.recipe)
    metadata = codecs.read_metadata(data, header.format) if task.recipe.metadata == "keep" else NO_METADATA
    decoded = codecs.decode(data, header, luma=plan.luma, scale=plan.scale)
    lap("decode")
    return Chunk((decoded,), header, metadata)


def run_filters(task: Task, chunk: Chunk, lap: Lap) -> Chunk:
    """The second stage: from the decoded pixels to those of each output."""
    if task.part is not None:
        from imageloom.worker import parts

        return parts.run_filters(task, task.part, chunk, lap)
    made: list[tuple[tuple[Step, ...], Pixels]] = [((), chunk.pixels[0])]
    pixels = tuple(_filter(output.steps, made) for output in make_plan(chunk.header, task.recipe).outputs)
    lap("filter")
    return chunk._replace(pixels=pixels)


def finish(task: Task, work: Work, chunk: Chunk, sink: Store, lap: Lap) -> Result:
    """The third stage: encode the outputs and stage them in the sink; the result is without times."""
    token = new_token(task.job, work.number, work.attempt)
    if task.part is not None:
        from imageloom.worker import parts

        return parts.finish(task, task.part, chunk, sink, token, lap)
    plan = make_plan(chunk.header, task.recipe)
    written: list[Written] = []
    try:
        for name, output, pixels in zip(work.names, plan.outputs, chunk.pixels, strict=True):
            carried = for_output(chunk.metadata, output.frame)
            encoded = codecs.encode(output.format, pixels, output.quality, carried)
            lap("encode")
            size = stage(sink, f"{token}-{len(written)}", encoded)
            written.append(Written(name, f"{token}-{len(written)}", size))
            lap("write")
    except BaseException:
        for output_ in written:
            sink.discard(output_.staged)
        raise
    return Result(work.item.key, tuple(written), pixels=plan.decoded.pixels)


def commit(task: Task, work: Work, made: Result, sink: Store, lap: Lap) -> None:
    """Say of what is staged that it is an item's outputs, when all are there, or none."""
    if task.part is not None and task.part.staging:
        return  # pieces, which are the assembler's
    for output in made.written:
        sink.commit(output.staged, output.name, f"{task.source}/{work.item.key}", work.replace)
    lap("write")


def _filter(steps: tuple[Step, ...], made: list[tuple[tuple[Step, ...], Pixels]]) -> Pixels:
    """The pixels after the steps, from the longest beginning of them that another output has done."""
    done, pixels = max((m for m in made if m[0] == steps[: len(m[0])]), key=lambda m: len(m[0]))
    for step in steps[len(done) :]:
        pixels = operators.apply(step, pixels)
    made.append((steps, pixels))
    return pixels


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
def _settle_process() -> None:
    """Make this process a good worker: once, before its first item."""
    import cv2

    cv2.setNumThreads(1)  # parallel work is the engine's to divide
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    _keep_freed_memory()


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def _keep_freed_memory() -> None:
    """Have malloc keep an image's memory for the next one: returning and clearing it costs a tenth of the time.

    What is larger than 32 MB goes back at once all the same. Only glibc can be told so.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):  # another C library
        tell = ctypes.CDLL(None).mallopt
        tell(_MMAP_THRESHOLD, 32 << 20)
        tell(_TRIM_THRESHOLD, 256 << 20)
        tell(_TOP_PAD, 16 << 20)
