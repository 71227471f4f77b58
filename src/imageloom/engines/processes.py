"""Supervised worker processes: one that crashes or hangs fails only the items that it was processing.

Each worker has a pipe, on which tasks go out and the result of each item comes back. The scheduler decides which
worker gets what; this module starts processes, ends them and reads what they send.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import msgspec

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.errors import InvalidResult, WorkerLost
from imageloom.model import Failure
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.fleet import cause_of
from imageloom.scheduling.inbox import Inbox, log, message_of
from imageloom.scheduling.protocol import Died, Drop, End, Event, Joined, Received, Send
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.transport import Waker
from imageloom.worker.controller import Controller, fixed, for_requests
from imageloom.worker.fork_server import warm_up
from imageloom.worker.process import serve, start


class Processes(TransportEngine, Engine):
    """The engine."""

    capabilities = Capabilities(tells=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        most = settings.jobs * settings.threads
        self._controller = for_requests(settings.in_flight, most) if settings.waits else fixed(most)
        self._jobs = settings.jobs
        super().__init__(
            "supervisor",
            ProcessTransport(settings, self._controller),
            Rules(timeout=settings.timeout, jobs=settings.jobs),
        )

    @property
    def capacity(self) -> int:
        """Tasks under way together: more than workers where they wait for stores."""
        return -(-self._controller.size // self._jobs) * self._jobs

    def _events(self, patience: float | None) -> Iterable[Event]:
        room, began = max(0, self.capacity - self.scheduler.held), time.monotonic()
        events = self._transport.events(patience)
        self._controller.idle(room * (time.monotonic() - began))
        return events


@dataclass(eq=False)
class _Worker:
    name: str
    process: ForkServerProcess
    pipe: Connection
    inbox: Inbox = field(init=False)
    is_ready: bool = False
    """It has said so: its imports are done."""
    slots: int = 1

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.pipe)


class ProcessTransport:
    """Worker processes, each at the end of a pipe."""

    def __init__(self, settings: Settings, controller: Controller) -> None:
        self._settings = settings
        self._controller = controller
        self._context = warm_up()
        self._workers: dict[str, _Worker] = {}
        self._ended: list[ForkServerProcess] = []
        self._events: list[Event] = []
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._selector.register(self._waker.file, selectors.EVENT_READ)
        self.wake = self._waker.wake

    @property
    def _slots(self) -> int:
        return -(-self._controller.size // self._settings.jobs)

    def open(self, failed: Callable[[str], None]) -> None:
        """The scheduler asks for each worker."""

    def start(self) -> None:
        ours, theirs = self._context.Pipe()
        most = -(-self._controller.most // self._settings.jobs)
        process = start(self._context, serve, theirs, self._settings.threads, self._settings.memory, most)
        theirs.close()
        worker = _Worker(str(process.pid), process, ours, slots=self._slots)
        self._workers[worker.name] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self._events.append(Joined(worker.name, worker.slots, is_ready=False))

    def send(self, command: Send) -> None:
        self._say(command.worker, msgspec.msgpack.encode(command.task))

    def drop(self, command: Drop) -> None:
        self._say(command.worker, msgspec.msgpack.encode((command.delivery, command.keep)))

    def end(self, command: End) -> None:
        if worker := self._workers.get(command.worker):
            log.debug("worker %s is ended: %s", worker.name, command.failure.message)
            worker.process.kill()
            self._let_go(worker)
            self._ended.append(worker.process)

    def _say(self, name: str, data: bytes) -> None:
        if worker := self._workers.get(name):
            with contextlib.suppress(OSError):  # it is dead: its pipe will end
                worker.pipe.send_bytes(data)

    def events(self, patience: float | None) -> list[Event]:
        events, self._events = self._events, []
        for key, _ in self._selector.select(0.0 if events else patience):
            if key.data:
                events += self._receive(key.data)
            else:
                self._waker.clear()
        self._ended = [process for process in self._ended if process.is_alive()]
        slots = self._slots
        for worker in self._workers.values():
            if worker.slots != slots:
                worker.slots = slots
                events.append(Joined(worker.name, slots, is_ready=worker.is_ready))
        return events

    def _receive(self, worker: _Worker) -> Iterator[Event]:
        """What a worker sends; its death; its end, where it sends what none of our workers would."""
        try:
            for data in worker.inbox.take():
                message = message_of(data)
                if message.result is not None:
                    self._controller.record()
                    yield Received(
                        worker.name, message.delivery, message.place, message.result, message.worker
                    )
                elif worker.is_ready:
                    raise InvalidResult("a message without a result")
                else:
                    worker.is_ready = True
                    yield Joined(worker.name, worker.slots)
        except (EOFError, OSError):
            if worker.name in self._workers:
                self._let_go(worker)
                worker.process.join()
                reason = f"its worker died: {cause_of(worker.process.exitcode)}"
                yield Died(worker.name, Failure.of(WorkerLost(reason)))
        except InvalidResult as error:
            log.warning("refused a message of worker %s, which is ended: %s", worker.name, error)
            worker.process.kill()
            self._let_go(worker)
            self._ended.append(worker.process)
            reason = f"its worker {worker.name} sent {error}"
            yield Died(worker.name, Failure.of(InvalidResult(reason)))

    def _let_go(self, worker: _Worker) -> None:
        del self._workers[worker.name]
        self._selector.unregister(worker.pipe)
        worker.pipe.close()

    def close(self, patience: float) -> None:
        """The end of its pipe tells a worker to leave."""
        leaving = [worker.process for worker in self._workers.values()]
        for worker in list(self._workers.values()):
            self._let_go(worker)
        until = time.monotonic() + patience
        for process in [*leaving, *self._ended]:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._selector.close()
        self._waker.close()
