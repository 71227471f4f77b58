"""A rank that processes tasks: the main thread handles messages, other threads run tasks."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn

import msgspec
from mpi4py import MPI

from imageloom.engines.mpi.hub import receive
from imageloom.engines.mpi.wire import Kind, this_process
from imageloom.model import Task
from imageloom.system.exits import die_with_parent
from imageloom.worker.message import Message
from imageloom.worker.perform import results, worker_name

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0001, 0.002
"""Shortest and longest pause between two checks for messages in seconds, while no task waits here."""
BUSY_PAUSE = 0.02
"""Seconds between two checks while a task waits here."""

_TASK = msgspec.msgpack.Decoder(Task)


def serve(threads: int) -> NoReturn:
    """Run the tasks that the first rank sends, until it asks this rank to exit.

    Args:
        threads: number of tasks that run at the same time.

    Raises:
        SystemExit: always.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the driver handles them: it finishes what is in progress
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    importlib.import_module("simplejpeg")  # so that its import is not measured as part of the first item
    sending = threading.Lock()

    def send(kind: Kind, body: bytes = b"") -> None:
        with sending:
            MPI.COMM_WORLD.Send([body, MPI.BYTE], 0, kind)

    def next_message() -> tuple[int, Kind, bytes] | None:
        with sending:
            return receive()

    ready = msgspec.msgpack.encode(this_process())
    work, pause = WorkThreads(threads, send), SHORTEST_PAUSE
    send(Kind.READY, ready)
    while True:
        message = next_message()
        if message is None:
            time.sleep(BUSY_PAUSE if work.has_waiting else pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            continue
        pause = SHORTEST_PAUSE
        _, kind, body = message
        if kind is Kind.TASK:
            work.add(_TASK.decode(body))
        elif kind is Kind.DROP:
            work.drop(*msgspec.msgpack.decode(body, type=tuple[int, int]))
        elif kind is Kind.RESTART:
            work.abandon()
            work = WorkThreads(threads, send)
            send(Kind.READY, ready)
        elif kind is Kind.LEAVE:
            work.abandon()
            send(Kind.LEFT)
            sys.exit(0)


class WorkThreads:
    """Threads that run tasks in the order of their arrival.

    Args:
        count: number of threads.
        send: sends a message to the first rank.
    """

    def __init__(self, count: int, send: Callable[[Kind, bytes], None]) -> None:
        self._send = send
        self._waiting: SimpleQueue[Task | None] = SimpleQueue()
        self._kept: dict[int, int] = {}
        self._is_abandoned = False
        self._count = count
        for number in range(1, count + 1):
            threading.Thread(target=self._run, name=f"thread-{number}", daemon=True).start()

    @property
    def has_waiting(self) -> bool:
        return not self._waiting.empty()

    def add(self, task: Task) -> None:
        self._waiting.put(task)

    def drop(self, number: int, keep: int) -> None:
        """Process only the first `keep` items of a task."""
        self._kept[number] = keep

    def abandon(self) -> None:
        """Send no further result. A hung thread is not stopped: it ends with the process."""
        self._is_abandoned = True
        for _ in range(self._count):
            self._waiting.put(None)

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            if self._kept.get(task.id, 1):
                self._do(task)
            self._kept.pop(task.id, None)
            if self._is_abandoned:
                return

    def _do(self, task: Task) -> None:
        for place, result in enumerate(results(task)):
            if self._is_abandoned:
                return
            message = Message(task.id, place, worker_name(), result)
            self._send(Kind.RESULT, msgspec.msgpack.encode(message))
            if place + 1 >= self._kept.get(task.id, len(task.work)):
                return
