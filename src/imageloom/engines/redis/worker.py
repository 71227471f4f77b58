"""A worker process of the engine `redis`.

Each thread is a consumer of the group. It holds a delivery as long as it renews the entry's idle time, which a
thread of its own does for all of them, so that a task may take as long as it likes. An item's result is on its
way to the run's stream before the next item is begun, which does not wait for the server's answer; the entry is
acknowledged after its last one. What is lost with a connection is said again: the driver takes each result once.
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
from imageloom.engines.redis.line import Command, Line
from imageloom.engines.redis.wire import (
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
)
from imageloom.engines.workers import guarded
from imageloom.errors import UnreadableItem, UsageError
from imageloom.model import Failure, Result, Task
from imageloom.scheduling.inbox import UNREADABLE
from imageloom.stores import open_store
from imageloom.stores.names import STAGING
from imageloom.worker.message import Message
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
"""Made before there are threads: msgspec (0.22) crashes where several need a type for the first time together."""

WAKING = 0.02
"""Seconds between two attempts to wake who waits for a delivery and is to leave."""


@dataclass(eq=False)
class _Hand:
    """A delivery that is being done."""

    stream: str
    entry: bytes
    delivery: Delivery
    place: int = 0
    """Of the item that is under way."""
    begun: float = float("inf")
    """When the item was, by the monotonic clock."""
    is_lost: bool = False
    """Its lease is over: the driver gave it to another worker."""


def work_for(settings: WorkerSettings, leaving: threading.Event) -> None:
    """Take deliveries until the event is set; then finish the items in hand and hand back the rest.

    Raises:
        UsageError: there is no such role.
        StorageError: the server refuses this worker.
    """
    if settings.role not in ROLES:
        raise UsageError(f"there is no role {settings.role!r}; there are: {', '.join(ROLES)}")
    _Worker(settings, leaving).run()


class _Worker:
    """The consumers of a process, and the thread that keeps their leases."""

    def __init__(self, settings: WorkerSettings, leaving: threading.Event) -> None:
        self.settings, self.leaving = settings, leaving
        self.roles = ROLES[settings.role]
        self.born = os.urandom(2).hex()
        """Tells it from the one before it: a container that is started again has the same host and processes."""
        self.gate = _Gate()
        self._client = connect(settings.connect)
        self._alive: dict[str, float] = {}
        self._pause = threading.Event()
        self._renewal = LEASE / 3
        self._consumers = [_Consumer(self, number) for number in range(settings.threads)]

    def run(self) -> None:
        for name, target in (("keeper", self._keep), ("leaver", self._see_off)):
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
        """Whether somebody waits for what comes of a delivery; asked of the server once in a lease."""
        now = time.monotonic()
        if self._alive.get(delivery.run, 0.0) < now:
            if not client.exists(run_key(delivery.run)):
                return False
            self._alive = {delivery.run: now + delivery.lease}
        return True

    def keep(self, hand: _Hand) -> None:
        """See to it that the keeper looks after a delivery in time."""
        if hand.delivery.lease / 3 < self._renewal:
            self._renewal = hand.delivery.lease / 3
            self._pause.set()

    # The keeper's thread

    def _keep(self) -> None:
        while True:
            self._pause.wait(min(self._renewal, PATIENCE))
            self._pause.clear()
            try:
                self._renew()
            except self.errors:  # there is another time before the lease is over
                continue
            except Exception:
                log.exception("leases could not be renewed")

    def _renew(self) -> None:
        held = [(one, hand) for one in self._consumers if (hand := one.hand)]
        for one, hand in held:
            if time.monotonic() - hand.begun > hand.delivery.timeout:
                self._give_up(hand)
            kept = self._client.xclaim(hand.stream, GROUP, one.name, 0, [hand.entry], justid=True)
            hand.is_lost = not kept

    def _give_up(self, hand: _Hand) -> None:
        """An item takes too long: nothing but the end of its process ends it."""
        key = hand.delivery.task.work[hand.place].item.key
        reason = f"it took more than {hand.delivery.timeout:g} s (--timeout)"
        began = time.time() - (time.monotonic() - hand.begun)
        failed = Result(key, failure=Failure("ItemTimeout", reason, True), started=began)
        number = hand.delivery.task.id
        line = Line(self._client)
        line.say(words(hand, [Message(number, hand.place, f"{os.getpid()}", failed), Message(number)], True))
        line.flush(wait=True)
        os._exit(70)  # EX_SOFTWARE

    def _see_off(self) -> None:
        """End the waiting of consumers that are to leave: again and again, for one may just begin to wait."""
        self.leaving.wait()
        while True:
            with contextlib.suppress(self.errors):
                for one in self._consumers:
                    if one.client_id is not None and one.hand is None:
                        self._client.client_unblock(one.client_id)
            time.sleep(WAKING)


class _Consumer:
    def __init__(self, worker: _Worker, number: int) -> None:
        self.name = f"{socket.gethostname()}/{os.getpid()}/{number}/{worker.born}"
        self.hand: _Hand | None = None
        self.client_id: int | None = None
        self.fatal: RedisError | None = None
        self._worker = worker
        self._client = connect(worker.settings.connect)
        self._line = Line(self._client)
        self._settled = False
        self._failures = 0

    def run(self) -> None:
        while not self._worker.leaving.is_set() and not self.fatal:
            try:
                if not self._settled:
                    self._settle()
                for stream, entries in self._read(">"):
                    for entry in entries:
                        self._take(stream.decode(), *entry)
                self._failures = 0
            except self._worker.errors as error:
                self._mend(error)
        with contextlib.suppress(self._worker.errors):
            self._leave()

    def _settle(self) -> None:
        """Be known to the server, and do what it gave to this consumer without that it arrived."""
        make_groups(self._client, self._worker.roles)
        for role in self._worker.roles:
            self._client.xgroup_createconsumer(STREAMS[role], GROUP, self.name)
        with contextlib.suppress(self._worker.errors):  # it is not permitted: then waiting ends by itself
            self.client_id = self._client.client_id()
        for stream, entries in self._read("0"):
            for entry in entries:
                self._take(stream.decode(), *entry)
        self._settled = True

    def _read(self, after: str) -> list[tuple[bytes, list[Entry]]]:
        streams: dict[Any, Any] = {STREAMS[role]: after for role in self._worker.roles}
        block = round(1000 * PATIENCE)
        found: Any = self._client.xreadgroup(GROUP, self.name, streams, count=1, block=block)
        return found or []

    def _mend(self, error: RedisError) -> None:
        """Wait a little before the next attempt; give up where none can help."""
        if is_fatal(error):
            self.fatal = error
            self._worker.leaving.set()
            return
        log.debug("worker %s: %s", self.name, error)
        self._settled = False
        self._worker.leaving.wait(min(FIRST_BACKOFF * 2**self._failures, LONGEST_BACKOFF))
        self._failures = min(self._failures + 1, 30)

    def _leave(self) -> None:
        """Be forgotten by the groups, unless the driver still has to see what this consumer had."""
        for role in self._worker.roles:
            if not self._client.xpending_range(STREAMS[role], GROUP, "-", "+", 1, self.name):
                self._client.xgroup_delconsumer(STREAMS[role], GROUP, self.name)

    def _take(self, stream: str, entry: bytes, fields: dict[bytes, bytes] | None) -> None:
        """Do an entry, or drop it: junk, and what nobody waits for."""
        delivery = self._decode(entry, fields)
        if delivery is None or not self._worker.is_alive(self._client, delivery):
            drop(self._client, stream, entry)
            return
        self.hand = _Hand(stream, entry, delivery)
        self._worker.keep(self.hand)
        try:
            is_suspect = any(work.attempt > 1 for work in delivery.task.work)
            with self._worker.gate.through(alone=is_suspect):
                self._do(self.hand)
        except self._worker.errors:
            raise
        except Exception:  # it would fail again and again
            log.exception("worker %s: dropped the entry %s", self.name, entry.decode())
            drop(self._client, stream, entry)
        finally:
            self.hand = None

    def _decode(self, entry: bytes, fields: dict[bytes, bytes] | None) -> Delivery | None:
        try:
            delivery = _DELIVERIES.decode((fields or {})[FIELD.encode()])
        except (KeyError, *UNREADABLE):
            log.warning("worker %s: dropped the entry %s: it is no delivery", self.name, entry.decode())
            return None
        if delivery.version != VERSION:
            log.warning("worker %s: dropped a delivery of version %d", self.name, delivery.version)
            return None
        return delivery

    def _do(self, hand: _Hand) -> None:
        task = hand.delivery.task
        last = len(task.work) - 1
        hand.begun = time.monotonic()
        for place, result in enumerate(self._results(task)):
            messages = [Message(task.id, place, self.name, result)]
            if hand.is_lost:
                for written in result.written:
                    open_store(task.sink).discard(written.staged)
                return
            is_over = place == last or self._worker.leaving.is_set()
            if is_over and place < last:
                messages.append(Message(task.id))
            hand.place, hand.begun = place + 1, float("inf")
            self._insist(hand, messages, is_over)
            if is_over:
                return
            hand.begun = time.monotonic()
        self._insist(hand, [Message(task.id, 0, self.name)], True)  # a task without items

    def _results(self, task: Task) -> Iterator[Result]:
        guard = self._worker.settings.guard
        if guard.permits(task) and (missing := _unreachable(task)):
            reason = (
                f"worker {self.name} cannot reach {missing}: source, sink and scratch must be folders that "
                "all workers share, under the same path"
            )
            failure = Failure.of(UnreadableItem(reason))
            return iter([Result(work.item.key, failure=failure, started=time.time()) for work in task.work])
        return guarded(task, guard)

    def _insist(self, hand: _Hand, messages: list[Message], is_over: bool) -> None:
        """Say something, at the end of a delivery until the server has heard it."""
        failures = 0
        self._line.say(words(hand, messages, is_over))
        while True:
            try:
                self._line.flush(wait=is_over)
                return
            except self._worker.errors as error:
                self._settled = False
                if is_fatal(error) or hand.is_lost or (failures > 10 and self._worker.leaving.is_set()):
                    self._line.forget()
                    raise
                time.sleep(min(FIRST_BACKOFF * 2**failures, LONGEST_BACKOFF))
                failures += 1


def words(hand: _Hand, messages: list[Message], is_over: bool) -> list[Command]:
    """What puts messages into the stream of a run's results, and acknowledges a delivery that is over."""
    key = results_key(hand.delivery.run)
    commands: list[Command] = [("XADD", key, "*", FIELD, msgspec.msgpack.encode(one)) for one in messages]
    if is_over:
        commands += [
            ("PEXPIRE", key, round(1000 * RUN_EXPIRY)),
            ("XACK", hand.stream, GROUP, hand.entry),
            ("XDEL", hand.stream, hand.entry),
        ]
    return commands


def drop(client: Redis, stream: str, entry: bytes) -> None:
    """Have an entry out of the way."""
    with client.pipeline(transaction=False) as pipe:
        pipe.xack(stream, GROUP, entry)
        pipe.xdel(stream, entry)
        pipe.execute()


def _unreachable(task: Task) -> str | None:
    """A path of the task that is not there for this worker."""
    paths = [task.source, os.path.join(task.sink, STAGING)]
    if task.part:
        paths += [raster for raster in (task.part.reads, task.part.writes) if raster]
    return next((path for path in paths if "://" not in path and not os.path.exists(path)), None)


@dataclass
class _Gate:
    """Lets in one that must be alone, or any number of others."""

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
