"""The worker's side of sandboxed decoding: it gives an item's bytes to a child process, and stages the outputs.

A child that crashes or takes too long fails only its item: it is ended, and the next item gets another one. A
child is used again for items of the same job. For untrusted files each item has a new child and new memory.
"""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Iterator

import msgspec

from imageloom import codecs
from imageloom.errors import InvalidResult, ItemTimeout, UsageError, WorkerLost
from imageloom.model import Result, Task, Work
from imageloom.records.faults import log_failure
from imageloom.stores import Store
from imageloom.system.sandbox import Sandbox
from imageloom.worker.items import Stopwatch, stage_all
from imageloom.worker.shared import MOST_DESCRIBED, ORDER, REPLY, TASK, Description, SharedMemory
from imageloom.worker.zygote import End, Fork, Zygote

MOST_NAME = 1000
"""Maximum length of a path in a folder of output files, in characters."""
MOST_PIXELS, MOST_SECONDS = 1 << 53, 1e8
INVALID = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that cannot be decoded."""

_description = msgspec.msgpack.Decoder(Description).decode


def is_used(task: Task, work: Work) -> bool:
    """Whether an item of a task is processed in a child."""
    sandbox = task.sandbox
    if not sandbox.is_on or task.part is not None:
        return False
    if not sandbox.shortcut:
        return True
    return bool(task.recipe.operators) or work.header is None or not codecs.in_process(work.header.format)


def is_used_for_all(task: Task) -> bool:
    """Whether this process never runs the operators of a task itself."""
    return task.sandbox.is_on and not task.sandbox.shortcut and task.part is None


def check(sandbox: Sandbox) -> None:
    """Check that the kernel has what `--sandbox require` needs.

    Raises:
        UsageError: the message names what is missing.
    """
    if sandbox.mode == "require":
        from imageloom.system.confinement import missing  # few runs need it

        if lacking := missing():
            raise UsageError(f"--sandbox require: this machine has no {' and no '.join(lacking)}")


class Child:
    """A child process, and the memory that it shares with this one.

    Args:
        key: identifies the job whose items it may process.
    """

    def __init__(
        self, zygote: Zygote, key: tuple[object, ...], operators: tuple[str, ...], most: int
    ) -> None:
        self.key = key
        self.memory = SharedMemory()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = zygote.ask(Fork(operators, most), [theirs.fileno(), self.memory.file])
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._line, select.POLLIN)
        self._task: Task | None = None

    def process_item(self, task: Task, place: int, data: bytes, sink: Store, watch: Stopwatch) -> Result:
        """Process an item, and stage its outputs. The result has no times.

        Raises:
            ItemTimeout: it took too long.
            ConnectionError: the child has ended.
            InvalidResult: its reply is invalid.
            ItemError: an output cannot be staged.
        """
        if task is not self._task:
            packed = msgspec.msgpack.encode(task)
            self.memory.write(packed)
            self._line.send(ORDER.pack(TASK, 0, len(packed)))
            self._task, start = task, len(packed)  # it may not have read the task yet
        else:
            start = 0
        self.memory.write(data, start)
        self._line.send(ORDER.pack(place, start, len(data)))
        limit = task.sandbox.timeout
        if not self._poll.poll(1000 * limit if limit else None):
            raise ItemTimeout(f"it took more than {limit:g} s (--timeout)")
        reply = self._line.recv(REPLY.size)
        if not reply:
            raise ConnectionResetError
        if len(reply) != REPLY.size:
            raise InvalidResult("its decoding process sent a message of another size")
        size, start, length, pixels, *laps = REPLY.unpack(reply)
        if not (0 <= pixels <= MOST_PIXELS and min(laps) >= 0.0 and sum(laps) < MOST_SECONDS):
            raise InvalidResult("its decoding process sent impossible numbers")
        watch.add(*zip(("decode", "filter", "encode"), laps, strict=True))
        work = task.work[place]
        if size >= 0:
            return stage_all(task, work, [self.memory.read(0, size)], pixels, sink, watch.lap)
        found = self._described(start, length)
        if found.failure is not None:
            log_failure(work.item.key, found.failure)
            return Result(work.item.key, failure=found.failure)
        if len(found.outputs) != len(work.names):
            raise InvalidResult(f"its decoding process made {len(found.outputs)} outputs")
        return stage_all(task, work, self._outputs(found), pixels, sink, watch.lap)

    def _described(self, start: int, length: int) -> Description:
        if length > MOST_DESCRIBED:
            raise InvalidResult(f"its decoding process sent a description of {length:,} bytes")
        try:
            found = _description(self.memory.read(start, length))
        except INVALID as error:
            raise InvalidResult(f"its decoding process sent an invalid description: {error}") from None
        sizes = [size for output in found.outputs for size in output.sizes]
        if min(sizes, default=0) < 0 or sum(sizes) > start:
            raise InvalidResult("its decoding process described outputs that are not there")
        for name in (name for output in found.outputs for name, _ in output.files):
            if len(name) > MOST_NAME or "\0" in name or {"", ".", ".."} & set(name.split("/")):
                raise InvalidResult("its decoding process named a file outside the output's folder")
        return found

    def _outputs(self, found: Description) -> Iterator[bytes | dict[str, bytes]]:
        """The outputs, each as of `codecs.encode`."""
        at = 0
        for output in found.outputs:
            parts = []
            for size in output.sizes:
                parts.append(self.memory.read(at, size))
                at += size
            yield (
                dict(zip((name for name, _ in output.files), parts, strict=True))
                if output.files
                else parts[0]
            )

    def close(self) -> None:
        self._line.close()
        self.memory.close()


class Lease:
    """The use of one child for the items of a task, one after the other. A child that has ended is replaced."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._child: Child | None = None

    def process(self, work: Work, data: bytes, sink: Store, watch: Stopwatch) -> Result:
        """Process an item of the task, and stage its outputs. The result has no times.

        Raises:
            WorkerLost: the child has crashed, or cannot be started.
            ItemTimeout, InvalidResult, ItemError: see `Child.process_item`.
        """
        task, place = self._task, self._task.work.index(work)
        try:
            child = self._child = self._child or children.take(task)
        except OSError as error:
            raise WorkerLost(f"its decoding process cannot be started: {error.strerror or error}") from None
        try:
            return child.process_item(task, place, data, sink, watch)
        except (ConnectionError, ItemTimeout, InvalidResult) as error:
            self._child = None
            exitcode = children.end(child)
            if isinstance(error, ConnectionError):
                raise WorkerLost(f"its decoding process died: {cause_of(exitcode)}") from None
            raise
        finally:
            if task.sandbox.untrusted:
                self.close()

    def close(self) -> None:
        """Give the child back."""
        if self._child is not None:
            children.put_back(self._child, self._task)
            self._child = None


class Children:
    """The children of this process, for its threads. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Child] = []
        self._zygote: Zygote | None = None
        self._users = 0

    def use(self, line: socket.socket) -> None:
        """Fork children by the process at the other end of a line, instead of a new interpreter."""
        self._zygote = Zygote(line)

    def open(self) -> None:
        """Count an engine that may need children."""
        with self._lock:
            self._users += 1

    def close(self) -> None:
        """End all children if no other engine of this process needs them."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
            free, self._free = self._free, []
            zygote, self._zygote = self._zygote, None
        for child in free:
            child.close()
        if zygote is not None:
            zygote.close()

    def take(self, task: Task) -> Child:
        """A child for the items of a task.

        Raises:
            OSError: it cannot be started.
        """
        operators = task.recipe.operators
        key = (task.job, task.source, task.sink, operators, task.digests)
        with self._lock:
            mine = [child for child in self._free if child.key == key]
            found = mine[-1] if mine else self._free[0] if self._free else None
            if found is not None:
                self._free.remove(found)
        if found is not None and found.key == key:
            return found
        if found is not None:  # of another job
            self.end(found)
        with self._lock:
            if self._zygote is None:
                self._zygote = Zygote()
            return Child(self._zygote, key, operators, task.sandbox.memory)

    def put_back(self, child: Child, task: Task) -> None:
        """Keep a child for other items of the job. One that has seen untrusted data is ended."""
        if task.sandbox.untrusted:
            self.end(child)
            return
        child.memory.give_back()
        with self._lock:
            self._free.append(child)

    def end(self, child: Child) -> int | None:
        """End a child. Returns its exit code, if it is known."""
        child.close()
        with self._lock:
            if self._zygote is None:
                return None
            try:
                return self._zygote.ask(End(child.process))
            except OSError:
                self._zygote.close()
                self._zygote = None
                return None


children = Children()
"""The children of this process."""


def cause_of(exitcode: int | None) -> str:
    """The cause of a process's end, as text."""
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"it exited with code {exitcode}"
