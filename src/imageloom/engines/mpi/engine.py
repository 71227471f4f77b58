"""MPI ranks under a supervisor: the driver is no part of their job, and outlives it.

MPI ends a whole job when one of its ranks dies. The first rank only relays messages, and tells which rank was the
first one to die; what that one was processing is charged, what the others had is given to the next job. Under
mpiexec this program itself is the job: `ranks` has the engine for that.
"""

from __future__ import annotations

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
from imageloom.model import Failure
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.inbox import UNREADABLE, log, message_of
from imageloom.scheduling.protocol import Died, Drop, End, Event, Joined, Left, Received, Send
from imageloom.scheduling.results import shown
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.transport import Waker

RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""What MPICH, Slurm and Open MPI tell a rank its number by."""
RELAY_PATIENCE = 0.05
"""Seconds in which the first rank passes on what it has, after another one has died."""
DEATH_PATIENCE = 1.0
"""Seconds in which a process ends that has closed its socket."""
MOST_FAILED_STARTS = 4
"""Jobs in a row that end before their ranks are ready, after which no other one is started."""


def rank() -> int | None:
    """The number of this process in its MPI job; None where it is in none."""
    found = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), None)
    return None if found is None else int(found)


def silence_all_but_the_first() -> None:
    """All ranks run the same command: one of them says what there is to say."""
    if rank():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until it exits)


def open_mpi(settings: Settings) -> Engine:
    """The ranks of the job that this process is in, or of one that is started and watched.

    Raises:
        MissingExtra: there is no mpi4py or no mpiexec.
        UsageError: this process is a job's only rank.
    """
    if find_spec("mpi4py") is None:
        raise MissingExtra("the engine mpi", "mpi")
    if rank() is None:
        return Supervised(settings)
    from imageloom.engines.mpi.ranks import Ranks  # starts MPI

    return Ranks(settings)


class Supervised(TransportEngine, Engine):
    """The engine, where this process is in no MPI job."""

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._capacity = settings.jobs * settings.threads
        rules = Rules(timeout=settings.timeout, jobs=settings.jobs, isolation="engine")
        super().__init__("supervisor", JobTransport(settings), rules)

    @property
    def capacity(self) -> int:
        return self._capacity


class JobTransport:
    """An MPI job at a time, whose first rank relays messages to the others: these are the scheduler's workers."""

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
        """The scheduler asks for each rank."""

    def start(self) -> None:
        """Add a rank: the first one starts the job with all of them."""
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
        """End the job: one rank alone cannot be ended."""
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
        elif self._ending or (job and not job.is_ready):  # their ends wake nobody
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
        """What the first rank sends; the end of the job where it ends, or sends what none of ours would."""
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
        """Take in what the first rank still relays after a death: what was done is not charged."""
        until = time.monotonic() + RELAY_PATIENCE
        while job is self._job and job.pipe and job.pipe.poll(max(0.0, until - time.monotonic())):
            yield from self._receive(job)
        if job is self._job:
            yield self._lose_to_death(job)

    def _lose_to_death(self, job: MpiJob) -> Event:
        """A job has ended because one of its ranks has died."""
        first = job.deaths.first(DEATH_PATIENCE) if job.deaths else None
        if first == 0:  # it does no tasks
            died = self._lose(job, "", _DEATH)
            return Left(died.others[0], died.others[1:])
        return self._lose(job, job.ranks[first - 1] if first else "", _DEATH)

    def _lose(self, job: MpiJob, guilty: str, failure: Failure) -> Died:
        """A job has ended, or is ended.

        Args:
            guilty: name of the rank that has died, or was ended; empty where that is not known.
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
        """The end of its pipe tells the first rank to have the others leave."""
        if self._job:
            self._job.end(by_force=not self._job.is_ready)
            self._ending.append(self._job)
        for job in self._ending:
            job.wait()
        self._waker.close()


_DEATH = Failure("WorkerLost", "its MPI rank died, and this ended the MPI job", True)
