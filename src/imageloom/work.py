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
from collections.abc import Iterator
from functools import lru_cache

from msgspec.structs import replace

from imageloom import codecs, operators, stores
from imageloom.codecs.metadata import for_output
from imageloom.model import (
    NO_METADATA,
    Failure,
    Header,
    Outcome,
    Pixels,
    Result,
    Step,
    Task,
    Times,
    Work,
    Written,
)
from imageloom.plan import Plan, check_limits, make_plan
from imageloom.stores import Store, open_store

Turn = contextlib.AbstractContextManager[object]


NO_BOUND = contextlib.nullcontext()


def perform(task: Task, computing: Turn = NO_BOUND) -> Outcome:
    """Do a task: read, decode, filter and encode each of its items, and commit the outputs to the sink.

    Args:
        computing: held while pixels are worked on, so that more tasks than cores can wait for a store.
    """
    return Outcome(task.id, worker_name(), tuple(results(task, computing)))


def results(task: Task, computing: Turn = NO_BOUND) -> Iterator[Result]:
    """The results of a task's items in their order, each as soon as it is there."""
    _settle_process()
    operators.load_files(task.recipe.operators)
    source, sink = open_store(task.source), open_store(task.sink)
    for work in task.work:
        yield _attempt(task, work, source, sink, computing)


def worker_name() -> str:
    """The process and the thread that this runs in."""
    return f"{os.getpid()}/{threading.current_thread().name}"


def _attempt(task: Task, work: Work, source: Store, sink: Store, computing: Turn) -> Result:
    key, started, watch = work.item.key, time.time(), _Stopwatch()
    written: list[Written] = []
    maker = f"{task.source}/{key}"
    token = f"{task.job}-{work.number}-{work.attempt}-{os.getpid()}"
    try:
        if task.part is not None:
            from imageloom import parts  # no small image waits for it

            token = f"{token}-{task.part.output}-{task.part.phase}-{task.part.number}"
            with computing:
                watch.skip()
                made_part = parts.attempt(task, task.part, sink, token, watch.lap)
            return replace(made_part, times=watch.times(), started=started)
        data = stores.kept.pop((task.source, key, work.item.fingerprint), None)
        if data is None:
            data = source.read(key, task.limits.max_file_size)
        watch.lap("read")
        with computing:
            watch.skip()
            header = work.header
            if header is None or len(data) != work.item.size:  # it changed since it was planned
                header = codecs.read_header(lambda length: data[:length], len(data))
                check_limits(header, task.limits, len(data))
            plan = make_plan(header, task.recipe)
            for name, encoded in zip(work.names, _encoded(task, plan, header, data, watch), strict=True):
                sink.stage(f"{token}-{len(written)}", encoded)
                written.append(Written(name, f"{token}-{len(written)}", len(encoded)))
                watch.lap("write")
        for output in written:  # when all are there, or none
            sink.commit(output.staged, output.name, maker, work.replace)
        watch.lap("write")
        return Result(key, tuple(written), None, watch.times(), started, plan.decoded.pixels)
    except Exception as error:
        for output_ in written:
            sink.discard(output_.staged)
        return Result(key, (), Failure.of(error), watch.times(), started)


def _encoded(task: Task, plan: Plan, header: Header, data: bytes, watch: _Stopwatch) -> Iterator[bytes]:
    """The outputs of a file's bytes, one after the other."""
    codec = codecs.get(header.format)
    metadata = codec.metadata(data) if task.recipe.metadata == "keep" else NO_METADATA
    decoded = codec.decode(data, header, luma=plan.luma, scale=plan.scale)
    watch.lap("decode")
    made: list[tuple[tuple[Step, ...], Pixels]] = [((), decoded)]
    for output in plan.outputs:
        pixels = _filter(output.steps, made)
        watch.lap("filter")
        carried = for_output(metadata, output.frame)
        encoded = codecs.get(output.format).encode(pixels, output.quality, carried)
        watch.lap("encode")
        yield encoded


def _filter(steps: tuple[Step, ...], made: list[tuple[tuple[Step, ...], Pixels]]) -> Pixels:
    """The pixels after the steps, from the longest beginning of them that another output has done."""
    done, pixels = max((m for m in made if m[0] == steps[: len(m[0])]), key=lambda m: len(m[0]))
    for step in steps[len(done) :]:
        pixels = operators.apply(step, pixels)
    made.append((steps, pixels))
    return pixels


class _Stopwatch:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
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
