"""MPI ranks, and a supervisor for those that die.

Under mpiexec this program is the job: its first rank drives, the others work. MPI ends the whole job when one
rank dies; the same command goes on from the ledger then. Without mpiexec the engine starts it: the driver is
no part of the job, so it outlives it. What the ranks had in hand is lost, the rest waits for the next job.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import AF_UNIX, socket

import msgspec

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.executor import outcome_of
from imageloom.engines.mpi.message import Message
from imageloom.errors import EngineFailed, ImageloomError, InvalidResult, MissingExtra, WorkerLost
from imageloom.model import Failure, Outcome, Result, Task
from imageloom.scheduling.backlog import Backlog, Entry
from imageloom.scheduling.inbox import UNREADABLE, Inbox, fail, log, start_thread
from imageloom.scheduling.results import shown

RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""What MPICH, Slurm and Open MPI tell a rank its number by."""
START_PATIENCE = 60.0
"""Seconds that a job may take until its ranks are there."""
MOST_STILLBORN = 4
"""Jobs in a row that end before they have begun anything, after which there is no further one."""
FIRST_BACKOFF = 0.2
"""Seconds before such a job is followed by another; twice as long for each further one in a row."""
TICK = 0.2
"""Seconds after which it is looked at what tells nothing by itself."""
GRACE = 10.0
"""Seconds that a job has to leave."""


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


def find_mpiexec() -> str:
    """The mpiexec beside this Python, or the first on the PATH."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if found is None:
        raise MissingExtra("the engine mpi", "mpi")
    return found


_MESSAGES = msgspec.msgpack.Decoder(Message)
_SHARED = re.compile(r"/dev/shm/mpich[\w.-]*", re.ASCII).fullmatch
"""A file of MPICH's shared memory: no other is taken away."""


@dataclass
class _Sent:
    """A task that a job has."""

    entry: Entry
    began: float = 0.0
    """By the monotonic clock; 0 while it cannot have begun."""


class _Job:
    """One mpiexec with its ranks, and the line to the first of them."""

    def __init__(self, mpiexec: str, settings: Settings) -> None:
        self.is_ready = False
        self.has_worked = False
        self.deadline = time.monotonic() + START_PATIENCE
        self.pipe: Connection | None = None
        self.inbox: Inbox | None = None
        self.shared: tuple[str, ...] = ()
        self._folder = tempfile.mkdtemp(prefix="imageloom-mpi-")
        line = os.path.join(self._folder, "line")
        self.listener = socket(AF_UNIX)
        self.listener.bind(line)
        self.listener.listen(1)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (until the job's end)
        ranks = (sys.executable, "-m", "imageloom.engines.mpi.ranks")
        self.process = subprocess.Popen(
            [mpiexec, "-n", str(settings.jobs + 1), *ranks, line, str(settings.threads)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is the driver's
        )

    def accept(self) -> None:
        """The first rank calls."""
        self.pipe = Connection(self.listener.accept()[0].detach())
        self.inbox = Inbox(self.pipe)
        shutil.rmtree(self._folder, ignore_errors=True)  # at once: nothing is left if this process is killed

    @property
    def is_dead(self) -> bool:
        late = not self.is_ready and time.monotonic() > self.deadline
        return late or self.process.poll() is not None

    def end(self) -> str:
        """Have all ranks leave, by force where they do not, and take away what they leave; the last complaint."""
        if self.pipe:
            self.pipe.close()
        self.listener.close()
        if not self.is_ready:
            self.process.terminate()
        for force in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(GRACE)
                break
            except subprocess.TimeoutExpired:
                force()
        self.process.wait()
        for path in self.shared:
            with contextlib.suppress(OSError):
                os.unlink(path)
        shutil.rmtree(self._folder, ignore_errors=True)
        with self._errors as errors:
            errors.seek(0)
            complaints = errors.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(complaints) if line.strip()), "it said nothing")


class Supervised(Engine):
    capabilities = Capabilities(ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mpiexec = find_mpiexec()
        self._backlog = Backlog()
        self._sent: dict[int, _Sent] = {}
        """In the order in which the first rank begins them."""
        self._broken: ImageloomError | None = None
        self._closing = threading.Event()
        self._bell, self._button = os.pipe()
        os.set_blocking(self._button, False)
        self._thread = start_thread("supervisor", self._supervise, self._fail)

    @property
    def capacity(self) -> int:
        return self._settings.jobs * self._settings.threads

    def submit(self, task: Task) -> Future[Outcome]:
        entry = Entry(task)
        self._backlog.add(entry)
        if self._broken:
            raise self._broken
        self._ring()
        return entry.future

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        for entry in self._backlog.clear():
            entry.future.cancel()
        self._ring()
        self._thread.join()
        os.close(self._bell)
        os.close(self._button)

    def _ring(self) -> None:
        """Wake the supervisor."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it as well
            os.write(self._button, b".")

    # The supervisor's thread

    @property
    def _is_over(self) -> bool:
        return self._closing.is_set() and not self._sent

    def _supervise(self) -> None:
        """Start a job, and another one when it has died, until the engine is closed."""
        stillborn = 0
        while not self._is_over:
            job = _Job(self._mpiexec, self._settings)
            try:
                self._follow(job)
            finally:
                complaint = job.end()
            stillborn = 0 if job.has_worked else stillborn + 1
            self._bury()
            if stillborn == MOST_STILLBORN and not self._is_over:
                self._give_up(f"{stillborn} MPI jobs in a row ended before they did anything: {complaint}")
                return
            if stillborn:
                self._closing.wait(FIRST_BACKOFF * 2.0 ** (stillborn - 1))

    def _follow(self, job: _Job) -> None:
        """Give a job work until it is dead, is ended for an item that takes too long, or there is no more."""
        while not self._is_over:
            self._hand_over(job)
            try:
                for ready in wait([self._bell, job.pipe or job.listener], TICK):
                    if ready is job.listener:
                        job.accept()
                    elif isinstance(ready, Connection) and job.inbox:
                        for data in job.inbox.take():
                            self._take_in(job, data)
                    else:
                        os.read(self._bell, 4096)
            except (EOFError, OSError):
                return
            except InvalidResult as error:
                log.warning("refused a message of the first rank, whose job is ended: %s", error)
                job.process.terminate()
                return
            if job.is_dead:
                return
            if self._end_hung():
                job.process.terminate()
                return

    def _hand_over(self, job: _Job) -> None:
        """Send what the ranks can do at once, and as much again, so that none waits for the way here and back."""
        if job.pipe and job.is_ready:
            for entry in self._backlog.take(2 * self.capacity - len(self._sent)):
                self._sent[entry.task.id] = _Sent(entry)
                job.has_worked = True
                with contextlib.suppress(OSError):  # it is dead: the end of its pipe says so
                    job.pipe.send_bytes(msgspec.msgpack.encode(entry.task))

    def _begun(self) -> list[_Sent]:
        """What the ranks may have in hand: the first rank gives tasks out in the order in which they came."""
        begun = list(islice(self._sent.values(), self.capacity))
        for sent in begun:
            sent.began = sent.began or time.monotonic()
        return begun

    def _take_in(self, job: _Job, packed: bytes) -> None:
        try:
            message = _MESSAGES.decode(packed)
        except UNREADABLE as error:
            raise InvalidResult(f"a message that cannot be read: {shown(str(error))}") from None
        if not job.is_ready:
            job.is_ready, job.shared = True, tuple(path for path in message.shared if _SHARED(path))
            return
        sent = self._sent.pop(message.task, None)
        if sent is None:
            raise InvalidResult(f"an outcome of task {message.task}, which it does not have")
        self._backlog.answered([sent.entry])
        if message.error:
            sent.entry.future.set_exception(WorkerLost(shown(message.error)))
        else:
            sent.entry.future.set_result(outcome_of(message.outcome, sent.entry.task))

    def _end_hung(self) -> bool:
        """Fail a task that takes too long; the job is to be ended then."""
        now, timeout = time.monotonic(), self._settings.timeout
        for sent in self._begun():
            task = sent.entry.task
            if now - sent.began > timeout * len(task.work):
                del self._sent[task.id]
                self._backlog.answered([sent.entry])
                failure = Failure("ItemTimeout", f"it took more than {timeout:g} s (--timeout)", True)
                results = tuple(Result(work.item.key, failure=failure) for work in task.work)
                sent.entry.future.set_result(Outcome(task.id, "", results))
                return True
        return False

    def _bury(self) -> None:
        """Fail what the ranks of a dead job may have had in hand; the rest is the next job's."""
        begun = [sent.entry for sent in self._begun()]
        waiting = [sent.entry for sent in islice(self._sent.values(), self.capacity, None)]
        self._sent.clear()
        self._backlog.answered(begun)
        self._backlog.put_back(waiting)
        for entry in begun:
            entry.future.set_exception(WorkerLost("a rank of its MPI job died, and the job with it"))

    def _fail(self, reason: str) -> None:
        """The supervisor has failed: nobody will do what waits."""
        self._broken = EngineFailed(reason)
        for entry in (*self._backlog.clear(), *(sent.entry for sent in self._sent.values())):
            fail(entry.future, self._broken)

    def _give_up(self, reason: str) -> None:
        self._broken = WorkerLost(reason)
        for entry in self._backlog.clear():
            fail(entry.future, self._broken)
