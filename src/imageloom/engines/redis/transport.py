"""The transport of Redis Streams: tasks are entries of streams, and consumers of a group take them.

The server chooses the consumer. So the scheduler has a single worker, the streams, with a few slots for each
consumer. A consumer reports the begin of each delivery. If it dies, or does not renew its lease, its item in
progress is charged. A delivery that it has not begun, or that the server has lost, is returned without a charge.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable

from redis.exceptions import RedisError

from imageloom.engines import Settings
from imageloom.engines.redis import group
from imageloom.engines.redis import wire as redis_wire
from imageloom.engines.redis.dead_letters import DeadLetters
from imageloom.engines.redis.deliveries import Deliveries, Lost
from imageloom.engines.redis.results import Fields, ResultsReader
from imageloom.engines.redis.server import Server
from imageloom.engines.redis.wire import (
    BEGUN,
    FIELD,
    FIRST_BACKOFF,
    LONGEST_BACKOFF,
    PATIENCE,
    log,
    results_key,
    run_key,
)
from imageloom.engines.workers import work
from imageloom.errors import InvalidResult, StorageError
from imageloom.model import Failure
from imageloom.records.events import Event as RunEvent
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
from imageloom.scheduling.refusals import Refusals, refusal_of
from imageloom.scheduling.results import shown
from imageloom.scheduling.transport import Waker
from imageloom.worker.fork_server import warm_up
from imageloom.worker.message import Message
from imageloom.worker.settings import WorkerSettings

WORKER = "redis"
"""The name of the scheduler's worker, which stands for all consumers."""
WINDOW = 4
"""Number of deliveries in the streams for each consumer."""
MOST_GATHER, GATHERED = 0.02, 8
"""Results may collect for this time in seconds, or for this number of items, before they are read."""
MOST_CAPACITY = 4096
"""Maximum number of consumers that are counted."""
_PRELOAD = ("imageloom.engines.redis.worker", "redis")  # loaded by the fork server


class RedisTransport:
    """The transport.

    Raises:
        UsageError: the address is not that of a Redis server.
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
        self._item_seconds = 0.0
        """Mean time of an item, in seconds."""
        self._host = f"{socket.gethostname()}/"
        self._consumers = 0
        self._events: list[Event] = []
        self._deaths: deque[tuple[int, str]] = deque()
        self._ended: set[int] = set()
        """Ids of processes that were ended because of one item. Their other items are not charged."""
        self._refusals = Refusals()
        self._letters = DeadLetters()
        self._next_read = self._next_inspection = 0.0
        self._backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        self._stops_at: float | None = None
        """End of the wait for a server that does not answer, as monotonic time; None before `stop`."""
        self._is_taken_back = self._has_left = False
        self._client = redis_wire.connect(self._url)
        self._deliveries = Deliveries(self._client, self.run, self._lease, settings.timeout)
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
            group.snapshots(self._client)  # checks the permission
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
            f"waiting for workers: none takes tasks from {redis_wire.shown(self._url)}: start workers with "
            "`imageloom worker --engine redis --root FOLDER`, or give --jobs"
        )

    def lag(self) -> dict[str, int]:
        """Number of deliveries in each stream that no worker has taken; empty while the server is unavailable."""
        return group.lags(self._client)

    def note_failed(self, event: RunEvent) -> None:
        """Add a dead letter for an item that has finally failed. May be called from any thread."""
        self._letters.add(event)
        self.wake()

    def stop(self) -> None:
        """Start to close: deliveries that no worker has begun are removed. May be called from any thread."""
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
                sandboxed=own.sandbox.is_on,
            )

    def _note_death(self, pid: int, cause: str) -> None:
        """Note the death of a local worker. Called in the fleet's thread."""
        self._deaths.append((pid, cause))
        self.wake()

    def _join(self) -> None:
        if self._stops_at is None:
            self._events.append(Joined(WORKER, WINDOW * self.capacity, reports_begin=True))

    def start(self) -> None:
        raise NotImplementedError("the fleet starts workers")

    def send(self, command: Send) -> None:
        if self._stops_at is None:
            self._deliveries.add(command.task)

    def drop(self, command: Drop) -> None:
        if sent := self._deliveries.get(command.delivery):
            sent.is_dropped = True

    def end(self, command: End) -> None:
        """End a local worker. A remote worker ends itself, or detects that its entry was removed."""
        if sent := self._deliveries.remove(command.delivery):
            log.debug("ended worker %s: %s", shown(sent.consumer), command.failure.message)
            pid = group.pid_of(sent.consumer, self._host)
            if self.fleet and pid in self.fleet.pids:
                self._ended.add(pid)
                self.fleet.kill(pid)

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
        """Add deliveries, read the workers' messages, and check leases."""
        self._deliveries.flush()
        now = time.monotonic()
        is_reading = now >= self._next_read
        if is_reading:
            self._reader.ask()
        else:
            patience = min(patience, self._next_read - now)
        if self._wait(0.0 if self._events else min(patience, self._next_inspection - now), is_reading):
            entries = self._reader.take()
            self._handle_entries(entries)
            if entries:
                self._next_read = time.monotonic() + min(MOST_GATHER, GATHERED * self._item_seconds)
        if self._deaths or time.monotonic() >= self._next_inspection:
            self._inspect()
        if self._stops_at is not None:
            self._take_back()
        self._letters.write(self._client)

    def _wait(self, seconds: float, is_reading: bool) -> bool:
        """Wait for results or `wake`. Returns whether there are results."""
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

    def _recover(self, error: RedisError) -> None:
        """After an error: restart the embedded server, or wait for the given one."""
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

    def _handle_entries(self, entries: list[Fields | None]) -> None:
        """Handle the messages of workers. Late, repeated and foreign messages are ignored."""
        for fields in entries:
            if fields is None:
                self._inspect_soon()
            for field, use in ((BEGUN, self._note_begun), (FIELD, self._receive)):
                if data := (fields or {}).get(field.encode()):
                    try:
                        use(message_of(data))
                    except InvalidResult as error:
                        log.warning("deleted an entry of the results that is not a result: %s", error)
                        self._inspect_soon()

    def _note_begun(self, message: Message) -> None:
        if sent := self._deliveries.get(message.delivery):
            sent.consumer = message.worker
            self._events.append(Begun(WORKER, message.delivery))
        if self.fleet and (pid := group.pid_of(message.worker, self._host)) in self.fleet.pids:
            self.fleet.mark_ready(pid)

    def _receive(self, message: Message) -> None:
        number, sent = message.delivery, self._deliveries.get(message.delivery)
        if sent is None or (message.result is not None and message.place != sent.done):
            self._inspect_soon()
        elif message.result is None:
            self._deliveries.finish(number)
            self._events.append(Finished(WORKER, number, message.worker))
        elif self._is_for_others(message):
            self._deliveries.remove(number)
            self._events.append(Returned(WORKER, number))
        else:
            self._events.append(Received(WORKER, number, message.place, message.result, message.worker))
            seconds = min(1.0, max(0.0, message.result.times.total))
            self._item_seconds += 0.1 * (seconds - self._item_seconds)
            sent.done += 1
            if sent.done == len(sent.task.work):
                self._deliveries.finish(number)
            elif sent.is_dropped:
                self._deliveries.remove(number)

    def _is_for_others(self, message: Message) -> bool:
        """Whether a consumer refuses a delivery that others may do."""
        if not (reason := refusal_of(message.result)):
            if message.result is not None:
                self._refusals.clear()
            return False
        self._refusals.note(shown(message.worker), shown(reason))
        is_own = group.pid_of(message.worker, self._host) in (self.fleet.pids if self.fleet else ())
        return not (message.place or is_own or self._refusals.are_final(self._consumers))

    def _inspect_soon(self) -> None:
        self._next_inspection = min(self._next_inspection, time.monotonic() + PATIENCE / 5)

    # Leases

    def _inspect(self) -> None:
        """Find lost deliveries, and renew the keys of this run."""
        self._next_inspection = time.monotonic() + self._lease / 2
        self._renew()
        dead = list(self._deaths)
        deaths = {f"{self._host}{pid}/": cause for pid, cause in dead}
        known = self._deliveries.known()
        found = group.snapshots(self._client)
        for entries in self._reader.take_all():  # the results of acknowledged entries are in the stream
            self._handle_entries(entries)
        for lost in self._deliveries.lost(known, found, deaths):
            self._report(lost)
        self._deliveries.remove_abandoned(found)
        group.remove_consumers(self._client, deaths)
        for pid, _ in dead:
            self._deaths.popleft()
            self._ended.discard(pid)

    def _report(self, lost: Lost) -> None:
        """Report a lost delivery: if it was lost with its consumer, its item in progress is charged."""
        pid = group.pid_of(lost.consumer, self._host)
        if not lost.has_begun or pid in self._ended:
            self._events.append(Returned(WORKER, lost.number))
        else:
            reason = f"its worker {shown(lost.consumer)} did not renew its lease of {self._lease:g} s"
            if lost.cause:
                reason = f"its worker died: {lost.cause}"
            self._events.append(Broken(WORKER, lost.number, Failure("WorkerLost", reason, True)))
        if lost.consumer and not lost.cause and self.fleet:
            self.fleet.kill(pid)

    def _renew(self) -> None:
        group.renew_keys(self._client, self.run, self._lease)
        recent, before = max(2 * self._lease, 5 * PATIENCE), self.capacity
        self._consumers = len({name for _, name, idle in group.consumers(self._client) if idle < recent})
        if self.capacity != before:
            self._join()

    # The end

    def _take_back(self) -> None:
        """Remove the deliveries that no worker has, once. Leave when the workers have finished the others."""
        if not self._is_taken_back:
            self._is_taken_back = True
            found = group.snapshots(self._client)
            for entries in self._reader.take_all():
                self._handle_entries(entries)
            for number in self._deliveries.not_taken(found):
                self._deliveries.remove(number)
        if not self._deliveries:
            self._leave()

    def _leave(self) -> None:
        self._deliveries.remove_all()
        if not self._has_left:
            self._has_left = True
            self._events.append(Left(WORKER))

    def close(self, patience: float) -> None:
        """Let the local workers finish, and remove the data of this run from an external server."""
        self.stop()
        self._leave()
        if self.fleet:
            self.fleet.drain(patience)
            self.fleet.close(0.0)
        try:
            self._letters.write(self._client)
            if not self.server:
                self._deliveries.flush()
                self._client.delete(run_key(self.run), results_key(self.run))
                group.remove_idle_streams(self._client)
        except RedisError as error:
            log.warning(
                "the server at %s did not answer when the engine closed: %s",
                redis_wire.shown(self._url),
                error,
            )
        self._reader.close()
        self._client.close()
        if self.server:
            self.server.close()
        self._waker.close()
