"""MPI ranks under mpiexec, all of which run the same command: the first one drives, and the others do tasks.

When a rank dies, MPI ends the job, and the driver with it: the same command goes on from the ledger then. An item
that hangs is given up and its rank goes on with new threads, for a rank cannot be replaced.
"""

from __future__ import annotations

import atexit
import select
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
from mpi4py import MPI

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.mpi.hub import Hub
from imageloom.engines.mpi.rank import serve
from imageloom.engines.mpi.wire import Kind
from imageloom.errors import EngineFailed, InvalidResult, UsageError
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.inbox import log, message_of
from imageloom.scheduling.protocol import Drop, End, Event, Joined, Left, Received, Send
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.transport import Waker

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0001, 0.002
"""Seconds between two looks for messages; longer and longer while there are none."""
RESTART_PATIENCE = 10.0
"""Seconds in which one of the ranks must answer, where all of them were told to restart."""


class Ranks(TransportEngine, Engine):
    """The engine, in the first rank; the other ranks serve it and leave.

    Raises:
        UsageError: there are no other ranks.
        SystemExit: in the other ranks, always.
    """

    capabilities = Capabilities(reports_results=True)

    def __init__(self, settings: Settings) -> None:
        world = MPI.COMM_WORLD
        if world.Get_size() == 1:
            raise UsageError(
                "--engine mpi needs at least 2 ranks, because the first one only distributes tasks: mpiexec -n 2"
            )
        if world.Get_rank() > 0:
            serve(settings.threads)
        self._capacity = (world.Get_size() - 1) * settings.threads
        rules = Rules(timeout=settings.timeout, isolation="engine")
        super().__init__("ranks", RanksTransport(settings.threads), rules)

    @property
    def capacity(self) -> int:
        return self._capacity


class RanksTransport:
    """The other ranks of this process's job, by messages of MPI."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._hub = Hub()
        self._ready: set[int] = set()
        self._restarted = float("inf")
        """When a rank was told to restart last."""
        self._waker = Waker()
        self.wake = self._waker.wake

    def open(self, failed: Callable[[str], None]) -> None:
        """mpiexec has started the ranks."""

    def start(self) -> None:
        raise NotImplementedError("mpiexec starts ranks")

    def send(self, command: Send) -> None:
        self._hub.send(_rank(command.worker), Kind.TASK, msgspec.msgpack.encode(command.task))

    def drop(self, command: Drop) -> None:
        self._hub.send(
            _rank(command.worker), Kind.DROP, msgspec.msgpack.encode((command.delivery, command.keep))
        )

    def end(self, command: End) -> None:
        """Have a rank give up all that it has; it can be used again as soon as it says so."""
        log.debug("restarting %s: %s", command.worker, command.failure.message)
        self._restart(_rank(command.worker))

    def _restart(self, rank: int) -> None:
        self._ready.discard(rank)
        self._restarted = time.monotonic()
        self._hub.send(rank, Kind.RESTART)

    def events(self, patience: float | None) -> list[Event]:
        until = float("inf") if patience is None else time.monotonic() + patience
        pause = SHORTEST_PAUSE
        while True:
            events = [event for message in self._hub.receive() for event in self._read(*message)]
            now = time.monotonic()
            if not self._ready and now > self._restarted + RESTART_PATIENCE:
                raise EngineFailed("no rank of the MPI job answers")
            if events or now >= until:
                return events
            if select.select([self._waker.file], [], [], min(pause, until - now))[0]:
                self._waker.clear()
                return []
            pause = min(2 * pause, LONGEST_PAUSE)

    def _read(self, rank: int, kind: Kind, body: bytes) -> Iterator[Event]:
        name = f"rank-{rank}"
        if kind is Kind.READY:
            self._ready.add(rank)
            yield Joined(name, self._threads, ahead=self._threads)
        elif kind is Kind.RESULT and rank in self._ready:
            try:
                message = message_of(body)
                if message.result is None:
                    raise InvalidResult("a message without a result")
            except InvalidResult as error:
                log.warning("refused a message from %s and restarted it: %s", name, error)
                self._restart(rank)
                yield Left(name)
            else:
                yield Received(name, message.delivery, message.place, message.result, message.worker)

    def close(self, patience: float) -> None:
        if not self._hub.dismiss():
            atexit.register(_abort)
        self._waker.close()


def _rank(name: str) -> int:
    return int(name.removeprefix("rank-"))


def _abort() -> None:
    """End the ranks that do not leave, and this one, which MPI would have wait for them."""
    sys.stdout.flush()
    MPI.COMM_WORLD.Abort(1)
