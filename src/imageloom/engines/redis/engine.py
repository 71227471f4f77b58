"""Redis Streams: the driver puts deliveries into streams, workers of a consumer group take them.

The server delivers at least once. The board numbers each delivery, takes results of those that are out and of no
others, and fails the items of a lost one. A delivery is lost with its worker: at once where that is a process of
ours, else when its lease is over. Deliveries that the server forgot are put in again.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.redis import group
from imageloom.engines.redis import letters as redis_letters
from imageloom.engines.redis import wire as redis_wire
from imageloom.engines.redis.server import Server
from imageloom.engines.redis.wire import (
    FIELD,
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    PATIENCE,
    RUN_EXPIRY,
    STREAM_EXPIRY,
    STREAMS,
    VERSION,
    Delivery,
    Letter,
    Role,
    log,
    results_key,
    run_key,
)
from imageloom.engines.workers import work
from imageloom.errors import InvalidResult, StorageError
from imageloom.model import Failure, Outcome, Task
from imageloom.records.events import Event, Failed
from imageloom.scheduling.board import Board
from imageloom.scheduling.engine import GRACE
from imageloom.scheduling.fleet import Fleet
from imageloom.scheduling.inbox import message_of, start_thread
from imageloom.scheduling.results import Told
from imageloom.scheduling.scheduler import PATIENCE as SLOW
from imageloom.worker import parts
from imageloom.worker.fork_server import warm_up
from imageloom.worker.settings import WorkerSettings

WINDOW = 4
"""Deliveries in the streams for each worker."""
MOST_READ = 1000
"""Results that are read at once."""
GATHER = 0.02
"""Seconds, at the most, for which results may gather before they are read: as long as eight items take."""
_PRELOAD = ("imageloom.engines.redis.worker", "redis")  # by the fork server


@dataclass(eq=False)
class _Out:
    """A delivery that is in a stream."""

    number: int
    slot: int
    """Its worker on the board: whoever takes it."""
    role: Role
    entry: bytes
    pending_since: float = float("inf")
    """When it was first seen in a worker's hands, by the monotonic clock."""
    is_overdue: bool = False
    """Its lease was over when it was last looked at."""
    is_parted: bool = False
    """What waits behind its current item was given to others."""


class RedisStreams(Engine):
    capabilities = Capabilities(tells=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = redis_wire.LEASE
        if settings.jobs:
            warm_up(*_PRELOAD)
        self._server = None if settings.connect else Server()
        self._url = settings.connect or (self._server.url if self._server else "")
        self._run = os.urandom(8).hex()
        self._board: Board[int] = Board()
        self._slots = itertools.count(1)
        self._outs: dict[int, _Out] = {}
        self._consumers = 0
        self._own = f"{socket.gethostname()}/"
        self._well: set[str] = set()
        self._dead: deque[tuple[int, str]] = deque()
        self._letters: deque[Letter] = deque()
        self._task: Task | None = None
        self._putting = threading.RLock()
        self._is_broken = self._closing = self._over = False
        self._read: list[bytes] = []
        """Results that have been taken in and are still in their stream."""
        self._next_look = 0.0
        self._fleet: Fleet | None = None
        self.listeners = [self._listen]
        self._client = redis_wire.connect(self._url)
        try:
            self._begin()
        except BaseException:
            self._client.close()
            if self._server:
                self._server.close()
            raise
        self._thread = start_thread("redis", self._supervise, self._board.fail)

    @property
    def capacity(self) -> int:
        """Workers of ours, or all that the group has seen lately."""
        return max(1, self._settings.jobs * self._settings.threads, self._consumers)

    def lag(self) -> dict[str, int]:
        """Deliveries that wait in each stream for a worker to take them; nothing while the server is away."""
        return group.lags(self._client)

    def submit(self, task: Task, told: Told | None = None) -> Future[Outcome]:
        self._task = task
        future = self._board.submit(task, told)
        self._put()
        return future

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._board.cancel()
        self._recall()
        if self._fleet:
            until = time.monotonic() + GRACE
            while self._outs and time.monotonic() < until:
                time.sleep(0.005)
            self._fleet.drain(GRACE)
            self._fleet.close(0.0)
        self._over = True
        self._wake()
        self._thread.join()
        self._board.abandon("the engine was closed")
        if not self._server:
            self._tidy()
        self._client.close()
        if self._server:
            self._server.close()

    def _begin(self) -> None:
        """Log in, make the streams, start the workers."""
        from redis.exceptions import RedisError

        redis_wire.check_server(self._client, self._url)
        try:
            self._renew()
            self._judge(group.look(self._client))
        except RedisError as error:
            raise redis_wire.refusal(error, self._url) from None
        if self._settings.jobs:
            own = self._settings
            settings = WorkerSettings(self._url, own.threads, own.memory, own.guard)
            self._fleet = Fleet(
                work,
                ("redis", settings),
                self._settings.jobs,
                died=self._bury,
                preload=_PRELOAD,
                failed=self._board.fail,
            )

    def _bury(self, pid: int, cause: str) -> None:
        """A worker of ours has died: told by the fleet's thread."""
        self._dead.append((pid, cause))
        self._wake()

    def _listen(self, event: Event) -> None:
        """Write a letter for an item that is given up; who was refused in planning has never been here."""
        failure = event.result.failure if isinstance(event, Failed) and event.worker != "driver" else None
        if failure and self._task and isinstance(event, Failed):
            where = self._task.source, self._task.sink
            letter = Letter(
                event.result.key, *where, failure.kind, failure.message, event.attempt, time.time()
            )
            self._letters.append(letter)
            self._wake()

    # The board -> the streams

    def _put(self) -> None:
        """Put in what the window has room for. Where the server is away, the supervisor does so later."""
        from redis.exceptions import RedisError

        with self._putting:
            while not self._is_broken and not self._closing and len(self._outs) < WINDOW * self.capacity:
                slot = next(self._slots)
                task = self._board.take(slot)
                if task is None:
                    return
                role: Role = "assembler" if parts.is_encoding(task) else "worker"
                delivery = Delivery(VERSION, self._run, self._lease, self._settings.timeout, task)
                try:
                    entry: Any = self._client.xadd(STREAMS[role], {FIELD: msgspec.msgpack.encode(delivery)})
                except RedisError as error:
                    self._board.hand_back(slot)
                    self._is_broken = True
                    log.debug("cannot put a task in: %s", error)
                    return
                self._outs[task.id] = _Out(task.id, slot, role, entry)

    def _withdraw(self, outs: list[_Out]) -> None:
        """Have deliveries out of the streams: nobody is to begin or to renew them."""
        for out in outs:
            self._outs.pop(out.number, None)
        group.take_out(self._client, [(out.role, out.entry) for out in outs])

    def _recall(self) -> None:
        """Take back what no worker has begun."""
        from redis.exceptions import RedisError

        with self._putting:
            outs = list(self._outs.values())
            try:
                for out in outs:
                    self._client.xdel(STREAMS[out.role], out.entry)
                found = group.look(self._client)
            except RedisError:  # nobody can say who has what: it is of no use to wait
                found = {role: group.Snapshot() for role in STREAMS}
            for out in outs:
                if not found[out.role].holder(out.entry):
                    self._outs.pop(out.number, None)

    # The supervisor's thread

    def _supervise(self) -> None:
        from redis.exceptions import RedisError

        failures = 0
        while not self._over:
            try:
                self._receive(PATIENCE)
                if self._read and self._outs:
                    time.sleep(min(GATHER, 8 * self._board.mean))
                if self._dead or time.monotonic() >= self._next_look:
                    self._inspect()
                self._send_letters()
                failures = 0
            except (RedisError, StorageError) as error:
                self._mend(error, failures)
                failures += 1
        try:
            self._receive(None)
            self._send_letters()
        except RedisError as error:
            log.warning("at the end the server at %s did not answer: %s", redis_wire.shown(self._url), error)

    def _mend(self, error: Exception, failures: int) -> None:
        """After an error: start our own server again, wait, and go on."""
        self._is_broken = True
        self._next_look = 0.0
        if not self._over:
            level = log.warning if failures in (0, 5) else log.debug
            level("the server at %s: %s; trying again", redis_wire.shown(self._url), error)
        try:
            if self._server and self._server.revive():
                return
        except StorageError as again:
            log.error("%s", again)
        time.sleep(min(FIRST_BACKOFF * 2 ** min(failures, 30), LONGEST_BACKOFF))

    def _receive(self, patience: float | None) -> None:
        """Take in the results that are there, or that come within so many seconds."""
        key = results_key(self._run)
        until = min(patience, max(0.001, self._next_look - time.monotonic())) if patience else None
        with self._client.pipeline(transaction=False) as pipe:
            if self._read:
                pipe.xdel(key, *self._read)
            block = None if until is None else max(1, round(1000 * until))
            pipe.xread({key: "0"}, count=MOST_READ, block=block)
            found: Any = pipe.execute()[-1]
        self._is_broken = False
        self._read = []
        for _, entries in found or []:
            for entry, fields in entries:
                self._read.append(entry)
                if data := fields.get(FIELD.encode()):  # else somebody has rung
                    self._accept(data)
        self._put()

    def _accept(self, data: bytes) -> None:
        """Take in a result; what comes too late, twice, or from nobody of ours does nothing."""
        try:
            message = message_of(data)
        except InvalidResult as error:
            log.warning("dropped an entry of the results: it is no result, but %s", error)
            self._look_soon()
            return
        self._greet(message.worker)
        out = self._outs.get(message.delivery)
        if out and message.result is None:
            self._board.finish(out.slot, out.number, message.worker)
        elif not (out and self._board.accept(out.slot, message)):
            self._look_soon()
        if out and not self._board.holds(out.slot, out.number):
            self._outs.pop(out.number, None)
            if out.is_parted:
                self._withdraw([out])

    def _look_soon(self) -> None:
        self._next_look = min(self._next_look, time.monotonic() + PATIENCE / 5)

    def _greet(self, worker: str) -> None:
        if self._fleet and worker not in self._well and (pid := group.pid_of(worker, self._own)):
            self._well.add(worker)
            self._fleet.is_well(pid)

    def _send_letters(self) -> None:
        while self._letters:
            redis_letters.write(self._client, self._letters[0])
            self._letters.popleft()

    # What became of what is out

    def _inspect(self) -> None:
        """See who has what, put in again what was lost, and say that this run is alive."""
        self._next_look = time.monotonic() + self._lease / 2
        self._renew()
        dead = {f"{self._own}{pid}/": cause for pid, cause in list(self._dead)}
        with self._putting:
            known = list(self._outs.values())
            found = group.look(self._client)
        self._receive(None)  # what was acknowledged before has its results there
        self._judge(found, known, dead)
        self._sweep(found, known)
        for _ in dead:
            self._dead.popleft()
        self._put()

    def _renew(self) -> None:
        alive = round(1000 * max(RUN_EXPIRY, 4 * self._lease))
        group.make_groups(self._client, tuple(STREAMS))
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(run_key(self._run), os.getpid(), px=alive)
            pipe.pexpire(results_key(self._run), alive)
            for stream in STREAMS.values():
                pipe.pexpire(stream, round(1000 * STREAM_EXPIRY))
            pipe.execute()
        recent = max(2 * self._lease, 5 * PATIENCE)
        self._consumers = len({name for _, name, idle in group.consumers(self._client) if idle < recent})

    def _sweep(self, found: dict[Role, group.Snapshot], known: list[_Out]) -> None:
        """Take out what the dead workers of dead drivers had: a living driver has long done so with its own."""
        ours = {(out.role, out.entry) for out in known}
        limit = max(RUN_EXPIRY, 4 * self._lease)
        held = [
            (role, entry, idle) for role in found for entry, (_, idle) in (found[role].pending or {}).items()
        ]
        old = [(role, entry) for role, entry, idle in held if idle > limit and (role, entry) not in ours]
        if old:
            group.take_out(self._client, old)

    def _judge(
        self,
        found: dict[Role, group.Snapshot],
        known: list[_Out] | None = None,
        dead: dict[str, str] | None = None,
    ) -> None:
        """Fail what was in the hands of the dead and the silent, and queue again what nobody has."""
        now = time.monotonic()
        lost: dict[str, list[_Out]] = {}
        vanished: list[_Out] = []
        for out in known or []:
            if out.number not in self._outs:
                continue
            snapshot = found[out.role]
            if holder := snapshot.holder(out.entry):
                consumer, idle = holder
                out.pending_since = min(out.pending_since, now)
                was_overdue, out.is_overdue = out.is_overdue, idle > self._lease
                if group.cause(consumer, dead) or (was_overdue and out.is_overdue):
                    lost.setdefault(consumer, []).append(out)
                else:
                    self._part_if_slow(out, now)
            elif group.order(out.entry) <= snapshot.last or not group.exists(
                self._client, (out.role, out.entry)
            ):
                vanished.append(out)
        for out in vanished:
            self._board.hand_back(out.slot)
        for consumer, outs in lost.items():
            self._lose(consumer, outs, group.cause(consumer, dead))
        self._withdraw([*vanished, *(out for outs in lost.values() for out in outs)])
        group.forget(self._client, dead or {})

    def _part_if_slow(self, out: _Out, now: float) -> None:
        """Let others do what waits behind an item that takes long."""
        since = max(self._board.oldest(out.slot), out.pending_since)
        if not out.is_parted and now - since > max(self._lease, SLOW * self._board.mean):
            self._board.part(out.slot)
            out.is_parted = True

    def _lose(self, consumer: str, outs: list[_Out], cause: str | None) -> None:
        """A worker does what it has one after the other: the first is in hand, the others are not begun."""
        if cause is None:
            reason = f"its worker {consumer} did not renew its lease of {self._lease:g} s"
            if self._fleet:
                self._fleet.kill(group.pid_of(consumer, self._own))
        else:
            reason = f"its worker died: {cause}"
        roles = list(STREAMS)
        first, *others = sorted(outs, key=lambda out: (roles.index(out.role), group.order(out.entry)))
        self._board.lose(first.slot, Failure("WorkerLost", reason, True), consumer)
        for out in others:
            self._board.hand_back(out.slot)

    def _wake(self) -> None:
        """Have the supervisor look."""
        from redis.exceptions import RedisError

        try:
            self._client.xadd(results_key(self._run), {"ring": b""})
        except RedisError as error:  # it looks by itself when the server is there again
            log.debug("cannot wake the supervisor: %s", error)

    def _tidy(self) -> None:
        """Leave nothing of this run on a server that is not ours."""
        from redis.exceptions import RedisError

        try:
            self._withdraw(list(self._outs.values()))
            self._client.delete(run_key(self._run), results_key(self._run))
            group.remove_idle_streams(self._client)
        except RedisError as error:
            log.warning("cannot tidy up on %s: %s", redis_wire.shown(self._url), error)
