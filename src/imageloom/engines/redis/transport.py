"""Redis Streams as a transport: tasks are entries of streams, and consumers of a group take them.

The server chooses the consumer. So the scheduler has one worker, the streams, with room for a few deliveries for
each consumer. A consumer says when it begins a delivery. If it dies, or does not renew its lease, its delivery in
progress is charged; a delivery that it has not begun, or that the server has lost, is given back without a charge.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from redis.exceptions import RedisError

from imageloom.engines import Settings
from imageloom.engines.redis import dead_letters, group
from imageloom.engines.redis import wire as redis_wire
from imageloom.engines.redis.results import Fields, ResultsReader
from imageloom.engines.redis.server import Server
from imageloom.engines.redis.wire import (
    BEGUN,
    FIELD,
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    PATIENCE,
    RUN_EXPIRY,
    STREAM_EXPIRY,
    STREAMS,
    VERSION,
    DeadLetter,
    Delivery,
    Role,
    log,
    results_key,
    run_key,
)
from imageloom.engines.workers import work
from imageloom.errors import InvalidResult, StorageError
from imageloom.model import Failure, Task
from imageloom.records.events import Event as RunEvent
from imageloom.records.events import Failed
from imageloom.scheduling.backoff import Backoff
from imageloom.scheduling.engine import GRACE
from imageloom.scheduling.fleet import Fleet
from imageloom.scheduling.inbox import message_of
from imageloom.scheduling.protocol import (
    Begun,
    Broken,
    Drop,
    End,
    Event,
    Finished,
    Joined,
    Left,
    Received,
    Returned,
    Send,
)
from imageloom.scheduling.results import shown
from imageloom.scheduling.transport import Waker
from imageloom.worker import parts
from imageloom.worker.fork_server import warm_up
from imageloom.worker.message import Message
from imageloom.worker.settings import WorkerSettings

WORKER = "redis"
"""The scheduler's name of all consumers together."""
WINDOW = 4
"""Deliveries in the streams for each consumer."""
MOST_CAPACITY = 4096
"""Consumers that count, whoever else calls itself one."""
_PRELOAD = ("imageloom.engines.redis.worker", "redis")  # by the fork server


@dataclass(eq=False)
class _Sent:
    """A delivery that is in a stream, or waits for the server to be put there."""

    task: Task
    role: Role
    entry: bytes = b""
    """Its id in the stream; empty before it is there."""
    consumer: str = ""
    """The one that has begun it."""
    done: int = 0
    """Results that have come."""
    is_overdue: bool = False
    """Its lease was over at the last inspection."""
    is_dropped: bool = False
    """Others do what its consumer has not begun."""


class RedisTransport:
    """The transport.

    Raises:
        UsageError: the address is not one of a Redis server.
        StorageError: the server cannot be reached, refuses the user, or is too old.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = redis_wire.LEASE
        if settings.jobs:
            warm_up(*_PRELOAD)
        self.server = None if settings.connect else Server()
        self._url = settings.connect or (self.server.url if self.server else "")
        self.run = os.urandom(8).hex()
        self.fleet: Fleet | None = None
        self.gather = 0.0
        """Seconds for which results may gather before they are read."""
        self._host = f"{socket.gethostname()}/"
        self._consumers = 0
        self._sent: dict[int, _Sent] = {}
        self._waiting: deque[int] = deque()
        """Deliveries that are to be put into a stream."""
        self._removed: list[group.EntryId] = []
        """Entries that are to be removed from their streams."""
        self._events: list[Event] = []
        self._deaths: deque[tuple[int, str]] = deque()
        self._ended: set[int] = set()
        """Processes that were ended because of one item: their other items are not charged."""
        self._letters: deque[DeadLetter] = deque()
        self._job = ("", "")
        """Source and sink of the latest task."""
        self._next_read = self._next_inspection = 0.0
        self._backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        self._stops_at: float | None = None
        """When it is too late to wait for a server that does not answer; None before `stop`."""
        self._is_taken_back = self._has_left = False
        self._client = redis_wire.connect(self._url)
        self._reader = ResultsReader(self._client, results_key(self.run))
        try:
            self._log_in()
        except BaseException:
            self._client.close()
            if self.server:
                self.server.close()
            raise
        self._waker = Waker()
        self.wake = self._waker.wake

    def _log_in(self) -> None:
        redis_wire.check_server(self._client, self._url)
        try:
            self._renew()
            group.snapshots(self._client)  # whether that is permitted
        except RedisError as error:
            raise redis_wire.refusal(error, self._url) from None

    @property
    def capacity(self) -> int:
        own = self._settings.jobs * self._settings.threads
        return max(1, own, min(self._consumers, MOST_CAPACITY))

    @property
    def missing(self) -> str:
        if self._consumers or self._settings.jobs:
            return ""
        return (
            f"no worker takes tasks from {redis_wire.shown(self._url)}: start some by "
            "`imageloom worker --engine redis --root FOLDER`, or give --jobs"
        )

    def lag(self) -> dict[str, int]:
        """Deliveries in each stream that no worker has taken; empty while the server is away."""
        return group.lags(self._client)

    def note_failed(self, event: RunEvent) -> None:
        """Write a dead letter for an item that failed for good, unless it was refused before any attempt."""
        if not isinstance(event, Failed) or event.worker == "driver":
            return
        failure, (source, sink) = event.result.failure, self._job
        if failure and source:
            self._letters.append(
                DeadLetter(
                    event.result.key, source, sink, failure.kind, failure.message, event.attempt, time.time()
                )
            )
            self.wake()

    def stop(self) -> None:
        """Begin to close: what no worker has begun is taken back. From any thread."""
        if self._stops_at is None:
            self._stops_at = time.monotonic() + GRACE
            self.wake()

    # Commands

    def open(self, failed: Callable[[str], None]) -> None:
        """Start the local workers."""
        self._join()
        own = self._settings
        if own.jobs:
            self.fleet = Fleet(
                work,
                ("redis", WorkerSettings(self._url, own.threads, own.memory, own.guard)),
                own.jobs,
                self._note_death,
                preload=_PRELOAD,
                failed=failed,
            )

    def _note_death(self, pid: int, cause: str) -> None:
        """A local worker has died: called by the fleet's thread."""
        self._deaths.append((pid, cause))
        self.wake()

    def _join(self) -> None:
        if self._stops_at is None:
            self._events.append(Joined(WORKER, WINDOW * self.capacity, reports_begin=True))

    def start(self) -> None:
        raise NotImplementedError("the fleet starts workers")

    def send(self, command: Send) -> None:
        task = command.task
        self._job = task.source, task.sink
        if self._stops_at is None:
            self._sent[task.id] = _Sent(task, "assembler" if parts.is_encoding(task) else "worker")
            self._waiting.append(task.id)

    def drop(self, command: Drop) -> None:
        if sent := self._sent.get(command.delivery):
            sent.is_dropped = True

    def end(self, command: End) -> None:
        """A worker elsewhere ends itself; its entry is removed here."""
        if sent := self._remove(command.delivery):
            log.debug("worker %s is ended: %s", shown(sent.consumer), command.failure.message)
            self._end_process(sent.consumer)

    def _end_process(self, consumer: str) -> None:
        if self.fleet and (pid := group.pid_of(consumer, self._host)) in self.fleet.pids:
            self._ended.add(pid)
            self.fleet.kill(pid)

    def _remove(self, delivery: int) -> _Sent | None:
        """Forget a delivery, and have its entry removed with the next request."""
        sent = self._sent.pop(delivery, None)
        if sent and sent.entry:
            self._removed.append((sent.role, sent.entry))
        return sent

    # Events

    def events(self, patience: float | None) -> list[Event]:
        wait = PATIENCE if patience is None else patience
        pause = self._backoff.until - time.monotonic()
        if pause > 0.0:
            self._wait(min(wait, pause), False)
        else:
            try:
                self._exchange(wait)
                self._backoff.succeed()
            except RedisError as error:
                self._recover(error)
        events, self._events = self._events, []
        return events

    def _exchange(self, patience: float) -> None:
        """Put deliveries in, read what workers have said, look after leases."""
        self._put()
        now = time.monotonic()
        is_reading = now >= self._next_read
        if is_reading:
            self._reader.ask()
        else:
            patience = min(patience, self._next_read - now)
        if self._wait(0.0 if self._events else min(patience, self._next_inspection - now), is_reading):
            entries = self._reader.take()
            self._take_in(entries)
            if entries:
                self._next_read = time.monotonic() + self.gather
        if self._deaths or time.monotonic() >= self._next_inspection:
            self._inspect()
        if self._stops_at is not None:
            self._take_back()
        self._write_letters()

    def _wait(self, seconds: float, is_reading: bool) -> bool:
        """Wait for results or `wake`; whether there are results."""
        if is_reading and self._reader.has_answer:
            return True
        poll = select.poll()
        poll.register(self._waker.file, select.POLLIN)
        if is_reading:
            poll.register(self._reader.fileno(), select.POLLIN)
        ready = [file for file, _ in poll.poll(max(0.0, 1000 * seconds))]
        if self._waker.file in ready:
            self._waker.clear()
            ready.remove(self._waker.file)
        return bool(ready)

    def _put(self) -> None:
        """Put deliveries into the streams, and remove those that are over."""
        waiting = [number for number in self._waiting if number in self._sent]
        if not waiting and not self._removed:
            return
        group.remove(self._client, self._removed)
        self._removed.clear()
        with self._client.pipeline(transaction=False) as pipe:
            for number in waiting:
                sent = self._sent[number]
                delivery = Delivery(VERSION, self.run, self._lease, self._settings.timeout, sent.task)
                pipe.xadd(STREAMS[sent.role], {FIELD: msgspec.msgpack.encode(delivery)})
            replies = pipe.execute(raise_on_error=False)
        self._waiting.clear()
        errors = []
        for number, reply in zip(waiting, replies, strict=True):
            if isinstance(reply, Exception):
                errors.append(reply)
                self._waiting.append(number)
            else:
                self._sent[number].entry = reply
        if errors:
            raise errors[0]

    def _recover(self, error: RedisError) -> None:
        """After an error: start our own server again, or wait for the given one."""
        level = log.warning if self._backoff.failures in (0, 5) else log.debug
        level("the server at %s: %s; trying again", redis_wire.shown(self._url), error)
        self._reader.reset()
        self._next_inspection = 0.0
        self._backoff.fail(time.monotonic())
        if self._stops_at is not None and time.monotonic() > self._stops_at:
            self._leave()
        try:
            if self.server and self.server.revive():
                self._backoff.succeed()
        except StorageError as again:
            log.error("%s", again)

    # Results

    def _take_in(self, entries: list[Fields | None]) -> None:
        """Take in what workers have said. What is late, repeated or from a stranger does nothing."""
        for fields in entries:
            if fields is None:
                self._inspect_soon()
            for field, use in ((BEGUN, self._note_begun), (FIELD, self._receive)):
                if data := (fields or {}).get(field.encode()):
                    try:
                        use(message_of(data))
                    except InvalidResult as error:
                        log.warning("dropped an entry of the results: it is no result, but %s", error)
                        self._inspect_soon()

    def _note_begun(self, message: Message) -> None:
        if sent := self._sent.get(message.delivery):
            sent.consumer = message.worker
            self._events.append(Begun(WORKER, message.delivery))
        if self.fleet and (pid := group.pid_of(message.worker, self._host)) in self.fleet.pids:
            self.fleet.is_well(pid)

    def _receive(self, message: Message) -> None:
        number, sent = message.delivery, self._sent.get(message.delivery)
        if sent is None or (message.result is not None and message.place != sent.done):
            self._inspect_soon()
        elif message.result is None:
            del self._sent[number]
            self._events.append(Finished(WORKER, number, message.worker))
        else:
            self._events.append(Received(WORKER, number, message.place, message.result, message.worker))
            sent.done += 1
            if sent.done == len(sent.task.work):
                del self._sent[number]
            elif sent.is_dropped:
                self._remove(number)

    def _inspect_soon(self) -> None:
        self._next_inspection = min(self._next_inspection, time.monotonic() + PATIENCE / 5)

    def _write_letters(self) -> None:
        while self._letters:
            dead_letters.write(self._client, self._letters[0])
            self._letters.popleft()

    # Leases

    def _inspect(self) -> None:
        """Find out who has which delivery and what is lost, and renew the keys of this run."""
        self._next_inspection = time.monotonic() + self._lease / 2
        self._renew()
        dead = list(self._deaths)
        deaths = {f"{self._host}{pid}/": cause for pid, cause in dead}
        known = [(number, sent) for number, sent in self._sent.items() if sent.entry]
        found = group.snapshots(self._client)
        self._take_in(self._reader.take_all())  # what was acknowledged before has its results there
        for number, sent in known:
            if number in self._sent:
                self._judge(number, sent, found[sent.role], deaths)
        self._remove_abandoned(found, {(sent.role, sent.entry) for _, sent in known})
        group.remove_consumers(self._client, deaths)
        for pid, _ in dead:
            self._deaths.popleft()
            self._ended.discard(pid)

    def _judge(self, number: int, sent: _Sent, found: group.Snapshot, deaths: dict[str, str]) -> None:
        """Report a delivery as lost with its consumer, or as lost by the server."""
        holder = found.holder(sent.entry)
        if holder is None:
            was_given = group.order(sent.entry) <= found.last
            if was_given or not group.exists(self._client, (sent.role, sent.entry)):
                self._remove(number)
                self._events.append(Returned(WORKER, number))
            return
        consumer, idle = holder
        was_overdue, sent.is_overdue = sent.is_overdue, idle > self._lease
        cause = group.cause(consumer, deaths)
        if cause is None and not (was_overdue and sent.is_overdue):
            return
        self._remove(number)
        if sent.consumer != consumer or group.pid_of(consumer, self._host) in self._ended:
            self._events.append(Returned(WORKER, number))
        else:
            reason = (
                f"its worker died: {cause}"
                if cause
                else f"its worker {shown(consumer)} did not renew its lease of {self._lease:g} s"
            )
            self._events.append(Broken(WORKER, number, Failure("WorkerLost", reason, True)))
        if cause is None and self.fleet:
            self.fleet.kill(group.pid_of(consumer, self._host))

    def _renew(self) -> None:
        """Tell the workers that this run is alive, and count them."""
        alive = round(1000 * max(RUN_EXPIRY, 4 * self._lease))
        group.make_groups(self._client, tuple(STREAMS))
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(run_key(self.run), os.getpid(), px=alive)
            pipe.pexpire(results_key(self.run), alive)
            for stream in STREAMS.values():
                pipe.pexpire(stream, round(1000 * STREAM_EXPIRY))
            pipe.execute()
        recent = max(2 * self._lease, 5 * PATIENCE)
        before = self.capacity
        self._consumers = len({name for _, name, idle in group.consumers(self._client) if idle < recent})
        if self.capacity != before:
            self._join()

    def _remove_abandoned(self, found: dict[Role, group.Snapshot], ours: set[group.EntryId]) -> None:
        """Remove entries that dead workers of dead drivers had: a living driver has removed its own before."""
        limit = max(RUN_EXPIRY, 4 * self._lease)
        self._removed += [
            (role, entry)
            for role, snapshot in found.items()
            for entry, (_, idle) in (snapshot.pending or {}).items()
            if idle > limit and (role, entry) not in ours
        ]

    # The end

    def _take_back(self) -> None:
        """Remove what no worker has, once; leave as soon as the workers have finished the rest."""
        if not self._is_taken_back:
            self._is_taken_back = True
            found = group.snapshots(self._client)
            self._take_in(self._reader.take_all())
            for number, sent in list(self._sent.items()):
                if found[sent.role].holder(sent.entry) is None:
                    self._remove(number)
        if not self._sent:
            self._leave()

    def _leave(self) -> None:
        for number in list(self._sent):
            self._remove(number)
        if not self._has_left:
            self._has_left = True
            self._events.append(Left(WORKER))

    def close(self, patience: float) -> None:
        """Let the local workers finish, and leave nothing of this run on a server that is not ours."""
        self.stop()
        self._leave()
        if self.fleet:
            self.fleet.drain(patience)
            self.fleet.close(0.0)
        try:
            self._write_letters()
            if not self.server:
                self._put()
                self._client.delete(run_key(self.run), results_key(self.run))
                group.remove_idle_streams(self._client)
        except RedisError as error:
            log.warning("at the end the server at %s did not answer: %s", redis_wire.shown(self._url), error)
        self._reader.close()
        self._client.close()
        if self.server:
            self.server.close()
        self._waker.close()
