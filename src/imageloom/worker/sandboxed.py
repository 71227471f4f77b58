"""The process that decodes items for a worker, runs operators and encodes outputs. It can do nothing else.

It gets a file's bytes in shared memory, and puts the encoded outputs there. It has two descriptors: the memory and
the line to the worker. A hostile file or operator may control it, so the worker checks all that it sends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from imageloom.model import Failure, Task
from imageloom.recipes.plan import make_plan
from imageloom.system import landlock, seccomp
from imageloom.system.confinement import mark_confined
from imageloom.system.exits import die_with_parent
from imageloom.worker import items
from imageloom.worker.items import Stopwatch
from imageloom.worker.setup import bound_memory, prepare
from imageloom.worker.shared import (
    DESCRIBED,
    INTERVAL,
    MOST_ITEMS,
    ORDER,
    QUESTION,
    TASK,
    Description,
    Encoded,
    SharedMemory,
    described,
)

LINE, MEMORY = 3, 4
"""The numbers of the two descriptors."""
MOST_FILES = 256
"""Maximum number of open files."""
REFUSED = "a sandboxed process may not do this (--sandbox off allows it)"

_task = msgspec.msgpack.Decoder(Task).decode


def run(descriptors: Sequence[int], starter: int, readable: list[str], most: int) -> None:
    """Serve a worker in a process that was just forked, until the worker closes the line.

    Args:
        descriptors: the line, the shared memory, and the file of a large image, if there is one.
        starter: id of the process that has forked this one.
        readable: paths of the files and folders that it may read.
        most: maximum memory for data in bytes, beyond what the process uses already.
    """
    die_with_parent()
    if os.getppid() != starter:
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # the worker ends this process
        signal.signal(number, signal.SIG_IGN)
    _keep_only(descriptors)
    _limit(most)
    sys.dont_write_bytecode = True
    with contextlib.suppress(OSError):  # --sandbox require is checked before
        landlock.restrict(readable, [(file, False) for file in range(MEMORY + 1, LINE + len(descriptors))])
    with contextlib.suppress(OSError):
        seccomp.restrict()
    mark_confined()
    serve(SharedMemory(MEMORY))


def _keep_only(descriptors: Sequence[int]) -> None:
    """Close all descriptors but these, which get the numbers from LINE on. The standard streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    high = max(*descriptors, nowhere, LINE + len(descriptors)) + 1
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, high + number)
    for number in range(len(descriptors)):
        os.dup2(high + number, LINE + number)
    os.closerange(LINE + len(descriptors), resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _limit(most: int) -> None:
    bound_memory(most)
    with open("/proc/self/statm", "rb") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for kind, limit in (
        (resource.RLIMIT_AS, used + 2 * most + (256 << 20)),
        (resource.RLIMIT_FSIZE, most + (1 << 20)),
        (resource.RLIMIT_NOFILE, MOST_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


Made = tuple[Iterable[bytes | memoryview | Mapping[str, bytes] | items.About], int, bytes]
"""The outputs, the number of decoded pixels, and what `Description.about` says."""


def serve(memory: SharedMemory) -> None:
    """Do what the worker orders, until it closes the line."""
    task: Task | None = None
    while order := os.read(LINE, MOST_ITEMS * ORDER.size + ORDER.size):
        entries = list(ORDER.iter_unpack(order))
        end = max(start + length for _, start, length in entries)
        said = time.monotonic()
        for place, start, length in entries:
            data = memory.read(start, length)
            if place == TASK:
                task = _task(data)
                continue
            end = _reply(partial(_make, task, place, data), memory, end)
            now = time.monotonic()
            if now - said > INTERVAL and place != entries[-1][0]:
                said = now
                os.write(LINE, b".")
        os.write(LINE, b".")


def _make(task: Task | None, place: int, data: bytes, watch: Stopwatch) -> Made:
    """Do what one entry of an order says."""
    if place == QUESTION:
        from imageloom.worker import large_sandboxed  # few items need it

        return large_sandboxed.answer(data)
    assert task is not None, "the task comes before its items"
    prepare(task)
    if task.part is not None:
        from imageloom.worker import large_sandboxed

        return large_sandboxed.compute(task, data, watch.lap)
    chunk = items.load(task, task.work[place], data, watch.lap)
    pixels = make_plan(chunk.header, task.recipe).decoded.pixels
    chunk = items.run_filters(task, chunk, watch.lap)
    return items.encode(task, chunk, watch.lap), pixels, b""


def _reply(make: Callable[[Stopwatch], Made], memory: SharedMemory, at: int) -> int:
    """Write outputs from a position on, and the reply. Returns the position behind them."""
    watch, outputs, end, pixels, about = Stopwatch(), list[Encoded](), at, 0, b""
    failure = None
    try:
        made, pixels, about = make(watch)
        for output in made:
            if isinstance(output, items.About):
                about = msgspec.msgpack.encode(output) if output != items.NOTHING else b""
                continue
            encoded, parts = described(output)
            for part in parts:
                end = memory.write(part, end)
            outputs.append(encoded)
    except BaseException as error:  # includes SystemExit of an operator, and a panic of a Rust library
        failure, outputs, end = _failure_of(error), [], at
    times = watch.times()
    laps = times.decode, times.filter, times.encode
    if failure is None and len(outputs) == 1 and not outputs[0].files and not about:
        memory.add_reply(end - at, at, 0, pixels, *laps)
        return end
    packed = msgspec.msgpack.encode(Description(tuple(outputs), failure, about))
    memory.write(packed, end)
    memory.add_reply(DESCRIBED, end, len(packed), pixels, *laps)
    return end + len(packed)


def _failure_of(error: BaseException) -> Failure:
    failure = Failure.of(error)
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(one, OSError) and one.errno in (errno.EPERM, errno.EACCES) for one in causes):
        return replace(failure, message=f"{failure.message}: {REFUSED}")
    return failure
