"""Messages from workers, read so that no worker can hold up or end who reads: whole ones, bounded, and decoded."""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from imageloom.errors import EngineFailed, InvalidResult
from imageloom.model import Plain
from imageloom.scheduling.results import refused, shown
from imageloom.worker.message import Message

MOST_BYTES = 64 << 20
"""Of one message."""
_AT_ONCE = 1 << 16
_SIZE = struct.Struct("!i")
"""What `Connection` puts before a message; a negative one is followed by a size of 8 bytes."""

log = logging.getLogger(__name__)


class Inbox:
    """The messages that come through a pipe. Nobody waits for the rest of one that is not there as a whole."""

    def __init__(self, pipe: Connection) -> None:
        self._file = pipe.fileno()
        self._held = bytearray()

    @property
    def is_amid(self) -> bool:
        """A message has begun and is not there as a whole."""
        return bool(self._held)

    def take(self) -> list[bytes]:
        """The messages that are complete with what can be read now; only to be called where there is something.

        Raises:
            EOFError: the other end is closed.
            InvalidResult: what comes next is no message.
        """
        read = os.read(self._file, _AT_ONCE)
        if not read:
            raise EOFError
        self._held += read
        messages: list[bytes] = []
        start = 0
        while len(self._held) >= start + _SIZE.size:
            (size,) = _SIZE.unpack_from(self._held, start)
            if not 0 <= size <= MOST_BYTES:
                raise InvalidResult(f"a message of {size:,} bytes")
            end = start + _SIZE.size + size
            if len(self._held) < end:
                break
            messages.append(bytes(self._held[start + _SIZE.size : end]))
            start = end
        del self._held[:start]
        return messages


class _Envelope(Plain, frozen=True):
    """A message whose result is not read yet."""

    delivery: int = 0
    place: int = 0
    worker: str = ""
    result: msgspec.Raw = msgspec.Raw(b"\xc0")


_messages, _envelopes = msgspec.msgpack.Decoder(Message), msgspec.msgpack.Decoder(_Envelope)
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no such data."""


def message_of(data: bytes) -> Message:
    """A message; where its result alone cannot be read, with a failure in its place that has no key.

    Raises:
        InvalidResult: it is none.
    """
    try:
        return _messages.decode(data)
    except UNREADABLE as error:
        wrong = error
    try:
        envelope = _envelopes.decode(data)
    except UNREADABLE:
        raise InvalidResult(f"a message that cannot be read: {shown(str(wrong))}") from None
    worker = shown(envelope.worker)
    return Message(envelope.delivery, envelope.place, worker, refused("", worker, shown(str(wrong))))


def fail(future: Future[Any], error: Exception) -> None:
    """End a future by an error, unless it has ended."""
    if future.running() or (not future.done() and future.set_running_or_notify_cancel()):
        future.set_exception(error)


def start_thread(name: str, run: Callable[[], None], failed: Callable[[str], object]) -> threading.Thread:
    """Start a thread of an engine's own. Where it ends by an error, what waits for it is told.

    Args:
        failed: called with the reason then.
    """

    def guarded() -> None:
        try:
            run()
        except EngineFailed as error:
            failed(str(error))
        except BaseException as error:
            log.exception("the thread %s failed", name)
            failed(f"the engine's thread {name} failed: {type(error).__name__}: {error}")

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread
