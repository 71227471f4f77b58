"""Supervised worker processes: what kills one takes only its current item along.

A supervisor thread hands tasks to workers and takes their results one by one. A worker that dies, or that is
on one item for too long and is ended, fails that item alone; the rest of its task goes to another worker, and
a new worker takes its place. A worker that seems to hang is replaced before its time is over, so that the
others lose nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import msgspec

from imageloom.engines import Capabilities, Engine, Settings, Told
from imageloom.errors import InvalidResult
from imageloom.model import Failure, Outcome, Task
from imageloom.scheduling.board import Board, Message, message_of
from imageloom.scheduling.inbox import Inbox, log, start_thread
from imageloom.system.machine import is_at_work, process_usage
from imageloom.worker.controller import fixed, for_requests
from imageloom.worker.fork_server import warm_up
from imageloom.worker.process import serve, start

PATIENCE = 8.0
"""Mean times of an item after which a worker seems to hang."""
LEAST_PATIENCE = 0.03
"""Seconds, at the least."""
MOST_SPARES = 32
"""Workers that take the place of those that seem to hang, at the most."""
FIRST_BACKOFF = 0.05
"""Seconds before a worker that died at its start is replaced; twice as long for each further one in a row."""
LONGEST_BACKOFF = 5.0
GRACE = 5.0
"""Seconds that workers have to leave when the engine is closed."""


@dataclass(eq=False)
class _Worker:
    process: ForkServerProcess
    pipe: Connection
    inbox: Inbox = field(init=False)
    is_ready: bool = False
    """It has said so: its imports are done."""
    begun: float = math.inf
    """When the item was begun that takes it longest, by the monotonic clock."""
    late: tuple[float, float] = (0.0, 0.0)
    """When the item was begun that it was last found late with, and the seconds of CPU that it had used then."""
    slow: float = 0.0
    """When the item was begun that it is known to be slow with."""

    def __post_init__(self) -> None:
        self.inbox = Inbox(self.pipe)

    @property
    def is_slow(self) -> bool:
        return self.slow == self.begun


class Processes(Engine):
    capabilities = Capabilities(tells=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        most = settings.jobs * settings.threads
        self._controller = for_requests(settings.in_flight, most) if settings.waits else fixed(most)
        self._context = warm_up()
        self._board: Board[_Worker] = Board()
        self._workers: list[_Worker] = []
        self._stillborn = 0
        """Workers in a row that died before they were ready."""
        self._next_start = self._looked = 0.0
        self._selector = selectors.DefaultSelector()
        self._closing = False
        self._bell, self._button = os.pipe()
        os.set_blocking(self._button, False)
        self._thread = start_thread("supervisor", self._supervise, self._board.fail)

    @property
    def _at_once(self) -> int:
        """Tasks that a worker has in hand together."""
        return -(-self._controller.size // self._settings.jobs)

    @property
    def capacity(self) -> int:
        """Workers that seem to hang count beside those that take their place."""
        return max(self._settings.jobs, len(self._workers)) * self._at_once

    def submit(self, task: Task, told: Told | None = None) -> Future[Outcome]:
        future = self._board.submit(task, told)
        self._ring()
        return future

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._board.cancel()
        self._ring()
        self._thread.join()
        os.close(self._bell)
        os.close(self._button)

    def _ring(self) -> None:
        """Wake the supervisor."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it as well
            os.write(self._button, b".")

    # The supervisor's thread

    def _supervise(self) -> None:
        try:
            self._serve()
        finally:
            self._dismiss(self._workers)
            self._selector.close()

    def _serve(self) -> None:
        self._selector.register(self._bell, selectors.EVENT_READ)
        while not self._closing or not self._board.is_idle:
            self._look()
            self._balance()
            self._assign()
            room, began = self.capacity - self._in_hand(), time.monotonic()
            arrived = self._selector.select(self._until_next())
            self._controller.idle(max(0, room) * (time.monotonic() - began))
            for key, _ in arrived:
                if key.data:
                    self._receive(key.data)
                else:
                    os.read(self._bell, 4096)
            self._end_hung()

    def _until_next(self) -> float | None:
        """Seconds until something is due that no message tells; 0 for what has just become so."""
        now, patience = time.monotonic(), self._patience
        due = [worker.begun + self._settings.timeout for worker in self._workers]
        for worker in self._workers:
            if not worker.is_slow:
                late = worker.begun + patience
                due.append(late if late > self._looked else now + patience)
        if self._missing() > 0 and not self._closing:
            due.append(self._next_start)
        first = min(due, default=math.inf)
        return None if first == math.inf else max(0.0, first - now)

    @property
    def _patience(self) -> float:
        return max(LEAST_PATIENCE, PATIENCE * self._board.mean * self._at_once / self._settings.threads)

    def _look(self) -> None:
        """Find out which workers are slow, and let others do what waits behind an item that takes long."""
        self._looked, patience = time.monotonic(), self._patience
        for worker in self._workers:
            if not worker.is_slow and worker.begun <= self._looked - patience and _hangs(worker, patience):
                worker.slow = worker.begun
                self._board.part(worker)
            elif worker.is_slow and self._at_once > 1:
                self._board.part(worker)  # of what was given to it meanwhile

    def _missing(self) -> int:
        """How many more workers there should be; below zero for a surplus."""
        jobs, slow = self._settings.jobs, sum(worker.is_slow for worker in self._workers)
        # Where some hang others will: more than asked for keep the cores busy until the next ones are found out.
        wanted = jobs + min(slow, jobs) + slow - len(self._workers)
        return min(wanted, jobs + MOST_SPARES - len(self._workers))

    def _balance(self) -> None:
        """Start workers that are missing, let those go that are too many and idle."""
        while not self._closing and self._missing() > 0 and time.monotonic() >= self._next_start:
            self._start()
        idle = [worker for worker in self._workers if not self._board.in_hand(worker)]
        surplus = min(-self._missing(), len(idle))
        if surplus > 0:
            self._dismiss(idle[:surplus])

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        most = -(-self._controller.most // self._settings.jobs)
        settings = (self._settings.threads, self._settings.memory, most)
        process = start(self._context, serve, theirs, *settings)
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _assign(self) -> None:
        """Give the workers with the least in hand what they have room for."""
        while True:
            worker = min(self._workers, key=self._load, default=None)
            task = self._board.take(worker, self._at_once) if worker else None
            if worker is None or task is None:
                return
            worker.begun = self._board.oldest(worker)
            with contextlib.suppress(OSError):  # it is dead: its pipe says so to the supervisor
                worker.pipe.send_bytes(msgspec.msgpack.encode(task))

    def _in_hand(self) -> int:
        return sum(map(self._board.in_hand, self._workers))

    def _load(self, worker: _Worker) -> tuple[bool, int]:
        """Sorts workers: first those that have room, of these first the idlest."""
        return not self._board.has_room(worker, self._at_once), self._board.in_hand(worker)

    def _receive(self, worker: _Worker) -> None:
        """Take results in, or learn that the worker is dead, or end it: it sends what no worker of ours would."""
        try:
            for data in worker.inbox.take():
                self._take_in(worker, message_of(data))
        except (EOFError, OSError):
            self._bury(worker, None)
        except InvalidResult as error:
            pid = worker.process.pid
            log.warning("refused a message of worker %s, which is ended: %s", pid, error)
            worker.process.kill()
            self._bury(worker, Failure("InvalidResult", f"its worker {pid} sent {error}", True))

    def _take_in(self, worker: _Worker, message: Message) -> None:
        if message.result is None:
            if worker.is_ready:
                raise InvalidResult("no result")
            worker.is_ready = True
            self._stillborn = 0
            return
        is_late = not self._board.accept(worker, message)
        if is_late and (
            self._board.holds(worker, message.delivery) or not self._board.has_issued(message.delivery)
        ):
            raise InvalidResult(f"a result that was not due: {message.place} of {message.delivery}")
        worker.begun = self._board.oldest(worker)
        self._controller.record()

    def _end_hung(self) -> None:
        limit = time.monotonic() - self._settings.timeout
        for worker in [w for w in self._workers if w.begun <= limit]:
            worker.process.kill()
            reason = f"it took more than {self._settings.timeout:g} s (--timeout)"
            self._bury(worker, Failure("ItemTimeout", reason, True))

    def _bury(self, worker: _Worker, failure: Failure | None) -> None:
        """Fail the current items of a dead worker; the rest of what it had is first in the queue again."""
        self._let_go(worker)
        worker.process.join()
        lost = Failure("WorkerLost", f"its worker died: {cause_of(worker.process.exitcode)}", True)
        self._board.lose(worker, failure or lost, f"{worker.process.pid}")
        if not worker.is_ready:
            self._stillborn += 1
            pause = FIRST_BACKOFF * 2 ** (self._stillborn - 1)
            self._next_start = time.monotonic() + min(pause, LONGEST_BACKOFF)

    def _dismiss(self, workers: list[_Worker]) -> None:
        """Let idle workers go: the end of its pipe tells a worker to leave."""
        leaving = list(workers)
        for worker in leaving:
            self._let_go(worker)
        until = time.monotonic() + GRACE
        for worker in leaving:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _let_go(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.pipe)
        worker.pipe.close()


def _hangs(worker: _Worker, patience: float) -> bool:
    """Whether nobody keeps a late worker from a core or a disk: then more workers would only make that worse."""
    pid = worker.process.pid or 0
    if not is_at_work(pid):
        return True
    used = process_usage(pid)[0]
    if worker.late[0] != worker.begun:
        worker.late = (worker.begun, used)
    return used - worker.late[1] >= patience


def cause_of(exitcode: int | None) -> str:
    """What ended a process, in words."""
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"it left with exit code {exitcode}"
