"""An MPI job on the supervisor's side: the process of mpiexec, and a socket to the first rank."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from socket import AF_UNIX, gethostname, socket

from imageloom.engines import Settings
from imageloom.engines.mpi.wire import Kind, Peer, Ready, pack
from imageloom.errors import MissingExtra
from imageloom.scheduling.inbox import Inbox
from imageloom.system.sockets import path_checked

GRACE = 10.0
"""Time in seconds for a job to end. Then it is killed."""
TICK = 0.2
"""Seconds between two checks for an end that is not reported."""
_SHARED = re.compile(r"/dev/shm/mpich[\w.-]*", re.ASCII).fullmatch
"""Matches a file of MPICH's shared memory. No other file is removed."""


def find_mpiexec() -> str:
    """Path of the mpiexec beside this Python, or of the first one on the PATH."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if found is None:
        raise MissingExtra("the engine mpi", "mpi")
    return found


class Deaths:
    """Finds the process of a job that ended first. This works only if all processes run on this machine.

    The kernel reports the ends of processes through an epoll object, in their order, even if it is read late.
    """

    def __init__(self, peers: tuple[Peer, ...]) -> None:
        self._poll = select.epoll()
        self._files: dict[int, int] = {}
        self._first: int | None = None
        if all(peer.host == gethostname() for peer in peers):
            for rank, peer in enumerate(peers):
                with contextlib.suppress(ProcessLookupError):
                    file = os.pidfd_open(peer.pid)
                    self._files[file] = rank
                    self._poll.register(file, select.EPOLLIN)

    def fileno(self) -> int:
        """A file descriptor that is readable once a process has ended."""
        return self._poll.fileno()

    def first(self, patience: float = 0.0) -> int | None:
        """The rank of the first process that has ended; None if none has ended, or if it is unknown.

        Args:
            patience: time-out in seconds.
        """
        if self._first is None and (found := self._poll.poll(patience, 1)):
            self._first = self._files[found[0][0]]
        return self._first

    def close(self) -> None:
        self._poll.close()
        for file in self._files:
            os.close(file)


class MpiJob:
    """One mpiexec with its ranks.

    Args:
        mpiexec: path of the program.
        number: number of the job, from 1.
    """

    def __init__(self, mpiexec: str, settings: Settings, number: int) -> None:
        self.number = number
        self.ranks: list[str] = []
        """Names of the ranks that the scheduler has requested, in their order, from rank 1."""
        self.is_ready = False
        self.pipe: Connection | None = None
        self.inbox: Inbox | None = None
        self._waiting: list[bytes] = []
        """Messages to send as soon as all ranks are ready."""
        self.shared: tuple[str, ...] = ()
        """Paths of the files to remove if the job is killed, as reported by its first rank."""
        self.deaths: Deaths | None = None
        self.last_line = "it wrote no output"
        """Last line of its standard error, once it is over."""
        self._folder = tempfile.mkdtemp(prefix="imageloom-mpi-")
        address = os.path.join(self._folder, "socket")
        self.listener = socket(AF_UNIX)
        try:
            with path_checked():
                self.listener.bind(address)
        except BaseException:
            self.listener.close()
            os.rmdir(self._folder)
            raise
        self.listener.listen(1)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (until the job's end)
        program = (sys.executable, "-m", "imageloom.engines.mpi.relay")
        self._process = subprocess.Popen(
            [mpiexec, "-n", str(settings.jobs + 1), *program, address, str(settings.threads)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # the driver handles Ctrl-C
        )
        self._forces = deque([self._process.terminate, self._process.kill])
        self._until = 0.0
        self.is_over = False

    def name(self, rank: int) -> str:
        """The scheduler's name of a rank."""
        return f"job-{self.number}/rank-{rank}"

    def rank(self, name: str) -> int:
        """The number of the rank with this name; 0 if it is not in this job."""
        return self.ranks.index(name) + 1 if name in self.ranks else 0

    @property
    def files(self) -> list[Connection | socket | Deaths]:
        """The files that are readable when there is an event."""
        if self.pipe is None:
            return [self.listener]
        return [self.pipe, self.deaths] if self.deaths else [self.pipe]

    @property
    def has_died(self) -> bool:
        """Whether a rank has ended, or the whole job before its first rank has connected."""
        if self.deaths:
            return self.deaths.first() is not None
        return self.is_over and self.pipe is None

    def accept(self) -> None:
        """Accept the connection of the first rank."""
        self.pipe = Connection(self.listener.accept()[0].detach())
        self.inbox = Inbox(self.pipe)
        shutil.rmtree(
            self._folder, ignore_errors=True
        )  # removed at once, so that nothing is left if this process is killed

    def send(self, name: str, kind: Kind, body: bytes) -> None:
        """Send a message to a rank, if it is in this job."""
        if rank := self.rank(name):
            data = pack(rank, kind, body)
            if self.is_ready:
                self._write(data)
            else:
                self._waiting.append(data)

    def _write(self, data: bytes) -> None:
        assert self.pipe is not None, "it has connected"
        with contextlib.suppress(OSError):  # if the job is dead, reading its pipe reports it
            self.pipe.send_bytes(data)

    def make_ready(self, ready: Ready) -> None:
        """Note that all ranks are ready, and send the waiting messages."""
        self.is_ready, self.shared = True, ready.shared
        self._remove_shared()  # all ranks have mapped them: nothing is left if this process is killed
        if hasattr(os, "pidfd_open"):
            self.deaths = Deaths(ready.peers)
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._write(data)

    def end(self, by_force: bool) -> None:
        """Ask all ranks to exit, or kill them. Call `poll` until the job is over, or `wait`."""
        if self.deaths:
            self.deaths.close()
        if self.pipe:
            self.pipe.close()
        self.listener.close()
        self._until = time.monotonic() + GRACE
        if by_force:
            self._force()

    def poll(self, patience: float = 0.0) -> None:
        """Check whether the job is over, and clean up. A job that takes too long to end is killed.

        Args:
            patience: time-out of a wait for its end, in seconds.
        """
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            if self._until and self._forces and time.monotonic() > self._until:
                self._until += GRACE
                self._force()
        else:
            self._clear_up()

    def _force(self) -> None:
        """End the job by the next stronger signal; ranks that have not reported their files leave none either."""
        self.shared = tuple({*self.shared, *_mapped_in_session(self._process.pid)})
        self._forces.popleft()()

    def wait(self) -> None:
        """Wait for the end of a job after `end`."""
        while not self.is_over:
            self.poll(TICK)

    def _remove_shared(self) -> None:
        for path in filter(_SHARED, self.shared):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _clear_up(self) -> None:
        """Remove the files that the job has left."""
        if self.is_over:
            return
        self.is_over = True
        self._remove_shared()
        shutil.rmtree(self._folder, ignore_errors=True)
        with self._errors as errors:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
        self.last_line = next((line for line in reversed(lines) if line.strip()), self.last_line)


def _mapped_in_session(session: int) -> set[str]:
    """The files of MPICH's shared memory that the processes of a session have mapped."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(process.name)) == session:
                lines = (process / "maps").read_text().splitlines()
                found |= {line.split()[-1] for line in lines if "/dev/shm/mpich" in line}
    return found
