"""What runs inside an MPI job: the first rank gives tasks out, the others do them (mpi4py.futures)."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from concurrent.futures import Executor, Future
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from socket import AF_UNIX, socket
from typing import cast

import msgspec
from mpi4py import MPI
from mpi4py.futures import MPICommExecutor

from imageloom.engines import Settings
from imageloom.engines.executor import ExecutorEngine
from imageloom.engines.mpi.message import Message
from imageloom.errors import UsageError
from imageloom.model import Outcome, Task
from imageloom.worker.process import die_with_parent


class Ranks(ExecutorEngine):
    """The ranks of this MPI job but the first, which opens the engine; in the others it serves, and leaves."""

    def __init__(self, settings: Settings) -> None:
        world = MPI.COMM_WORLD
        workers = world.Get_size() - 1
        if not workers:
            raise UsageError("the first rank only gives tasks out: mpiexec -n 2 or more (--engine mpi)")
        if world.Get_rank() > 0:
            _serve()
        executor = cast("Executor", MPICommExecutor(world).__enter__())
        capacity = workers * settings.threads
        super().__init__(executor, lambda: capacity, threads=settings.threads)


def _serve() -> None:
    """Do what the first rank gives out, and leave with it.

    Raises:
        SystemExit: always, when there is nothing more to do.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the driver's: it finishes what is in hand
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    with MPICommExecutor(MPI.COMM_WORLD):
        pass
    sys.exit(0)


def relay(address: str, threads: int) -> None:
    """As the first rank: do what a supervisor sends through a Unix socket, until it closes it."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = Ranks(Settings(threads=threads))
    line = socket(AF_UNIX)
    line.connect(address)
    pipe = Connection(line.detach())
    sending = threading.Lock()

    def send(message: Message) -> None:
        with sending, contextlib.suppress(OSError):
            pipe.send_bytes(msgspec.msgpack.encode(message))

    def answer(number: int, done: Future[Outcome]) -> None:
        try:
            send(Message(number, msgspec.Raw(msgspec.msgpack.encode(done.result()))))
        except BaseException as error:
            send(Message(number, error=f"{type(error).__name__}: {error}"))

    with closing(engine), contextlib.suppress(EOFError, OSError):
        send(Message(shared=_shared_memory()))
        while True:
            task = msgspec.msgpack.decode(pipe.recv_bytes(), type=Task)
            engine.submit(task).add_done_callback(partial(answer, task.id))


def _shared_memory() -> tuple[str, ...]:
    """The files of MPICH's shared memory that this process has."""
    if sys.platform != "linux":
        return ()
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "/dev/shm/mpich" in line}
    return tuple(sorted(paths))


if __name__ == "__main__":
    relay(sys.argv[1], int(sys.argv[2]))
