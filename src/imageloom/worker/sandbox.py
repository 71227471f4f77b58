"""The worker's side of sandboxed decoding: it gives an item's bytes to a child process, and stages the outputs.

A child that crashes or takes too long fails only its item: it is ended, and the next item gets another one. A
child is used again for items of the same job. For untrusted files each item has a new child and new memory.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from imageloom import codecs
from imageloom.errors import InvalidResult, ItemTimeout, UsageError, WorkerLost
from imageloom.model import Result, Task, Work
from imageloom.records.faults import log_failure
from imageloom.stores import Store
from imageloom.system.sandbox import Sandbox
from imageloom.worker.items import Stopwatch, stage_all
from imageloom.worker.shared import MESSAGE, MOST_DESCRIBED, Encoded, Order, Reply, SharedMemory
from imageloom.worker.zygote import End, Fork, Zygote

MOST_NAME = 1000
"""Maximum length of a path in a folder of output files, in characters."""
MOST_PIXELS = 1 << 53
INVALID = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that cannot be decoded."""

_reply = msgspec.msgpack.Decoder(Reply).decode


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


def process(task: Task, work: Work, data: bytes, sink: Store, watch: Stopwatch) -> Result:
    """Process an item in a child, and stage its outputs. The result has no times.

    Raises:
        WorkerLost, ItemTimeout, InvalidResult: of the child.
        ItemError: an output cannot be staged.
    """
    with children.lent(task) as child:
        reply = child.do(task, work, data)
        watch.add(reply.times)
        if reply.failure is not None:
            log_failure(work.item.key, reply.failure)
            return Result(work.item.key, failure=reply.failure)
        return stage_all(task, work, child.outputs(reply), reply.pixels, sink, watch.lap)


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
        self._packed = b""

    def do(self, task: Task, work: Work, data: bytes) -> Reply:
        """Process an item.

        Raises:
            ItemTimeout: it took too long.
            ConnectionError: the child has ended.
            InvalidResult: its reply is invalid.
        """
        if task is not self._task:
            self._task, self._packed = task, msgspec.msgpack.encode(replace(task, work=()))
        order = msgspec.msgpack.encode(Order(self._packed, work, len(data)))
        self.memory.write([order, data])
        self._line.send(MESSAGE.pack(0, len(order)))
        limit = task.sandbox.timeout
        if not self._poll.poll(1000 * limit if limit else None):
            raise ItemTimeout(f"it took more than {limit:g} s (--timeout)")
        message = self._line.recv(MESSAGE.size)
        if not message:
            raise ConnectionResetError
        if len(message) != MESSAGE.size:
            raise InvalidResult("a message of another size")
        return self._checked(*MESSAGE.unpack(message))

    def _checked(self, start: int, length: int) -> Reply:
        if length > MOST_DESCRIBED:
            raise InvalidResult(f"a description of {length:,} bytes")
        try:
            reply = _reply(self.memory.read(start, length))
        except INVALID as error:
            raise InvalidResult(f"a description that cannot be read: {error}") from None
        sizes = [size for output in reply.outputs for size in _sizes(output)]
        if min(sizes, default=0) < 0 or sum(sizes) > start or not 0 <= reply.pixels <= MOST_PIXELS:
            raise InvalidResult("a description of outputs that are not there")
        return reply

    def outputs(self, reply: Reply) -> Iterator[bytes | dict[str, bytes]]:
        """The outputs of a reply, each as of `codecs.encode`."""
        at = 0
        for output in reply.outputs:
            parts = []
            for size in _sizes(output):
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


def _sizes(output: Encoded) -> list[int]:
    """The sizes of an output's files.

    Raises:
        InvalidResult: a file's name is not a path below the output's folder.
    """
    for name, _ in output.files:
        if len(name) > MOST_NAME or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise InvalidResult("the name of a file that leads out of its folder")
    return [size for _, size in output.files] or [output.size]


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

    @contextlib.contextmanager
    def lent(self, task: Task) -> Iterator[Child]:
        """A child for an item of a task.

        Raises:
            WorkerLost: it has crashed, or cannot be started.
        """
        try:
            child = self._take(task)
        except OSError as error:
            raise WorkerLost(f"its decoding process cannot be started: {error.strerror or error}") from None
        try:
            yield child
        except ConnectionError:
            raise WorkerLost(f"its decoding process died: {cause_of(self._end(child))}") from None
        except (ItemTimeout, InvalidResult):
            self._end(child)
            raise
        except BaseException:
            self._put_back(child, task)
            raise
        self._put_back(child, task)

    def _take(self, task: Task) -> Child:
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
            self._end(found)
        with self._lock:
            if self._zygote is None:
                self._zygote = Zygote()
            return Child(self._zygote, key, operators, task.sandbox.memory)

    def _put_back(self, child: Child, task: Task) -> None:
        if task.sandbox.untrusted:
            self._end(child)
            return
        child.memory.give_back()
        with self._lock:
            self._free.append(child)

    def _end(self, child: Child) -> int | None:
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
