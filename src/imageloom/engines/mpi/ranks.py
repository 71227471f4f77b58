"""MPI ranks under mpiexec. All ranks run the same command: the first one is the driver, the others run tasks.

When a rank dies, MPI ends the job, including the driver. The same command then resumes from the ledger. An item
that hangs is abandoned, and its rank continues with new threads, because a rank cannot be replaced.
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
"""Shortest and longest pause between two checks for messages, in seconds. It grows while there are none."""
RESTART_PATIENCE = 10.0
"""Time in seconds in which at least one rank must answer, if all of them were asked to restart."""


class Ranks(TransportEngine, Engine):
    """The engine, in the first rank. The other ranks run its tasks and then exit.

    Raises:
        UsageError: there is no other rank.
        SystemExit: in the other ranks, always.
    """

    capabilities = Capabilities(reports_results=True)

    def __init__(self, settings: Settings) -> None:
        world = MPI.COMM_WORLD
        if world.Get_size() == 1:
            raise UsageError(
                "--engine mpi needs at least 2 ranks, because the first one only distributes tasks: "
                "mpiexec -n 2 or more"
            )
        here = world.Split_type(MPI.COMM_TYPE_SHARED)
        self._is_spread = here.Get_size() < world.Get_size()
        here.Free()
        if world.Get_rank() > 0:
            serve(settings.threads)
        self._capacity = (world.Get_size() - 1) * settings.threads
        rules = Rules(timeout=settings.timeout, isolation="engine")
        super().__init__("ranks", RanksTransport(settings.threads), rules)

    @property
    def has_others(self) -> bool:
        """Whether there are ranks on other machines."""
        return self._is_spread

    @property
    def capacity(self) -> int:
        return self._capacity


class RanksTransport:
    """The transport: the other ranks of this process's job are the workers. It uses MPI messages."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._hub = Hub()
        self._ready: set[int] = set()
        self._restarted = float("inf")
        """Time at which a rank was last asked to restart."""
        self._waker = Waker()
        self.wake = self._waker.wake

    def open(self, failed: Callable[[str], None]) -> None:
        """Does nothing: mpiexec has started the ranks."""

    def start(self) -> None:
        raise NotImplementedError("mpiexec starts ranks")

    def send(self, command: Send) -> None:
        self._hub.send(_rank(command.worker), Kind.TASK, msgspec.msgpack.encode(command.task))

    def drop(self, command: Drop) -> None:
        self._hub.send(
            _rank(command.worker), Kind.DROP, msgspec.msgpack.encode((command.delivery, command.keep))
        )

    def end(self, command: End) -> None:
        """Ask a rank to abandon all its tasks. It can be used again after it has confirmed this."""
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
    """Kill the ranks that do not exit, and this one, because MPI would make it wait for them."""
    sys.stdout.flush()
    MPI.COMM_WORLD.Abort(1)
