"""A transport whose workers are processes on this machine. Each one is connected by a pipe."""

from __future__ import annotations

import contextlib
import selectors
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import msgspec

from imageloom.errors import InvalidResult, WorkerLost
from imageloom.model import Failure
from imageloom.scheduling.inbox import Inbox, log, message_of
from imageloom.scheduling.protocol import Died, Drop, End, Event, Joined, Received, Send
from imageloom.scheduling.transport import Transport, Waker


@dataclass(eq=False)
class _Worker:
    name: str
    pipe: Connection
    slots: int
    inbox: Inbox = field(init=False)
    is_ready: bool = False
    """Whether it has reported that its imports are done."""

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.pipe)


class PipeTransport(Transport):
    """Sends tasks and receives results through pipes. A subclass starts and ends the processes.

    The process at the other end of a pipe runs `worker.process.serve`. It exits when its pipe is closed.
    """

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._events: list[Event] = []
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._selector.register(self._waker.file, selectors.EVENT_READ)

    def open(self, failed: Callable[[str], None]) -> None:
        """Does nothing: the scheduler requests each worker by `Start`."""

    @abstractmethod
    def cause(self, worker: str) -> str:
        """The cause of the end of a worker's process, as text. Called when its pipe is closed."""

    def add(self, worker: str, pipe: Connection, slots: int = 1) -> None:
        """Add a worker whose process was started."""
        added = self._workers[worker] = _Worker(worker, pipe, slots)
        self._selector.register(pipe, selectors.EVENT_READ, added)
        self._events.append(Joined(worker, slots, is_ready=False))

    def remove(self, worker: str) -> None:
        """Close a worker's pipe. Messages that were not read yet are lost."""
        removed = self._workers.pop(worker)
        self._selector.unregister(removed.pipe)
        removed.pipe.close()

    def resize(self, slots: int) -> None:
        """Change the number of deliveries that each worker processes at the same time."""
        for worker in self._workers.values():
            if worker.slots != slots:
                worker.slots = slots
                self._events.append(Joined(worker.name, slots, is_ready=worker.is_ready))

    @property
    def starting(self) -> list[str]:
        """The workers that have not reported that they are ready."""
        return [worker.name for worker in self._workers.values() if not worker.is_ready]

    def send(self, command: Send) -> None:
        self._write(command.worker, msgspec.msgpack.encode(command.task))

    def drop(self, command: Drop) -> None:
        self._write(command.worker, msgspec.msgpack.encode((command.delivery, command.keep)))

    def _write(self, name: str, data: bytes) -> None:
        if worker := self._workers.get(name):
            with contextlib.suppress(OSError):  # it is dead: the end of its pipe is reported by `events`
                worker.pipe.send_bytes(data)

    def wake(self) -> None:
        self._waker.wake()

    def events(self, patience: float | None) -> list[Event]:
        events, self._events = self._events, []
        for key, _ in self._selector.select(0.0 if events else patience):
            if key.data:
                events += self._receive(key.data)
            else:
                self._waker.clear()
        return events

    def _receive(self, worker: _Worker) -> Iterator[Event]:
        """Read a worker's messages. Yields `Died` if its pipe is closed, or if it sent an invalid message."""
        try:
            for data in worker.inbox.take():
                message = message_of(data)
                if message.result is not None:
                    yield Received(
                        worker.name, message.delivery, message.place, message.result, message.worker
                    )
                elif worker.is_ready:
                    raise InvalidResult("a message without a result")
                else:
                    worker.is_ready = True
                    yield Joined(worker.name, worker.slots)
        except (EOFError, OSError):
            self.remove(worker.name)
            reason = f"its worker died: {self.cause(worker.name)}"
            yield Died(worker.name, Failure.of(WorkerLost(reason)))
        except InvalidResult as error:
            log.warning("refused a message from worker %s and ended the worker: %s", worker.name, error)
            failure = Failure.of(InvalidResult(f"its worker {worker.name} sent {error}"))
            self.end(End(worker.name, 0, failure))
            yield Died(worker.name, failure)

    def close(self, patience: float) -> None:
        """Close all pipes, so that the workers exit. A subclass waits for them."""
        for name in list(self._workers):
            self.remove(name)
        self._selector.close()
        self._waker.close()
