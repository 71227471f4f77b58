"""Messages from workers. A slow or faulty worker can neither block nor crash the reader."""

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
from imageloom.model import UNREADABLE, Plain
from imageloom.scheduling.results import refused, shown
from imageloom.worker.message import Message

MOST_BYTES = 64 << 20
"""Maximum size of one message, in bytes."""
_AT_ONCE = 1 << 16
_SIZE = struct.Struct("!i")
"""The size that `Connection` writes before a message. After a negative value, the size follows in 8 bytes."""

log = logging.getLogger(__name__)


class Inbox:
    """The messages that arrive through a pipe. Reading does not block on an incomplete message."""

    def __init__(self, pipe: Connection) -> None:
        self._file = pipe.fileno()
        self._held = bytearray()

    @property
    def is_amid(self) -> bool:
        """Whether a message has arrived only in part."""
        return bool(self._held)

    def take(self) -> list[bytes]:
        """Read what has arrived, and return the complete messages. Call it only if the pipe is readable.

        Raises:
            EOFError: the other end was closed.
            InvalidResult: the data is not a message, or it is too large.
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
    """A message whose result is not decoded yet."""

    delivery: int = 0
    place: int = 0
    worker: str = ""
    result: msgspec.Raw = msgspec.Raw(b"\xc0")


_messages, _envelopes = msgspec.msgpack.Decoder(Message), msgspec.msgpack.Decoder(_Envelope)


def message_of(data: bytes) -> Message:
    """Decode a message. If only its result cannot be decoded, the result is a failure without a key.

    Raises:
        InvalidResult: the data is not a message.
    """
    try:
        return _messages.decode(data)
    except UNREADABLE as error:
        wrong = shown(str(error))  # not the exception: it would hold the data in a cycle
    try:
        envelope = _envelopes.decode(data)
    except UNREADABLE:
        raise InvalidResult(f"a message that cannot be read: {wrong}") from None
    worker = shown(envelope.worker)
    return Message(envelope.delivery, envelope.place, worker, refused("", worker, wrong))


def fail(future: Future[Any], error: Exception) -> None:
    """Set the exception of a future, unless it is done."""
    if future.running() or (not future.done() and future.set_running_or_notify_cancel()):
        future.set_exception(error)


def start_thread(name: str, run: Callable[[], None], failed: Callable[[str], object]) -> threading.Thread:
    """Start a thread of an engine. An exception in it is logged and reported.

    Args:
        failed: called with the reason, as text, if `run` raises an exception.
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
