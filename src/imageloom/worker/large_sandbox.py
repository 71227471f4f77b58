"""The worker's side of sandboxed decoding of large images: parts, and files that are decoded ahead of them.

The worker opens the file and the rasters. The child gets the file's descriptor and pixels, and returns pixels or
compressed pieces.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from imageloom import errors
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import Metadata
from imageloom.codecs.piecewise.pieces import Pieces
from imageloom.errors import InvalidResult, ItemError, ItemTimeout, WorkerLost
from imageloom.model import UNREADABLE, Box, Failure, Frame, Header, Pixels, Result, Task
from imageloom.recipes.files import readable
from imageloom.records.faults import log_failure
from imageloom.stores import Store
from imageloom.system.exits import cause_of
from imageloom.system.sandbox import Sandbox
from imageloom.worker import parts
from imageloom.worker.files import Found, Question, shape_of
from imageloom.worker.items import Stopwatch
from imageloom.worker.large_sandboxed import AboutPart, bytes_of
from imageloom.worker.sandbox import Child, Key, Reply, children
from imageloom.worker.shared import QUESTION
from imageloom.worker.zygote import Fork

_found = msgspec.msgpack.Decoder(Found).decode
_T = TypeVar("_T")
_about = msgspec.msgpack.Decoder(AboutPart).decode


def process_part(task: Task, sink: Store, watch: Stopwatch) -> Result:
    """Compute a part in a child, and store its pixels or pieces. The result has no times.

    Raises:
        ItemError, WorkerLost: the part has failed.
    """
    pixels = parts.stored(task)
    watch.lap("read")
    data = b"" if pixels is None else bytes_of(pixels)
    with contextlib.ExitStack() as stack:
        files, key = list[int](), (task.job, task.source, task.sink, readable(task.recipe), task.digests)
        if pixels is None or parts.reads_metadata(task):
            files = [stack.enter_context(parts.opened(task))]
        header = task.work[0].header
        fork = Fork(readable(task.recipe), task.sandbox.memory, (header.format,) if header else ())
        child = _take((*key, task.work[0] if files else None), fork, files)
        reply = _ask(child, task, 0, data, task.sandbox)
    if reply.failure is not None:
        log_failure(task.work[0].item.key, reply.failure)
        return Result(task.work[0].item.key, failure=reply.failure)
    watch.add(*zip(("decode", "filter", "encode"), reply.laps, strict=True))
    return parts.keep(task, _made(task, reply), sink, watch.lap)


def _made(task: Task, reply: Reply) -> parts.Made:
    """What a child has made of a part, checked as far as the driver does not check it."""
    about = _checked(_about, reply.about)
    outputs = reply.outputs
    if about.frame is not None:
        assert task.part is not None
        expected = about.frame.width, about.frame.height, about.frame.bytes
        box, data = task.part.write, outputs[0] if len(outputs) == 1 else b""
        if not (
            task.part.writes
            and isinstance(data, bytes)
            and expected == (box.width, box.height, len(data))
            and about.frame == replace(parts.output_frame(task), width=box.width, height=box.height, extra=0)
        ):
            raise InvalidResult("its decoding process made pixels of another size")
        pixels = np.frombuffer(data, about.frame.dtype).reshape(shape_of(about.frame, box))
        return parts.Made(pixels, measure=about.measure, warnings=about.warnings)
    if about.indices:
        pieces = [output for output in outputs if isinstance(output, bytes)]
        if len(pieces) != len(about.indices) or len(outputs) != len(pieces):
            raise InvalidResult("its decoding process made other pieces")
        indexed = tuple(zip(about.indices, pieces, strict=True))
        return parts.Made(pieces=indexed, measure=about.measure, warnings=about.warnings)
    if len(outputs) != 1:
        raise InvalidResult(f"its decoding process made {len(outputs)} outputs")
    return parts.Made(encoded=outputs[0])


class ChildDecoder:
    """Decodes the file of one large image in a child, for the driver: see `tiling.loader.Decoder`.

    Args:
        file: the open file.
    """

    def __init__(self, file: int, header: Header, sandbox: Sandbox) -> None:
        self._header, self._sandbox = header, sandbox
        self._child = _take((object(),), Fork((), sandbox.memory, (header.format,)), [file])

    def metadata(self) -> Metadata:
        return self._ask(Question(self._header, metadata=True))[0].metadata

    def in_pieces(self, damage: DamageLog) -> ChildReader | None:
        found, _ = self._ask(Question(self._header, damage=damage.policy))
        if not found.down:
            return None
        if found.across < 1 or found.down < 1:
            raise InvalidResult("its decoding process sent impossible numbers")
        return ChildReader(self, self._header.frame, found, damage)

    def whole(self, frame: Frame, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        question = Question(self._header, scale=scale, luma=luma, damage=damage.policy)
        return self._pixels(question, frame, Box.of(frame), damage)

    def rows(self, box: Box, damage: DamageLog) -> Pixels:
        """Decode a box, as `Reader.read`."""
        question = Question(self._header, box, damage=damage.policy)
        return self._pixels(question, self._header.frame, box, damage)

    def _pixels(self, question: Question, frame: Frame, box: Box, damage: DamageLog) -> Pixels:
        shape = shape_of(frame, box)
        found, outputs = self._ask(question)
        damage.add(found.warnings)
        count = int(np.prod(shape)) * np.dtype(frame.dtype).itemsize
        if len(outputs) != 1 or not isinstance(outputs[0], bytes) or len(outputs[0]) != count:
            raise InvalidResult("its decoding process made pixels of another size")
        return np.frombuffer(outputs[0], frame.dtype).reshape(shape)

    def _ask(self, question: Question) -> tuple[Found, Sequence[bytes | dict[str, bytes]]]:
        packed = msgspec.msgpack.encode(question)
        reply = _ask(self._child, None, QUESTION, packed, self._sandbox, keep=True)
        if reply.failure is not None:
            raise _raised(reply.failure)
        return _checked(_found, reply.about), reply.outputs

    def close(self) -> None:
        children.end(self._child)


class ChildReader:
    """A reader of rows in order, or a note that the file has random access: see `tiling.readers.Reader`."""

    def __init__(self, decoder: ChildDecoder, frame: Frame, found: Found, damage: DamageLog) -> None:
        self._decoder, self._damage = decoder, damage
        self.frame, self.random = frame, found.random
        self.pieces = Pieces(frame, found.across, found.down)

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        return self._decoder.rows(Box(x0, y0, x1, y1), self._damage)

    def close(self) -> None:
        """Does nothing: the decoder ends the child."""


def _take(key: Key, fork: Fork, files: Sequence[int]) -> Child:
    try:
        return children.take_for(key, fork, files)
    except OSError as error:
        raise WorkerLost(f"its decoding process cannot be started: {error.strerror or error}") from None


def _ask(
    child: Child,
    task: Task | None,
    place: int,
    data: bytes | memoryview,
    sandbox: Sandbox,
    keep: bool = False,
) -> Reply:
    """Order one thing of a child, and wait. The child is put back, unless it is kept, or ended by an error."""
    try:
        child.order(task, [(place, data)])
        until = time.monotonic() + sandbox.timeout if sandbox.timeout else None
        if not child.wait(0, until):
            raise ItemTimeout(f"it took more than {sandbox.timeout:g} s (--timeout)")
        reply = child.reply(0)
    except BaseException as error:
        exitcode = children.end(child)
        if isinstance(error, ConnectionError):
            raise WorkerLost(f"its decoding process died: {cause_of(exitcode)}") from None
        raise
    if not keep:
        children.put_back(child, sandbox.untrusted)
    return reply


def _raised(failure: Failure) -> Exception:
    """The exception of a failure in a child."""
    if failure.kind == "MemoryError":
        return MemoryError(failure.message)
    kind = getattr(errors, failure.kind, ItemError)
    return (kind if isinstance(kind, type) and issubclass(kind, ItemError) else ItemError)(failure.message)


def _checked(decode: Callable[[bytes], _T], packed: bytes) -> _T:
    try:
        return decode(packed)
    except UNREADABLE as error:
        raise InvalidResult(f"its decoding process sent an invalid description: {error}") from None
