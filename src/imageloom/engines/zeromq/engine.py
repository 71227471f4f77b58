"""Workers that connect over ZeroMQ, from this machine or others, and come and go as they like.

A thread of the driver's process is the server: workers ask it for work and hold one task at a time for each of
their threads; results come back item by item. Hearts beat both ways. A local worker's death is known at once,
another one's when its heart has been silent for too long: what it had in hand fails and may be tried again, and
what it says later is refused. What a worker hands back as it leaves costs no attempt.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
import zmq

from imageloom.engines import Capabilities, Engine, Settings, Told, WorkerSettings
from imageloom.engines.processes import LEAST_PATIENCE, PATIENCE
from imageloom.engines.zeromq.doors import Door
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
from imageloom.errors import InvalidResult, StorageError, UsageError
from imageloom.model import Failure, Outcome, Plain, Task
from imageloom.scheduling.board import Board, message_of
from imageloom.scheduling.fleet import Fleet
from imageloom.worker.process import work

HEARTBEAT = 1.0
"""Seconds from one to the next."""
SILENCE = 10.0
"""Seconds after which a silent worker is lost, and a silent server gone."""
MOST_PEERS = 512
"""Workers that connect."""
MOST_CAPACITY = 4096
"""Tasks at once, whatever the workers say of themselves."""
TICK = 0.2
"""Seconds between one look at the clock and the next."""
LINGER = 200
"""Milliseconds that the last words to remote workers may take on their way."""


@dataclass(eq=False)
class _Peer:
    """A worker that has said hello."""

    routing_id: bytes
    hello: Hello
    is_local: bool
    heard: float
    missed: set[int] = field(default_factory=set)
    """Deliveries that it did not have in hand by its last heartbeat."""

    @property
    def name(self) -> str:
        return f"{self.hello.pid}" if self.is_local else f"{self.hello.host}:{self.hello.pid}"


class Zeromq(Engine):
    capabilities = Capabilities(tells=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        address = settings.bind or "tcp://127.0.0.1:*"
        check_secured(address, settings.keys or not settings.bind, "server")
        if not settings.jobs and not settings.bind:
            raise UsageError("no local workers, and no others can connect: give --jobs or --bind")
        self._local = os.urandom(16)
        self._board: Board[_Peer] = Board()
        self._peers: dict[bytes, _Peer] = {}
        self._deaths: deque[tuple[int, str]] = deque()
        self._closing, self._idle, self._over = False, threading.Event(), False
        self._beaten = self._looked = 0.0
        self._context = zmq.Context()
        # Without `bind` nobody else is to connect: keys of this run alone.
        known = read_keys(settings.keys, ServerKeys) if settings.keys else new_server_keys()
        self._keys, made = add_clients(known, "local")
        try:
            self._open(address)
        except BaseException:
            self._context.destroy(0)
            raise
        self._bell, self._button = os.pipe()
        os.set_blocking(self._button, False)
        local = WorkerSettings(
            self._local_address, settings.threads, settings.memory, settings.guard, once=True
        )
        self._fleet = Fleet(
            work,
            ("zeromq", local, made["local"], self._local),
            settings.jobs,
            self._died,
            preload=["imageloom.engines.zeromq.worker"],
            failed=self._board.fail,
        )
        self._thread = threading.Thread(target=self._run, name="zeromq", daemon=True)
        self._thread.start()

    def _open(self, address: str) -> None:
        """Make the sockets; from the thread's start on they are the thread's."""
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._doors: list[Door] = []
        self._router, self._control = self._context.socket(zmq.ROUTER), self._context.socket(zmq.PUB)
        host, port = split(address)
        try:
            for channel, number, most in (
                (self._router, port, MOST_TOLD),
                (self._control, "*" if port == "*" else int(port) + 1, MOST_SUBSCRIBED),
            ):
                options(channel, address, most)
                secure_server(channel, self._keys)
                self._doors.append(Door(channel))
                channel.bind(f"tcp://{host}:{number}")
        except zmq.ZMQError as error:
            raise StorageError(
                f"cannot listen at {address} and the port after it: {error.strerror}"
            ) from None
        self._router.router_handover = True
        self.address = f"tcp://{host}:{_port(self._router)}"
        everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
        self._local_address = f"tcp://{everywhere.get(host, host)}:{_port(self._router)}"
        self._control_port = _port(self._control)

    @property
    def capacity(self) -> int:
        present = sum(peer.hello.threads for peer in list(self._peers.values()))
        return max(1, self._settings.jobs * self._settings.threads, min(present, MOST_CAPACITY))

    @property
    def missing(self) -> str:
        if self._peers or self._settings.jobs:
            return ""
        return (
            f"no worker has connected to {self._settings.bind}: start some by "
            "`imageloom worker --engine zeromq --connect ADDRESS --root FOLDER`"
        )

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
        self._idle.wait()
        self._fleet.close()
        self._over = True
        self._ring()
        self._thread.join()
        os.close(self._bell)
        os.close(self._button)

    def _ring(self) -> None:
        """Wake the server."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it as well
            os.write(self._button, b".")

    def _died(self, pid: int, cause: str) -> None:
        """By the fleet's thread."""
        self._deaths.append((pid, cause))
        self._ring()

    # The server's thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # whoever waits for a task is to know
            log.exception("the server has failed")
            self._board.fail(f"its server has failed: {type(error).__name__}: {error}")
        finally:
            self._idle.set()
            lingers = any(not peer.is_local for peer in self._peers.values())
            self._context.destroy(LINGER if lingers else 0)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._bell, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._zap, zmq.POLLIN)
        for door in self._doors:
            poller.register(door.monitor, zmq.POLLIN)
        while not self._over:
            ready = dict(poller.poll(int(TICK * 1000)))
            if self._bell in ready:
                os.read(self._bell, 4096)
            for door in self._doors:
                door.look()
            if self._zap in ready:
                authenticate(self._zap, self._keys)
            if self._router in ready:
                self._hear_all()
            while self._deaths:
                self._bury(*self._deaths.popleft())
            self._look()
            self._assign()
            if self._closing and self._board.is_idle and not self._idle.is_set():
                self._board.abandon("the engine was closed")
                self._dismiss()
                self._idle.set()

    def _hear_all(self) -> None:
        """Take in what has come; after some of it others are to have their turn."""
        for _ in range(100):
            try:
                routing_id, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._hear(routing_id, frames)

    def _hear(self, routing_id: bytes, frames: list[bytes]) -> None:
        header, kind, body = (*frames, b"", b"", b"")[:3]
        if header != HEADER:
            log.warning("ignored what is no message of this version: %.40r", header)
            if header.startswith(PROTOCOL):
                self._send(routing_id, b"unknown")  # its header tells the other side why
            return
        if kind == b"hello":
            if hello := body_of(Hello, body):
                self._welcome(routing_id, hello)
            return
        peer = self._peers.get(routing_id)
        if peer is None:
            if kind != b"leave":
                log.info(
                    "refused the %s of a worker that is not known, or was lost", kind.decode(errors="replace")
                )
                self._send(routing_id, b"unknown")
            return
        peer.heard = time.monotonic()
        if kind == b"result":
            self._take_in(peer, body)
        elif kind == b"over":
            if delivery := body_of(Delivery, body):
                self._board.finish(peer, delivery.number, peer.name)
        elif kind == b"beat":
            if beat := body_of(Beat, body):
                self._compare(peer, set(beat.holding))
        elif kind == b"leave":
            self._let_go(peer)

    def _take_in(self, peer: _Peer, body: bytes) -> None:
        """Take a result in; a worker that sends what none of ours would is let go of."""
        try:
            message = message_of(body)
            if self._board.accept(peer, message):
                return
            if not self._board.has_issued(message.delivery):
                raise InvalidResult(f"a result of delivery {message.delivery}, which there is not")
            log.info("refused a late result of worker %s", peer.name)
        except InvalidResult as error:
            log.warning("refused a message of worker %s: %s", peer.name, error)
            self._lose(peer, Failure("InvalidResult", f"its worker {peer.name} sent {error}", True))
            self._send(peer.routing_id, b"unknown")

    def _welcome(self, routing_id: bytes, hello: Hello) -> None:
        if self._idle.is_set():
            self._send(routing_id, b"stop")
        elif routing_id not in self._peers:
            if before := self._peers.get(hello.previous):
                self._let_go(before)
            if len(self._peers) >= MOST_PEERS:
                log.warning("refused a worker of %r: there are %d already", hello.host, MOST_PEERS)
                return  # it says hello again, later
            is_local = hello.local == self._local
            self._peers[routing_id] = _Peer(routing_id, hello, is_local, time.monotonic())
            if is_local:
                self._fleet.is_well(hello.pid)
            self._send(routing_id, b"welcome", Welcome(self._control_port, HEARTBEAT, SILENCE))

    def _compare(self, peer: _Peer, holding: set[int]) -> None:
        """Queue again what a worker should have in hand and has not, twice in a row: a connection broke."""
        missing = self._board.deliveries(peer) - holding
        for number in missing & peer.missed:
            self._board.hand_back(peer, number)
        peer.missed = missing

    def _let_go(self, peer: _Peer) -> None:
        """A worker leaves on its own."""
        self._board.hand_back(peer)
        del self._peers[peer.routing_id]

    def _bury(self, pid: int, cause: str) -> None:
        """A local worker has died."""
        for peer in [peer for peer in self._peers.values() if peer.is_local and peer.hello.pid == pid]:
            self._lose(peer, Failure("WorkerLost", f"its worker died: {cause}", True))

    def _lose(self, peer: _Peer, failure: Failure) -> None:
        self._board.lose(peer, failure, peer.name)
        del self._peers[peer.routing_id]

    def _look(self) -> None:
        """See who is silent, and who takes too long; beat."""
        now = time.monotonic()
        if now < self._looked + TICK:
            return
        was_away = self._looked and now > self._looked + SILENCE / 2
        self._looked = now
        for peer in list(self._peers.values()):
            if was_away:  # this process was stopped: what came meanwhile is not read yet
                peer.heard = now
            began = self._board.oldest(peer)
            if peer.heard <= now - SILENCE:
                reason = f"nothing was heard of its worker {peer.name} for {SILENCE:g} s"
                self._lose(peer, Failure("WorkerLost", reason, True))
            elif began <= now - self._settings.timeout:
                self._end(peer)
            elif began <= now - max(LEAST_PATIENCE, PATIENCE * self._board.mean):
                for number in self._board.part(peer):
                    self._send(peer.routing_id, b"drop", Delivery(number))
        if now >= self._beaten + HEARTBEAT or self._closing:
            self._beaten = now
            word = b"stop" if self._idle.is_set() else b"drain" if self._closing else b"beat"
            self._control.send_multipart([HEADER, word, b""], zmq.NOBLOCK)

    def _end(self, peer: _Peer) -> None:
        """End a worker that is on one item for too long."""
        if peer.is_local:
            self._fleet.kill(peer.hello.pid)
        else:
            self._send(peer.routing_id, b"die")
        reason = f"it took more than {self._settings.timeout:g} s (--timeout)"
        self._lose(peer, Failure("ItemTimeout", reason, True))

    def _dismiss(self) -> None:
        """Have the workers leave; those that have not come yet need not."""
        for peer in self._peers.values():
            self._send(peer.routing_id, b"stop")
        here = {peer.hello.pid for peer in self._peers.values() if peer.is_local}
        for pid in set(self._fleet.pids) - here:
            self._fleet.kill(pid)

    def _assign(self) -> None:
        """Give the workers with the least in hand what they have room for."""
        if not self._board.waiting:
            return
        for peer in sorted(self._peers.values(), key=self._board.in_hand):
            if task := self._board.take(peer, peer.hello.threads):
                self._send(peer.routing_id, b"task", task)

    def _send(self, routing_id: bytes, kind: bytes, body: Plain | None = None) -> None:
        """To one worker; what cannot be delivered is dropped, and missed by the next heartbeats."""
        with contextlib.suppress(zmq.Again):
            packed = b"" if body is None else msgspec.msgpack.encode(body)
            self._router.send_multipart([routing_id, HEADER, kind, packed], zmq.NOBLOCK)


def _port(channel: zmq.Socket[bytes]) -> int:
    """Where a socket listens."""
    endpoint = channel.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return int(endpoint.rstrip(b"\0").rpartition(b":")[2])
