"""A worker process of the engine `redis`.

Each thread is a consumer of the group. A delivery belongs to its consumer until its lease ends. One more thread
renews the leases of all consumers. A consumer reports the begin of each delivery. It sends the result of each item
before it begins the next item, without waiting for the server's answer. It acknowledges the entry with the last
result. Messages that were lost with a connection are sent again. The driver ignores duplicates.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from imageloom.engines.redis.group import make_groups, remove_idle_streams
from imageloom.engines.redis.pipelined import Command, PipelinedConnection
from imageloom.engines.redis.wire import (
    BEGUN,
    FIELD,
    FIRST_BACKOFF,
    GROUP,
    LEASE,
    LONGEST_BACKOFF,
    PATIENCE,
    RUN_EXPIRY,
    STREAMS,
    VERSION,
    Delivery,
    Role,
    connect,
    is_fatal,
    log,
    refusal,
    results_key,
    run_key,
    shown,
)
from imageloom.engines.workers import guarded
from imageloom.errors import UsageError
from imageloom.model import UNREADABLE, Failure, Result
from imageloom.scheduling.refusals import refusal_of
from imageloom.system.announcing import Announcer
from imageloom.worker.message import Message
from imageloom.worker.perform import sink_of
from imageloom.worker.sandbox import time_limit
from imageloom.worker.settings import WorkerSettings

if TYPE_CHECKING:
    from redis import Redis
    from redis.exceptions import RedisError

ROLES: dict[str, tuple[Role, ...]] = {
    "worker": ("worker",),
    "assembler": ("assembler",),
    "all": ("worker", "assembler"),
}
Entry = tuple[bytes, dict[bytes, bytes] | None]


_DELIVERIES = msgspec.msgpack.Decoder(Delivery)
"""Created before there are threads: msgspec 0.22 crashes if several threads use a type for the first time
together."""

REFUSAL_PAUSE, LONGEST_REFUSAL_PAUSE = 0.25, 10.0
"""First and longest pause after a refused task, in seconds."""
UNBLOCK_PAUSE = 0.02
"""Seconds between two attempts to unblock consumers that must exit."""


@dataclass(eq=False)
class _Current:
    """The delivery that a consumer is processing."""

    stream: str
    entry: bytes
    delivery: Delivery
    place: int = 0
    """Position of the item in progress."""
    begun: float = float("inf")
    """Time at which the item was begun, in seconds of the monotonic clock."""
    is_lost: bool = False
    """Whether its lease has expired. The driver has sent it to another worker."""

    @property
    def is_late(self) -> bool:
        """Whether the item in progress has exceeded its time-out."""
        task, spent, timeout = self.delivery.task, time.monotonic() - self.begun, self.delivery.timeout
        return spent > timeout and spent > time_limit(task, task.work[self.place], timeout)


def work_for(settings: WorkerSettings, leaving: threading.Event) -> None:
    """Process deliveries until the event is set. Then finish the items in progress and return the others.

    Raises:
        UsageError: the role does not exist.
        StorageError: the server refuses this worker.
    """
    if settings.role not in ROLES:
        raise UsageError(f"there is no role {settings.role!r}; there are: {', '.join(ROLES)}")
    _Worker(settings, leaving).run()


class _Worker:
    """The consumers of a process, and the thread that renews their leases."""

    def __init__(self, settings: WorkerSettings, leaving: threading.Event) -> None:
        self.settings, self.leaving = settings, leaving
        self.roles = ROLES[settings.role]
        self.start_id = os.urandom(2).hex()
        """A random part of the name: a restarted container has the same host name and process ids."""
        self.gate = _Gate()
        self.announcer = Announcer()
        self._client = connect(settings.connect)
        self._alive: dict[str, float] = {}
        self._pause = threading.Event()
        self._renewal = LEASE / 3
        self._consumers = [_Consumer(self, number) for number in range(settings.threads)]

    def run(self) -> None:
        for name, target in (("leases", self._renew_leases), ("leaving", self._unblock_consumers)):
            threading.Thread(target=target, name=name, daemon=True).start()
        others = [threading.Thread(target=one.run, name=one.name) for one in self._consumers[1:]]
        for thread in others:
            thread.start()
        self._consumers[0].run()
        for thread in others:
            thread.join()
        with contextlib.suppress(self.errors):
            remove_idle_streams(self._client)
        for one in self._consumers:
            if one.fatal:
                raise refusal(one.fatal, self.settings.connect)

    @property
    def errors(self) -> type[RedisError]:
        from redis.exceptions import RedisError

        return RedisError

    def is_alive(self, client: Redis, delivery: Delivery) -> bool:
        """Whether the results of a delivery are still needed. The server is asked once per lease."""
        now = time.monotonic()
        if self._alive.get(delivery.run, 0.0) < now:
            if not client.exists(run_key(delivery.run)):
                return False
            self._alive = {delivery.run: now + delivery.lease}
        return True

    def note_lease(self, seconds: float) -> None:
        """Renew leases often enough for a lease of this length, in seconds."""
        if seconds / 3 < self._renewal:
            self._renewal = seconds / 3
            self._pause.set()

    # The thread that renews leases

    def _renew_leases(self) -> None:
        while True:
            self._pause.wait(min(self._renewal, PATIENCE))
            self._pause.clear()
            try:
                self._renew()
            except self.errors:  # it is tried again before the lease expires
                continue
            except Exception:
                log.exception("leases could not be renewed")

    def _renew(self) -> None:
        held = [(one, current) for one in self._consumers if (current := one.current)]
        for one, current in held:
            if current.is_late:
                self._end_process(current, [other for _, other in held if other is not current])
            kept = self._client.xclaim(current.stream, GROUP, one.name, 0, [current.entry], justid=True)
            current.is_lost = not kept

    def _end_process(self, current: _Current, others: list[_Current]) -> None:
        """End this process, because an item has exceeded its time-out. The other deliveries are returned."""
        key = current.delivery.task.work[current.place].item.key
        reason = f"it took more than {current.delivery.timeout:g} s (--timeout)"
        began = time.time() - (time.monotonic() - current.begun)
        failed = Result(key, failure=Failure("ItemTimeout", reason, True), started=began)
        number = current.delivery.task.id
        messages = [Message(number, current.place, f"{os.getpid()}", failed), Message(number)]
        connection = PipelinedConnection(self._client)
        connection.add(commands_of(current, messages, True))
        for other in others:
            connection.add(commands_of(other, [Message(other.delivery.task.id)], True))
        connection.flush(wait=True)
        os._exit(70)  # EX_SOFTWARE

    def _unblock_consumers(self) -> None:
        """Unblock consumers that must exit. It is repeated, because a consumer may just begin to wait."""
        self.leaving.wait()
        while True:
            with contextlib.suppress(self.errors):
                for one in self._consumers:
                    if one.client_id is not None and one.current is None:
                        self._client.client_unblock(one.client_id)
            time.sleep(UNBLOCK_PAUSE)


class _Consumer:
    def __init__(self, worker: _Worker, number: int) -> None:
        self.name = f"{socket.gethostname()}/{os.getpid()}/{number}/{worker.start_id}"
        self.current: _Current | None = None
        self.client_id: int | None = None
        self.fatal: RedisError | None = None
        self._worker = worker
        self._client = connect(worker.settings.connect, reads_tasks=True)
        self._connection = PipelinedConnection(self._client)
        self._is_registered = False
        self._failures = self._refused = 0

    def run(self) -> None:
        while not self._worker.leaving.is_set() and not self.fatal:
            try:
                if not self._is_registered:
                    self._register()
                for stream, entries in self._read(">"):
                    for entry in entries:
                        self._take(stream.decode(), *entry)
                self._failures = 0
            except self._worker.errors as error:
                self._back_off(error)
        with contextlib.suppress(self._worker.errors):
            self._leave()

    def _register(self) -> None:
        """Register as a consumer, and process deliveries that were assigned to it but not received."""
        make_groups(self._client, self._worker.roles)
        for role in self._worker.roles:
            self._client.xgroup_createconsumer(STREAMS[role], GROUP, self.name)
        with contextlib.suppress(self._worker.errors):  # not permitted: the wait then ends by its time-out
            self.client_id = self._client.client_id()
        for stream, entries in self._read("0"):
            for entry in entries:
                self._take(stream.decode(), *entry)
        self._is_registered = True
        self._worker.announcer.say(f"connected to {shown(self._worker.settings.connect)}: waiting for tasks")

    def _read(self, after: str) -> list[tuple[bytes, list[Entry]]]:
        streams: dict[Any, Any] = {STREAMS[role]: after for role in self._worker.roles}
        block = round(1000 * PATIENCE)
        found: Any = self._client.xreadgroup(GROUP, self.name, streams, count=1, block=block)
        if not found:
            self._worker.announcer.repeat()
        return found or []

    def _back_off(self, error: RedisError) -> None:
        """Wait before the next attempt. Stop the worker if a retry cannot help."""
        if is_fatal(error):
            self.fatal = error
            self._worker.leaving.set()
            return
        log.debug("worker %s: %s", self.name, error)
        self._worker.announcer.say(f"{refusal(error, self._worker.settings.connect)}: trying again")
        self._is_registered = False
        self._worker.leaving.wait(min(FIRST_BACKOFF * 2**self._failures, LONGEST_BACKOFF))
        self._failures = min(self._failures + 1, 30)

    def _leave(self) -> None:
        """Remove this consumer from the groups, unless it still has deliveries, which the driver must find."""
        for role in self._worker.roles:
            if not self._client.xpending_range(STREAMS[role], GROUP, "-", "+", 1, self.name):
                self._client.xgroup_delconsumer(STREAMS[role], GROUP, self.name)

    def _take(self, stream: str, entry: bytes, fields: dict[bytes, bytes] | None) -> None:
        """Process an entry. Drop it if it is invalid, or if its run is over."""
        delivery = self._decode(entry, fields)
        if delivery is None or not self._worker.is_alive(self._client, delivery):
            drop(self._client, stream, entry)
            return
        self.current = _Current(stream, entry, delivery)
        self._worker.note_lease(delivery.lease)
        try:
            is_suspect = any(work.attempt > 1 for work in delivery.task.work)
            with self._worker.gate.through(alone=is_suspect):
                self._do(self.current)
        except self._worker.errors:
            raise
        except Exception:  # it would fail each time
            log.exception("worker %s: dropped the entry %s, which failed", self.name, entry.decode())
            drop(self._client, stream, entry)
        finally:
            self.current = None

    def _decode(self, entry: bytes, fields: dict[bytes, bytes] | None) -> Delivery | None:
        try:
            delivery = _DELIVERIES.decode((fields or {})[FIELD.encode()])
        except (KeyError, TypeError, *UNREADABLE):  # TypeError: it was too large and was skipped
            log.warning("worker %s: dropped the entry %s, which is not a delivery", self.name, entry.decode())
            return None
        if delivery.version != VERSION:
            log.warning("worker %s: dropped a delivery of version %d", self.name, delivery.version)
            return None
        return delivery

    def _do(self, current: _Current) -> None:
        task = current.delivery.task
        last = len(task.work) - 1
        begun = msgspec.msgpack.encode(Message(task.id, 0, self.name))
        self._send(current, [("XADD", results_key(current.delivery.run), "*", BEGUN, begun)], False)
        current.begun = time.monotonic()
        for place, result in enumerate(guarded(task, self._worker.settings.guard)):
            messages = [Message(task.id, place, self.name, result)]
            if current.is_lost:
                for written in result.written:
                    sink_of(task).discard(written.staged)
                return
            is_over = place == last or self._worker.leaving.is_set()
            if is_over and place < last:
                messages.append(Message(task.id))
            current.place, current.begun = place + 1, float("inf")
            self._send(current, commands_of(current, messages, is_over), is_over)
            self._pause(result)
            if is_over:
                return
            current.begun = time.monotonic()
        self._send(current, commands_of(current, [], True), True)  # a task without items

    def _pause(self, result: Result) -> None:
        """After a refusal, let other consumers take the task. The pause doubles while this one refuses tasks."""
        if not refusal_of(result):
            self._refused = 0
            return
        self._worker.leaving.wait(min(REFUSAL_PAUSE * 2**self._refused, LONGEST_REFUSAL_PAUSE))
        self._refused = min(self._refused + 1, 30)

    def _send(self, current: _Current, commands: list[Command], is_over: bool) -> None:
        """Send commands. At the end of a delivery, wait for all answers of the server."""
        failures = 0
        self._connection.add(commands)
        while True:
            try:
                self._connection.flush(wait=is_over)
                return
            except self._worker.errors as error:
                self._is_registered = False
                if is_fatal(error) or current.is_lost or (failures > 10 and self._worker.leaving.is_set()):
                    self._connection.clear()
                    raise
                time.sleep(min(FIRST_BACKOFF * 2**failures, LONGEST_BACKOFF))
                failures += 1


def commands_of(current: _Current, messages: list[Message], is_over: bool) -> list[Command]:
    """The commands that add messages to a run's results, and acknowledge a finished delivery."""
    key = results_key(current.delivery.run)
    commands: list[Command] = [("XADD", key, "*", FIELD, msgspec.msgpack.encode(one)) for one in messages]
    if is_over:
        commands += [
            ("PEXPIRE", key, round(1000 * RUN_EXPIRY)),
            ("XACK", current.stream, GROUP, current.entry),
            ("XDEL", current.stream, current.entry),
        ]
    return commands


def drop(client: Redis, stream: str, entry: bytes) -> None:
    """Remove an entry that no worker must process."""
    with client.pipeline(transaction=False) as pipe:
        pipe.xack(stream, GROUP, entry)
        pipe.xdel(stream, entry)
        pipe.execute()


@dataclass
class _Gate:
    """A lock: it admits either one thread that must run alone, or any number of other threads."""

    inside: int = 0
    taken: bool = False
    change: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def through(self, alone: bool) -> Iterator[None]:
        with self.change:
            self.change.wait_for(lambda: not self.taken)
            if alone:
                self.taken = True
                self.change.wait_for(lambda: not self.inside)
            self.inside += 1
        try:
            yield
        finally:
            with self.change:
                self.inside -= 1
                self.taken = self.taken and not alone
                self.change.notify_all()
