"""Supervised worker processes: one that crashes or hangs fails only the items that it was processing.

Each worker has a pipe, which carries tasks to the worker and the result of each item back. The scheduler assigns
the tasks. This module starts and ends the processes, and reads their messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from multiprocessing.context import ForkServerProcess

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.inbox import log
from imageloom.scheduling.pipes import PipeTransport
from imageloom.scheduling.protocol import End, Event, Received
from imageloom.scheduling.rules import Rules
from imageloom.system.exits import cause_of
from imageloom.worker.controller import Controller, fixed, for_requests
from imageloom.worker.fork_server import warm_up
from imageloom.worker.process import serve, start


class Processes(TransportEngine, Engine):
    """The engine."""

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

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
        """Number of tasks in progress together: more than workers if tasks wait for stores."""
        return -(-self._controller.size // self._jobs) * self._jobs

    def _events(self, patience: float | None) -> Iterable[Event]:
        room, began = max(0, self.capacity - self.scheduler.held), time.monotonic()
        events = self._transport.events(patience)
        self._controller.idle(room * (time.monotonic() - began))
        return events


class ProcessTransport(PipeTransport):
    """Worker processes that a fork server starts."""

    def __init__(self, settings: Settings, controller: Controller) -> None:
        super().__init__()
        self._settings = settings
        self._controller = controller
        self._context = warm_up()
        self._processes: dict[str, ForkServerProcess] = {}
        self._ended: list[ForkServerProcess] = []

    @property
    def _slots(self) -> int:
        return -(-self._controller.size // self._settings.jobs)

    def start(self) -> None:
        ours, theirs = self._context.Pipe()
        most = -(-self._controller.most // self._settings.jobs)
        settings = self._settings
        limits = settings.threads, settings.memory, most
        process = start(self._context, serve, theirs, *limits, sandboxed=settings.sandbox.is_on)
        theirs.close()
        self._processes[str(process.pid)] = process
        self.add(str(process.pid), ours, self._slots)

    def end(self, command: End) -> None:
        if process := self._processes.pop(command.worker, None):
            log.debug("ended worker %s: %s", command.worker, command.failure.message)
            process.kill()
            self.remove(command.worker)
            self._ended.append(process)

    def cause(self, worker: str) -> str:
        process = self._processes.pop(worker)
        process.join()
        return cause_of(process.exitcode)

    def events(self, patience: float | None) -> list[Event]:
        events = super().events(patience)
        for event in events:
            if isinstance(event, Received):
                self._controller.record()
        self._ended = [process for process in self._ended if process.is_alive()]
        self.resize(self._slots)
        return events

    def close(self, patience: float) -> None:
        for name in self.starting:  # it has nothing to finish
            self._processes[name].kill()
        super().close(patience)
        until = time.monotonic() + patience
        for process in [*self._processes.values(), *self._ended]:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
