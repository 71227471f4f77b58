"""Workers that connect over ZeroMQ, from this machine or others. They may join and leave at any time.

The engine's thread is the server. A worker connects to it, has one task for each of its threads, and sends the
result of each item. Both sides send heartbeats. The death of a local worker is detected at once. A remote worker
is lost if it sends nothing for `SILENCE` seconds. Later messages of a lost worker are refused.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec
import zmq

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.workers import work
from imageloom.engines.zeromq.connections import ConnectionLimit
from imageloom.engines.zeromq.peers import Peer
from imageloom.engines.zeromq.wire import (
    HEADER,
    MOST_SUBSCRIBED,
    MOST_TOLD,
    PROTOCOL,
    Beat,
    Delivery,
    Hello,
    ServerKeys,
    Welcome,
    add_clients,
    authenticate,
    body_of,
    check_secured,
    log,
    new_server_keys,
    options,
    read_keys,
    secure_server,
    split,
)
from imageloom.errors import InvalidResult, StorageError, UsageError, WorkerLost
from imageloom.model import Failure, Plain
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.fleet import Fleet
from imageloom.scheduling.inbox import message_of
from imageloom.scheduling.protocol import (
    Died,
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
from imageloom.scheduling.rules import Rules
from imageloom.scheduling.transport import Waker
from imageloom.worker.message import Message
from imageloom.worker.settings import WorkerSettings

HEARTBEAT = 1.0
"""Seconds between two heartbeats."""
SILENCE = 10.0
"""Time-out of heartbeats in seconds. After it, the other side counts as lost."""
MOST_PEERS = 512
"""Maximum number of workers."""
MOST_CAPACITY = 4096
"""Maximum number of slots of one worker, whatever the worker reports."""
TICK = 0.2
"""Seconds between two checks of heartbeats."""
LINGER = 200
"""Time in milliseconds to deliver the last messages to remote workers."""


class Zeromq(TransportEngine, Engine):
    """The engine.

    Raises:
        UsageError: the address needs keys, or no worker could connect.
        StorageError: the ports cannot be opened.
    """

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = Server(settings)
        super().__init__("zeromq", self._server, Rules(timeout=settings.timeout))

    @property
    def address(self) -> str:
        return self._server.address

    @property
    def capacity(self) -> int:
        at_least = self._settings.jobs * self._settings.threads
        return max(1, at_least, min(self.scheduler.capacity, MOST_CAPACITY))

    @property
    def has_others(self) -> bool:
        return bool(self._settings.bind)

    @property
    def missing(self) -> str:
        if self._server.has_peers or self._settings.jobs:
            return ""
        bind = self._settings.bind
        address = "ADDRESS" if re.search(r"//(\*|0\.0\.0\.0|\[::\])", bind) else bind
        return (
            f"waiting for workers at {bind}: start them with `imageloom worker --engine zeromq "
            f"--connect {address} --keys FOLDER/client.key --root FOLDER`"
            f"{'; ' if self._server.refusals else ''}{self._server.refusals}"
        )


class Server:
    """The transport: a ROUTER socket for tasks and results, and a PUB socket for heartbeats."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        address = settings.bind or "tcp://127.0.0.1:*"
        check_secured(address, settings.keys or not settings.bind, "server")
        if not settings.jobs and not settings.bind:
            raise UsageError("no local workers, and no others can connect: give --jobs or --bind")
        self._local = os.urandom(16)
        self._peers: dict[bytes, Peer] = {}
        self._events: list[Event] = []
        self._deaths: deque[tuple[int, str]] = deque()
        self._refusals = Refusals()
        self._is_closing = False
        self._beaten = self._looked = 0.0
        self._context = zmq.Context()
        # Without `bind`, only local workers connect: use keys for this run only.
        known = read_keys(settings.keys, ServerKeys) if settings.keys else new_server_keys()
        self._keys, self._made = add_clients(known, "local")
        self._fleet: Fleet | None = None
        try:
            self._open(address)
        except BaseException:
            self._context.destroy(0)
            raise
        self._waker = Waker()
        self._poller.register(self._waker.file, zmq.POLLIN)
        self.wake = self._waker.wake

    def _open(self, address: str) -> None:
        """Open the sockets. After the start of the engine's thread, only this thread uses them."""
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._limits: list[ConnectionLimit] = []
        self._router, self._control = self._context.socket(zmq.ROUTER), self._context.socket(zmq.PUB)
        host, port = split(address)
        try:
            for channel, number, most in (
                (self._router, port, MOST_TOLD),
                (self._control, "*" if port == "*" else int(port) + 1, MOST_SUBSCRIBED),
            ):
                options(channel, address, most)
                secure_server(channel, self._keys)
                self._limits.append(ConnectionLimit(channel))
                channel.bind(f"tcp://{host}:{number}")
        except zmq.ZMQError as error:
            raise StorageError(f"cannot listen on {address} and on the next port: {error.strerror}") from None
        self._router.router_handover = True
        self.address = f"tcp://{host}:{_port(self._router)}"
        everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
        self._local_address = f"tcp://{everywhere.get(host, host)}:{_port(self._router)}"
        self._control_port = _port(self._control)
        self._poller = zmq.Poller()
        for source in (self._router, self._zap, *(limit.monitor for limit in self._limits)):
            self._poller.register(source, zmq.POLLIN)

    def open(self, failed: Callable[[str], None]) -> None:
        """Start the local workers."""
        settings = self._settings
        local = WorkerSettings(
            self._local_address, settings.threads, settings.memory, settings.guard, once=True
        )
        self._fleet = Fleet(
            work,
            ("zeromq", local, self._made["local"], self._local),
            settings.jobs,
            self._note_death,
            preload=["imageloom.engines.zeromq.worker"],
            failed=failed,
            sandboxed=settings.sandbox.is_on,
        )

    @property
    def has_peers(self) -> bool:
        """Whether there are workers that take tasks."""
        return any(not peer.is_aside for peer in list(self._peers.values()))

    @property
    def refusals(self) -> str:
        """Which workers refuse the tasks, and why; empty if none does."""
        return str(self._refusals)

    def _note_death(self, pid: int, cause: str) -> None:
        """Note the death of a local worker. Called in the fleet's thread."""
        self._deaths.append((pid, cause))
        self.wake()

    # Commands

    def start(self) -> None:
        raise NotImplementedError("the fleet starts workers")

    def send(self, command: Send) -> None:
        if peer := self._peer(command.worker):
            peer.sent.add(command.task.id)
            self._send(peer.routing_id, b"task", command.task)

    def drop(self, command: Drop) -> None:
        if peer := self._peer(command.worker):
            self._send(peer.routing_id, b"drop", Delivery(command.delivery))

    def end(self, command: End) -> None:
        peer = self._peer(command.worker)
        if peer is None:
            return
        log.debug("ended worker %s: %s", peer.name, command.failure.message)
        if command.failure.kind == "InvalidResult":
            self._send(peer.routing_id, b"unknown")
        elif peer.is_local and self._fleet:
            self._fleet.kill(peer.hello.pid)
        else:
            self._send(peer.routing_id, b"die")
        del self._peers[peer.routing_id]

    def close(self, patience: float) -> None:
        """Ask the workers to stop, including those that connect meanwhile."""
        self._is_closing = True
        lingers = any(not peer.is_local for peer in self._peers.values())
        for peer in self._peers.values():
            self._send(peer.routing_id, b"stop")
        if self._fleet:
            here = {peer.hello.pid for peer in self._peers.values() if peer.is_local}
            for pid in set(self._fleet.pids) - here:
                self._fleet.kill(pid)
            closing = threading.Thread(target=self._fleet.close, args=(patience,))
            closing.start()
            while closing.is_alive():
                self.events(TICK / 4)
            closing.join()
        self._context.destroy(LINGER if lingers else 0)
        self._waker.close()

    def _peer(self, worker: str) -> Peer | None:
        return self._peers.get(bytes.fromhex(worker))

    # Events

    def events(self, patience: float | None) -> list[Event]:
        poller = self._poller
        wait = TICK if patience is None else min(patience, TICK)
        ready = dict(poller.poll(0 if self._events else math.ceil(wait * 1000)))
        if self._waker.file in ready:
            self._waker.clear()
        for limit in self._limits:
            limit.update()
        if self._zap in ready:
            authenticate(self._zap, self._keys)
        if self._router in ready:
            self._receive_all()
        while self._deaths:
            self._handle_death(*self._deaths.popleft())
        self._check_peers()
        events, self._events = self._events, []
        return events

    def _receive_all(self) -> None:
        """Read messages, up to a maximum, so that other work is not delayed."""
        for _ in range(100):
            try:
                routing_id, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(routing_id, frames)

    def _handle(self, routing_id: bytes, frames: list[bytes]) -> None:
        header, kind, body = (*frames, b"", b"", b"")[:3]
        if header != HEADER:
            log.warning("ignored data that is not a message of this version: %.40r", header)
            if header.startswith(PROTOCOL):
                self._send(
                    routing_id, b"unknown"
                )  # its header has the version, so the other side can report the mismatch
            return
        if kind == b"hello":
            if hello := body_of(Hello, body):
                self._welcome(routing_id, hello)
            return
        peer = self._peers.get(routing_id)
        if peer is None:
            if kind != b"leave":
                log.info(
                    "refused the %s of a worker that is unknown or was lost", kind.decode(errors="replace")
                )
                self._send(routing_id, b"unknown")
            return
        peer.heard = time.monotonic()
        if kind == b"result":
            self._handle_result(peer, body)
        elif kind == b"over":
            if delivery := body_of(Delivery, body):
                peer.sent.discard(delivery.number)
                self._events.append(Finished(peer.id, delivery.number, peer.name))
        elif kind == b"beat":
            if beat := body_of(Beat, body):
                self._compare(peer, set(beat.holding))
        elif kind == b"leave":
            self._release(peer)

    def _handle_result(self, peer: Peer, body: bytes) -> None:
        """Handle a result. A worker that sends an invalid message is removed."""
        try:
            message = message_of(body)
            if message.result is None:
                raise InvalidResult("no result")
        except InvalidResult as error:
            log.warning("refused a message from worker %s: %s", peer.name, error)
            self._lose(peer, Failure.of(InvalidResult(f"its worker {peer.name} sent {error}")))
            self._send(peer.routing_id, b"unknown")
        else:
            if self._sets_aside(peer, message):
                return
            received = Received(peer.id, message.delivery, message.place, message.result, message.worker)
            self._events.append(received)

    def _sets_aside(self, peer: Peer, message: Message) -> bool:
        """Whether a worker gets no more tasks, because it refuses them. Others get its deliveries."""
        reason = refusal_of(message.result)
        if message.result is not None and not reason:
            self._refusals.clear()
        if peer.is_aside or not reason:
            return peer.is_aside
        self._refusals.note(peer.name, shown(reason))
        if message.place or peer.is_local or self._refusals.are_final(len(self._peers)):
            return False
        peer.is_aside = True
        self._events.append(Left(peer.id))
        return True

    def _welcome(self, routing_id: bytes, hello: Hello) -> None:
        if self._is_closing:
            self._send(routing_id, b"stop")
        elif routing_id not in self._peers:
            if before := self._peers.get(hello.previous):
                self._release(before)
            if len(self._peers) >= MOST_PEERS:
                log.warning(
                    "refused a worker of %r: there are already %d workers, the maximum",
                    hello.host,
                    MOST_PEERS,
                )
                return  # it tries again later
            is_local = hello.local == self._local
            self._peers[routing_id] = Peer(routing_id, hello, is_local, time.monotonic())
            if is_local and self._fleet:
                self._fleet.mark_ready(hello.pid)
            peer = self._peers[routing_id]
            self._events.append(Joined(peer.id, max(1, hello.threads)))
            self._send(routing_id, b"welcome", Welcome(self._control_port, HEARTBEAT, SILENCE))

    def _compare(self, peer: Peer, holding: set[int]) -> None:
        """Report deliveries that are missing in two heartbeats in a row: they were lost with a connection."""
        missing = peer.sent - holding
        for number in missing & peer.missed:
            peer.sent.discard(number)
            self._events.append(Returned(peer.id, number))
        peer.missed = missing

    def _release(self, peer: Peer) -> None:
        """Remove a worker that has left."""
        self._events.append(Left(peer.id))
        del self._peers[peer.routing_id]

    def _handle_death(self, pid: int, cause: str) -> None:
        """Handle the death of a local worker."""
        for peer in [peer for peer in self._peers.values() if peer.is_local and peer.hello.pid == pid]:
            self._lose(peer, Failure.of(WorkerLost(f"its worker died: {cause}")))

    def _lose(self, peer: Peer, failure: Failure) -> None:
        self._events.append(Died(peer.id, failure))
        del self._peers[peer.routing_id]

    def _check_peers(self) -> None:
        """Find workers without heartbeats, and send heartbeats."""
        now = time.monotonic()
        if now < self._looked + TICK:
            return
        was_away = self._looked and now > self._looked + SILENCE / 2
        self._looked = now
        for peer in list(self._peers.values()):
            if was_away:  # this process was stopped: its messages are not read yet
                peer.heard = now
            if peer.heard <= now - SILENCE:
                reason = f"its worker {peer.name} sent nothing for {SILENCE:g} s"
                self._lose(peer, Failure.of(WorkerLost(reason)))
        if not self.has_peers and self._peers and self._refusals.are_final(len(self._peers)):
            for peer in self._peers.values():  # their refusals count now
                peer.is_aside = False
                self._events.append(Joined(peer.id, max(1, peer.hello.threads)))
        if now >= self._beaten + HEARTBEAT:
            self._beaten = now
            word = b"stop" if self._is_closing else b"beat"
            self._control.send_multipart([HEADER, word, b""], zmq.NOBLOCK)

    def _send(self, routing_id: bytes, kind: bytes, body: Plain | None = None) -> None:
        """Send to one worker. A message that cannot be delivered is dropped. The next heartbeats show the loss."""
        with contextlib.suppress(zmq.Again):
            packed = b"" if body is None else msgspec.msgpack.encode(body)
            self._router.send_multipart([routing_id, HEADER, kind, packed], zmq.NOBLOCK)


def _port(channel: zmq.Socket[bytes]) -> int:
    """The port on which a socket listens."""
    endpoint = channel.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return int(endpoint.rstrip(b"\0").rpartition(b":")[2])
