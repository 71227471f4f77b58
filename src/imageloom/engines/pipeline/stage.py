"""A stage process of the engine `pipeline`: it reads chunks from one ring and writes to the next one.

A pool of threads processes the chunks. A result or a failure is sent to the supervisor through a pipe before the
chunk's slot is released. So each chunk is always in a ring or in a pipe.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection
from time import time

import msgspec
from msgspec.structs import replace

from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.engines.pipeline.ring import Ring, Taken, arrays_of
from imageloom.model import Failure, Frame, Header, Plain, Result, Task, Times, Work
from imageloom.worker import perform, sandbox
from imageloom.worker.controller import Controller
from imageloom.worker.items import Chunk, Lap, Stopwatch
from imageloom.worker.message import Message
from imageloom.worker.pool import SizedPool
from imageloom.worker.process import become_worker
from imageloom.worker.setup import prepare

Stage = Callable[[Task, Chunk | None, Lap], Chunk | Result]
"""The function of a stage, for a task of one item. The first stage gets no chunk, the last one returns the
result."""


class Description(Plain, frozen=True):
    """The description of a chunk in a ring: everything except its pixels."""

    task: bytes
    """The task without its items."""
    work: Work
    header: Header | None = None
    metadata: Metadata = NO_METADATA
    measure: bytes = b""
    warnings: tuple[str, ...] = ()
    profile: bytes = b""
    frames: tuple[Frame, ...] = ()
    times: Times = Times()
    started: float = 0.0


encode = msgspec.msgpack.Encoder().encode
_description = msgspec.msgpack.Decoder(Description).decode
_task = lru_cache(maxsize=64)(msgspec.msgpack.Decoder(Task).decode)


def load(task: Task, chunk: Chunk | None, lap: Lap) -> Chunk | Result:
    """The first stage. An item that needs a sandbox is processed as a whole here, in a child of this process."""
    if sandbox.is_used(task, task.work[0]):
        attempt = perform.Attempt(task, task.work[0])
        attempt.read()
        attempt.compute()
        attempt.commit()
        return attempt.result
    stages = perform.stages_of(task)
    data = stages.fetch(task, task.work[0], perform.source_of(task), lap)
    return stages.load(task, task.work[0], data, lap)


def run_filters(task: Task, chunk: Chunk | None, lap: Lap) -> Chunk:
    """The second stage."""
    assert chunk is not None
    return perform.stages_of(task).run_filters(task, chunk, lap)


def finish(task: Task, chunk: Chunk | None, lap: Lap) -> Result:
    """The third stage."""
    assert chunk is not None
    stages, sink = perform.stages_of(task), perform.sink_of(task)
    made = stages.finish(task, task.work[0], chunk, sink, lap)
    stages.commit(task, task.work[0], made, sink, lap)
    return made


def serve(
    pipe: Connection,
    stage: str,
    source: Ring,
    target: Ring | None,
    threads: tuple[int, int, int],
    memory: int,
) -> None:
    """Run a stage until the other end of the pipe is closed.

    Args:
        stage: the `Stage` function, as `module:function`.
        threads: minimum, maximum and first number of threads.
        memory: maximum memory for data in bytes, beyond what the process uses already; 0 for no limit.
    """
    become_worker(memory)
    module, _, name = stage.partition(":")
    running = _Stage(pipe, getattr(importlib.import_module(module), name), source, target)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(encode(Message()))
        running.begin(Controller(*threads))
        pipe.recv_bytes()


class _Stage:
    """A running stage: the state that its threads share."""

    def __init__(self, pipe: Connection, function: Stage, source: Ring, target: Ring | None) -> None:
        self._pipe, self._function, self._source, self._target = pipe, function, source, target
        self._sending = threading.Lock()

    def begin(self, controller: Controller) -> None:
        self._controller = controller
        self._source.readers = controller.size
        SizedPool(self._turn, controller, "thread")

    def _turn(self) -> None:
        """Take a chunk, process it, and pass it on."""
        taken = self._source.take(self._controller.idle)
        try:
            self._pass_on(taken)
        except Exception:  # the chunk is invalid: this process ends and is replaced
            logging.getLogger(__name__).exception("a chunk could not be read")
            os._exit(70)  # EX_SOFTWARE

    def _pass_on(self, taken: Taken) -> None:
        if self._source.readers != self._controller.size:
            self._source.readers = self._controller.size
        about = _description(taken.about)
        started, watch = about.started or time(), Stopwatch(about.times)
        try:
            result = self._do(taken, about, started, watch)
        except BaseException as error:  # otherwise the pool would lose this thread
            result = Result(about.work.item.key, (), Failure.of(error), watch.times(), started)
        if result is not None:
            message = encode(Message(taken.number, 0, perform.worker_name(), result))
            with (
                self._sending,
                contextlib.suppress(OSError),
            ):  # the engine has closed the pipe: this process ends too
                self._pipe.send_bytes(message)
        self._source.release(taken.slot)

    def _do(self, taken: Taken, about: Description, started: float, watch: Stopwatch) -> Result | None:
        """Run the stage. Returns the result, or None if the chunk was put into the next ring."""
        task = replace(_task(about.task), work=(about.work,))
        prepare(task, with_operators=not sandbox.is_used_for_all(task))
        chunk = None
        if about.header is not None:
            pixels = arrays_of(taken.pixels, about.frames)
            chunk = Chunk(pixels, about.header, about.metadata, about.measure, about.warnings, about.profile)
        made = self._function(task, chunk, watch.lap)
        if isinstance(made, Result) and made.started:  # of a sandbox
            return made
        if isinstance(made, Result):
            return replace(made, times=watch.times(), started=started)
        self._source.wait_for_target(taken.slot)  # waiting for the next ring must not count as a hang
        assert self._target is not None, "the last stage makes results"
        frames = tuple(map(Frame.of, made.pixels))
        passed = Description(
            about.task,
            about.work,
            made.header,
            made.metadata,
            made.measure,
            made.warnings,
            made.profile,
            frames,
            watch.times(),
            started,
        )
        self._target.put(taken.number, encode(passed), made.pixels)
        return None
