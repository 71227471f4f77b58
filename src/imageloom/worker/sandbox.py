"""The worker's side of sandboxed decoding: it gives an item's bytes to a child process, and stages the outputs.

A child that crashes or takes too long fails only its item: it is ended, and the next item gets another one. A
child is used again for items of the same job. For untrusted files each item has a new child and new memory.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from imageloom import codecs
from imageloom.errors import ImageloomError, InvalidResult, ItemTimeout, UsageError, WorkerLost
from imageloom.model import UNREADABLE, Failure, Header, Recipe, Task, Work
from imageloom.recipes.files import readable
from imageloom.recipes.plan import make_plan
from imageloom.system.exits import cause_of
from imageloom.system.sandbox import Sandbox
from imageloom.worker.items import About
from imageloom.worker.shared import (
    DESCRIBED,
    MOST_DESCRIBED,
    MOST_ITEMS,
    MOST_ORDERED,
    ORDER,
    START,
    TASK,
    Description,
    SharedMemory,
)

if TYPE_CHECKING:
    from socket import socket

    from imageloom.worker.zygote import Fork, Zygote

SLACK = 5.0
"""Seconds that a worker has to read an item and to stage its outputs, beyond the time-out of its child."""
LOOK = 0.1
"""Seconds after which a worker looks for replies that the child has not reported, as the next item is slow."""
MOST_NAME = 1000
"""Maximum length of a path in a folder of output files, in characters."""
MOST_PIXELS, MOST_SECONDS = 1 << 53, 1e8

Key = tuple[object, ...]
_about = msgspec.msgpack.Decoder(About).decode
_description = msgspec.msgpack.Decoder(Description).decode


def is_used(task: Task, work: Work) -> bool:
    """Whether an item of a task is processed in a child."""
    return is_needed(task.sandbox, task.recipe, work.header, work.attempt)


def time_limit(task: Task, work: Work, timeout: float) -> float:
    """Seconds after which a worker is ended that processes an item. A worker with a child ends that before."""
    return timeout + SLACK if is_used(task, work) else timeout


def is_needed(sandbox: Sandbox, recipe: Recipe, header: Header | None, attempt: int = 1) -> bool:
    """Whether an image with this header is processed in a child."""
    if not sandbox.is_on or not sandbox.shortcut:
        return sandbox.is_on
    if attempt > 1 or recipe.operators or header is None or not codecs.in_process(header.format):
        return True
    # LittleCMS reads the profile of the file: of CMYK while decoding, of other colours in a step.
    return bool(header.stored) or (
        header.colours.startswith("profile") and make_plan(header, recipe).needs_profile
    )


def is_used_for_all(task: Task) -> bool:
    """Whether this process never runs the operators of a task itself."""
    box = task.sandbox
    return box.is_on and task.part is None and (not box.shortcut or bool(task.recipe.operators))


def check(sandbox: Sandbox) -> None:
    """Check that the kernel has what `--sandbox require` needs.

    Raises:
        UsageError: the message names what is missing.
    """
    if sandbox.mode == "require":
        from imageloom.system.confinement import missing  # few runs need it

        if lacking := missing():
            raise UsageError(f"--sandbox require: this machine has no {' and no '.join(lacking)}")


class Reply(NamedTuple):
    """What a child has made of an item."""

    outputs: list[bytes | dict[str, bytes]]
    """As of `codecs.encode`."""
    pixels: int
    laps: tuple[float, float, float]
    """Seconds of the stages decode, filter and encode."""
    failure: Failure | None = None
    about: bytes = b""
    """See `shared.Description`."""


Answer = Reply | ImageloomError
"""A reply, or why there is none: `WorkerLost`, `ItemTimeout` or `InvalidResult`."""


class Child:
    """A child process, and the memory that it shares with this one.

    Args:
        key: identifies the job, or the large image, that it may process.
        files: the open file of the large image, if it may read one.
    """

    def __init__(self, zygote: Zygote, key: Key, fork: Fork, files: Sequence[int]) -> None:
        import select  # plain photos need neither
        import socket

        self.key, self.zygote = key, zygote
        self.is_closed = False
        self.memory = SharedMemory()
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = zygote.ask(fork, [theirs.fileno(), self.memory.file, *files])
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self.line, select.POLLIN)
        self._task: Task | None = None

    def order(self, task: Task | None, pieces: Iterable[tuple[int, bytes | memoryview]]) -> None:
        """Start to process items, each given by its position in the task, and its file.

        Args:
            task: None for a question about a file, which is in the place of the item.

        Raises:
            ConnectionError: the child has ended.
            WorkerLost: the files are too large for the shared memory.
        """
        at, order, every = START, b"", list(pieces)
        if task is not None and task is not self._task:
            every.insert(0, (TASK, msgspec.msgpack.encode(task)))
            self._task = task
        for place, data in every:
            order += ORDER.pack(place, at, len(data))
            at = self.memory.write(data, at)
        self.memory.count = 0
        self.line.send(order)

    def wait(self, done: int, until: float | None) -> int:
        """Wait until more than `done` items have a reply, or for the time-out. Returns the number of replies.

        Args:
            until: end of the wait, in seconds of the monotonic clock; None for no end.

        Raises:
            ConnectionError: the child has ended.
        """
        while True:
            left = LOOK if until is None else until - time.monotonic()
            if self._poll.poll(1000 * max(0.0, min(left, LOOK))) and not self.line.recv(64):
                raise ConnectionResetError
            count = self.memory.count
            if count > done or left <= 0.0:
                return count

    def reply(self, number: int) -> Reply:
        """The reply for an item of the order.

        Raises:
            InvalidResult: it is invalid.
        """
        size, start, length, pixels, *laps = self.memory.reply(number)
        if not (
            size >= DESCRIBED and 0 <= pixels <= MOST_PIXELS and min(laps) >= 0.0 and sum(laps) < MOST_SECONDS
        ):
            raise InvalidResult("its decoding process sent impossible numbers")
        decode, filter_, encode = laps
        if size >= 0:
            return Reply([self.memory.read(start, size)], pixels, (decode, filter_, encode))
        found = self._described(start, length)
        outputs = self._outputs(found, start)
        return Reply(outputs, pixels, (decode, filter_, encode), found.failure, found.about)

    def _described(self, start: int, length: int) -> Description:
        if length > MOST_DESCRIBED:
            raise InvalidResult(f"its decoding process sent a description of {length:,} bytes")
        try:
            found = _description(self.memory.read(start, length))
        except UNREADABLE as error:
            raise InvalidResult(f"its decoding process sent an invalid description: {error}") from None
        for name in (name for output in found.outputs for name, _ in output.files):
            if len(name) > MOST_NAME or "\0" in name or {"", ".", ".."} & set(name.split("/")):
                raise InvalidResult("its decoding process named a file outside the output's folder")
        return found

    def _outputs(self, found: Description, end: int) -> list[bytes | dict[str, bytes]]:
        sizes = [size for output in found.outputs for size in output.sizes]
        at = end - sum(sizes)
        if min(sizes, default=0) < 0 or at < 0:
            raise InvalidResult("its decoding process described outputs that are not there")
        outputs: list[bytes | dict[str, bytes]] = []
        for output in found.outputs:
            parts = []
            for size in output.sizes:
                parts.append(self.memory.read(at, size))
                at += size
            names = [name for name, _ in output.files]
            outputs.append(dict(zip(names, parts, strict=True)) if names else parts[0])
        return outputs

    def close(self) -> None:
        self.is_closed = True
        self.line.close()
        self.memory.close()


class Lease:
    """The use of one child for the items of a task. A child that has ended is replaced."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._child: Child | None = None
        self._is_busy = False

    def process(self, pieces: Sequence[tuple[int, bytes]]) -> Iterator[Answer]:
        """Process items, each given by its position in the task, and its file. Yields an answer for each.

        A crash or a time-out is that of the item in progress. The items after it go to another child.
        """
        waiting = list(pieces)
        while waiting:
            count = 1 if self._task.sandbox.untrusted else group(len(data) for _, data in waiting)
            for answer in self._order(waiting[:count]):
                del waiting[0]
                yield answer

    def _order(self, pieces: list[tuple[int, bytes]]) -> Iterator[Answer]:
        """Process some items. Ends early after an answer that cost the child."""
        task, limit = self._task, self._task.sandbox.timeout
        try:
            child = self._child = self._child or children.take(task)
        except OSError as error:
            yield WorkerLost(f"its decoding process cannot be started: {error.strerror or error}")
            return
        done, died, self._is_busy = 0, False, True
        while done < len(pieces):
            try:
                if not done:
                    child.order(task, pieces)
                count = child.wait(done, time.monotonic() + limit if limit else None)
            except ConnectionError:
                count, died = child.memory.count, True
            except WorkerLost as error:
                self._end(child)
                yield error
                return
            if count <= done:
                ended = self._end(child)
                late = ItemTimeout(f"it took more than {limit:g} s (--timeout)")
                yield WorkerLost(f"its decoding process died: {cause_of(ended)}") if died else late
                return
            replies: list[Answer] = []
            try:
                replies += (child.reply(number) for number in range(done, min(count, len(pieces))))
            except InvalidResult as error:
                replies.append(error)
            done += len(replies)
            if done == len(pieces):
                self._is_busy = False
            if died or isinstance(replies[-1], InvalidResult):
                self._end(child)
            elif not self._is_busy and task.sandbox.untrusted:
                self.close()
            yield from replies
            if self._child is None:
                return

    def _end(self, child: Child) -> int | None:
        self._child, self._is_busy = None, False
        return children.end(child)

    def close(self) -> None:
        """Give the child back. If it still has an order, it is ended."""
        if self._child is not None:
            if self._is_busy:
                children.end(self._child)
            else:
                children.put_back(self._child, self._task.sandbox.untrusted)
            self._child, self._is_busy = None, False


def group(sizes: Iterable[int]) -> int:
    """Number of the first items that fit into one order, given the sizes of their files. At least 1."""
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if number and (total > MOST_ORDERED or number == MOST_ITEMS):
            return number
    return number + 1


def about(packed: bytes) -> About:
    """What a child says of an item beside its outputs.

    Raises:
        InvalidResult: it is invalid.
    """
    try:
        return _about(packed)
    except UNREADABLE as error:
        raise InvalidResult(f"its decoding process sent an invalid description: {error}") from None


class Children:
    """The children of this process, for its threads. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Child] = []
        self._zygote: Zygote | None = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()

    def use(self, line: socket) -> None:
        """Fork children by the process at the other end of a line, instead of a new interpreter."""
        from imageloom.worker.zygote import Zygote  # imported late: most runs do not need it

        self._zygote = Zygote(line)

    @property
    def is_idle(self) -> bool:
        """Whether there is no child, and no process that forks them."""
        return not self._free and self._zygote is None

    def open(self, user: object) -> None:
        """Note an engine that may need children. One that is never closed is forgotten with the engine."""
        with self._lock:
            self._users.add(user)

    def close(self, user: object) -> None:
        """End all children if no other engine of this process needs them."""
        with self._lock:
            self._users.discard(user)
            if self._users:
                return
            self._forget_zygote()

    def take(self, task: Task) -> Child:
        """A child for the items of a task.

        Raises:
            OSError: it cannot be started.
        """
        operators = readable(task.recipe)
        key = (task.job, task.source, task.sink, operators, task.digests)
        from imageloom.worker.zygote import Fork

        found = {work.header.format for work in task.work if work.header}
        found |= {output.format for output in task.recipe.outputs if output.format}
        return self.take_for(key, Fork(operators, task.sandbox.memory, tuple(sorted(found))))

    def take_for(self, key: Key, fork: Fork, files: Sequence[int] = ()) -> Child:
        """A child with this key, which may be new.

        Args:
            fork: what it needs.
            files: see `Child`.

        Raises:
            OSError: it cannot be started.
        """
        with self._lock:
            mine = [child for child in self._free if child.key == key]
            found = mine[-1] if mine else self._free[0] if self._free else None
            if found is not None:
                self._free.remove(found)
        if found is not None and found.key == key:
            return found
        if found is not None:  # of another job, or of another image
            self.end(found)
        with self._lock:
            if self._zygote is not None:
                try:
                    return Child(self._zygote, key, fork, files)
                except ConnectionError:  # it has ended: the kernel kills processes when memory runs out
                    self._forget_zygote()
            from imageloom.worker.zygote import Zygote

            self._zygote = Zygote()
            return Child(self._zygote, key, fork, files)

    def _forget_zygote(self) -> None:
        """End the process that forks children, and them. Some or all may have ended before."""
        for closed in (*self._free, self._zygote):
            if closed is not None:
                closed.close()
        self._free, self._zygote = [], None

    def put_back(self, child: Child, untrusted: bool) -> None:
        """Keep a child for other items of the job. One that has seen untrusted data is ended."""
        if untrusted or child.zygote is not self._zygote:
            self.end(child)
            return
        child.memory.give_back()
        with self._lock:
            self._free.append(child)

    def end(self, child: Child) -> int | None:
        """End a child. Returns its exit code, if it is known. Does nothing if it was ended before."""
        if child.is_closed:
            return None
        from imageloom.worker.zygote import End

        with closing(child), self._lock:  # closed before, it could exit by itself, with another code
            if self._zygote is None or child.zygote is not self._zygote:  # it has ended with its zygote
                return None
            try:
                return self._zygote.ask(End(child.process))
            except OSError:
                self._forget_zygote()
                return None


children = Children()
"""The children of this process."""
