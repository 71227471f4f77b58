"""MPI ranks under a supervisor. The driver is not part of the MPI job, so it survives the end of the job.

MPI ends a whole job when one of its ranks dies. The first rank only relays messages. The items in progress of the
rank that died first are charged. The items of the other ranks go to the next job, uncharged. If the program itself
runs under mpiexec, the engine in `ranks` is used.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.connection import wait

import msgspec

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.mpi.job import TICK, MpiJob, find_mpiexec
from imageloom.engines.mpi.wire import Kind, Ready, unpack
from imageloom.errors import EngineFailed, InvalidResult, MissingExtra
from imageloom.model import UNREADABLE, Failure
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.inbox import log, message_of
from imageloom.scheduling.protocol import Died, Drop, End, Event, Joined, Left, Received, Send
from imageloom.scheduling.results import shown
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.transport import Waker

RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""The environment variables in which MPICH, Slurm and Open MPI store the number of a rank."""
RELAY_PATIENCE = 0.05
"""Time in seconds for the first rank to relay pending messages after another rank has died."""
DEATH_PATIENCE = 1.0
"""Time in seconds for a process to end after it has closed its socket."""
MOST_FAILED_STARTS = 4
"""Number of jobs in a row that may end before their ranks are ready. Then the engine fails."""


def rank() -> int | None:
    """The rank of this process in its MPI job; None if it is not in an MPI job."""
    found = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), None)
    return None if found is None else int(found)


def silence_all_but_the_first() -> None:
    """Discard the output of all ranks but the first, because all of them run the same command."""
    if rank():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until it exits)


def open_mpi(settings: Settings) -> Engine:
    """The engine: the ranks of this process's MPI job, or of a job that it starts and supervises.

    Raises:
        MissingExtra: mpi4py or mpiexec is missing.
        UsageError: this process is the only rank of its job.
    """
    if find_spec("mpi4py") is None:
        raise MissingExtra("the engine mpi", "mpi")
    if rank() is None:
        return Supervised(settings)
    from imageloom.engines.mpi.ranks import Ranks  # starts MPI

    return Ranks(settings)


class Supervised(TransportEngine, Engine):
    """The engine if this process is not in an MPI job."""

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._capacity = settings.jobs * settings.threads
        rules = Rules(timeout=settings.timeout, jobs=settings.jobs, isolation="engine")
        super().__init__("supervisor", JobTransport(settings), rules)

    @property
    def capacity(self) -> int:
        return self._capacity


class JobTransport:
    """The transport: one MPI job at a time. Its first rank relays messages to the others, which are the
    workers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mpiexec = find_mpiexec()
        self._job: MpiJob | None = None
        self._count = self._failed_starts = 0
        self._ending: list[MpiJob] = []
        self._events: list[Event] = []
        self._waker = Waker()
        self.wake = self._waker.wake

    def open(self, failed: Callable[[str], None]) -> None:
        """Does nothing: the scheduler requests each rank by `Start`."""

    def start(self) -> None:
        """Add a rank. The first call starts the job with all ranks."""
        if self._job is None:
            self._count += 1
            self._job = MpiJob(self._mpiexec, self._settings, self._count)
        job = self._job
        job.ranks.append(job.name(len(job.ranks) + 1))
        self._events.append(self._joined(job, job.ranks[-1]))

    def _joined(self, job: MpiJob, name: str) -> Joined:
        threads = self._settings.threads
        return Joined(name, threads, ahead=threads, is_ready=job.is_ready)

    def send(self, command: Send) -> None:
        if self._job:
            self._job.send(command.worker, Kind.TASK, msgspec.msgpack.encode(command.task))

    def drop(self, command: Drop) -> None:
        if self._job:
            self._job.send(
                command.worker, Kind.DROP, msgspec.msgpack.encode((command.delivery, command.keep))
            )

    def end(self, command: End) -> None:
        """End the job, because a single rank cannot be ended."""
        if self._job and self._job.rank(command.worker):
            log.debug("ended the MPI job of %s: %s", command.worker, command.failure.message)
            self._events.append(self._lose(self._job, command.worker, command.failure))

    def events(self, patience: float | None) -> list[Event]:
        job = self._job
        for one in [*self._ending, *([job] if job else [])]:
            one.poll()
        self._ending = [one for one in self._ending if not one.is_over]
        if self._events:
            patience = 0.0
        elif self._ending or (job and not job.is_ready):  # their ends are not reported by a file descriptor
            patience = TICK if patience is None else min(patience, TICK)
        files = [self._waker.file, *(job.files if job else ())]
        for ready in wait(files, patience):
            if ready == self._waker.file:
                self._waker.clear()
            elif job and ready is job.pipe:
                self._events += self._receive(job)
            elif job and ready is job.listener:
                job.accept()
        if job and job is self._job and job.has_died:
            self._events += self._drain(job)
        events, self._events = self._events, []
        return events

    def _receive(self, job: MpiJob) -> Iterator[Event]:
        """Read the messages of the first rank. Yields `Died` if the job has ended, or if it sent an invalid
        message."""
        assert job.inbox is not None
        name = ""
        try:
            for data in job.inbox.take():
                number, kind, body = unpack(data)
                name = job.ranks[number - 1] if 0 < number <= len(job.ranks) else ""
                if kind is Kind.RESULT and name and job.is_ready:
                    message = message_of(body)
                    if message.result is None:
                        raise InvalidResult("a message without a result")
                    yield Received(name, message.delivery, message.place, message.result, message.worker)
                elif kind is Kind.READY and not job.is_ready:
                    yield from self._make_ready(job, body)
                else:
                    raise InvalidResult(f"an unexpected message: {kind.name} from rank {number}")
        except (EOFError, OSError):
            yield self._lose_to_death(job)
        except InvalidResult as error:
            log.warning(
                "refused a message from %s and ended its MPI job: %s", name or "the first rank", error
            )
            yield self._lose(job, name, Failure("InvalidResult", f"its worker {name} sent {error}", True))

    def _make_ready(self, job: MpiJob, body: bytes) -> Iterator[Event]:
        try:
            ready = msgspec.msgpack.decode(body, type=Ready)
        except UNREADABLE as error:
            raise InvalidResult(f"a message that cannot be read: {shown(str(error))}") from None
        if len(ready.peers) != self._settings.jobs + 1:
            raise InvalidResult(f"a wrong number of ranks: {len(ready.peers)}")
        job.make_ready(ready)
        self._failed_starts = 0
        for name in job.ranks:
            yield self._joined(job, name)

    def _drain(self, job: MpiJob) -> Iterator[Event]:
        """Read what the first rank still relays after a death, so that finished items are not charged."""
        until = time.monotonic() + RELAY_PATIENCE
        while job is self._job and job.pipe and job.pipe.poll(max(0.0, until - time.monotonic())):
            yield from self._receive(job)
        if job is self._job:
            yield self._lose_to_death(job)

    def _lose_to_death(self, job: MpiJob) -> Event:
        """Handle the end of a job after the death of a rank."""
        first = job.deaths.first(DEATH_PATIENCE) if job.deaths else None
        if first == 0:  # the first rank has no tasks
            died = self._lose(job, "", _DEATH)
            return Left(died.others[0], died.others[1:])
        return self._lose(job, job.ranks[first - 1] if first else "", _DEATH)

    def _lose(self, job: MpiJob, guilty: str, failure: Failure) -> Died:
        """Remove a job that has ended, or end it.

        Args:
            guilty: name of the rank that has died or was ended; empty if unknown.
        """
        self._job = None
        self._ending.append(job)
        job.end(by_force=True)
        if not job.is_ready:
            guilty = guilty or job.ranks[0]
            self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            job.wait()
            raise EngineFailed(
                f"{self._failed_starts} MPI jobs in a row ended before they processed an item: {job.last_line}"
            )
        return Died(guilty, failure, tuple(name for name in job.ranks if name != guilty))

    def close(self, patience: float) -> None:
        """Close the pipe of the first rank, so that all ranks exit."""
        until = time.monotonic() + patience
        with contextlib.suppress(EngineFailed):
            # A job that is killed while it starts would leave shared memory.
            while self._job and not self._job.is_ready and time.monotonic() < until:
                self.events(TICK)
        if self._job:
            self._job.end(by_force=not self._job.is_ready)
            self._ending.append(self._job)
        for job in self._ending:
            job.wait()
        self._waker.close()


_DEATH = Failure("WorkerLost", "its MPI rank died, and this ended the MPI job", True)
