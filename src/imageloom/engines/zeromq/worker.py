"""A worker of the engine zeromq: the main thread communicates with the server, other threads run the tasks.

So heartbeats do not depend on the time of an item. A worker drops all its deliveries and connects again if the
server sends nothing for too long, or if the server has removed it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
from queue import Empty, SimpleQueue

import msgspec
import zmq

from imageloom.engines.workers import guarded
from imageloom.engines.zeromq.wire import (
    HEADER,
    MOST_ASKED,
    PROTOCOL,
    VERSION,
    Beat,
    ClientKeys,
    Delivery,
    Hello,
    Welcome,
    body_of,
    check_secured,
    log,
    options,
    read_keys,
    secure_client,
    split,
)
from imageloom.errors import UsageError
from imageloom.model import Task
from imageloom.system.announcing import Announcer
from imageloom.worker.message import Message
from imageloom.worker.perform import worker_name
from imageloom.worker.settings import WorkerSettings

PAUSE = 0.5
"""Seconds between two connections."""
FIRST_SILENCE = 10.0
"""Time-out for the answer to a hello, in seconds. Then another one is sent."""
IDLE = 10.0
"""Seconds without a task after which a worker says that it is idle."""
LINGER = 2000
"""Time in milliseconds to deliver the last messages."""


def work_for(
    settings: WorkerSettings, leaving: threading.Event, keys: ClientKeys | None = None, local: bytes = b""
) -> None:
    """Run as a worker of one server after the other at an address, until `leaving` is set.

    Args:
        keys: the keys, if they are not in the file `settings.keys`.
        local: the token of a worker that the server has started itself.

    Raises:
        UsageError: the server uses another version, or the address needs keys.
    """
    if keys is None and settings.keys:
        keys = read_keys(settings.keys, ClientKeys)
    check_secured(settings.connect, keys, "client")
    assert keys is not None, "it has been checked"
    worker = _Worker(settings, leaving, keys, local)
    try:
        while worker.serve():
            leaving.wait(PAUSE)
    finally:
        worker.close()


class _Worker:
    def __init__(
        self, settings: WorkerSettings, leaving: threading.Event, keys: ClientKeys, local: bytes
    ) -> None:
        self._settings, self._leaving, self._keys, self._local = settings, leaving, keys, local
        self._host = socket.gethostname()
        self._announcer = Announcer()
        self._announcer.say(f"waiting for a run at {settings.connect}")
        self._worked = 0.0
        """When it last had a task, in seconds of the monotonic clock; 0 while it is announced as idle."""
        self._context = zmq.Context()
        self._routing_id = b""
        self._round = 0
        """Number of the connection. Results of tasks from an earlier one are dropped."""
        self._holding: set[int] = set()
        self._dropped: set[int] = set()
        self._tasks: SimpleQueue[tuple[int, Task]] = SimpleQueue()
        self._reports: SimpleQueue[tuple[int, Message | int]] = SimpleQueue()
        """Reports of the threads: a result, or the number of a finished delivery."""
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        for number in range(settings.threads):
            threading.Thread(target=self._compute, name=f"thread_{number}", daemon=True).start()

    # The threads that run the tasks

    def _compute(self) -> None:
        name = worker_name() if self._settings.once else f"{self._host}:{worker_name()}"
        while True:
            began, task = self._tasks.get()
            if self._wants(began, task.id):
                for place, result in enumerate(guarded(task, self._settings.guard)):
                    self._report(began, Message(task.id, place, name, result))
                    if not self._wants(began, task.id):
                        break
            self._report(began, task.id)

    def _wants(self, began: int, delivery: int) -> bool:
        return began == self._round and delivery not in self._dropped and not self._leaving.is_set()

    def _report(self, began: int, what: Message | int) -> None:
        self._reports.put((began, what))
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the main thread, too
            os.write(self._wake_writer, b".")

    # The main thread

    def serve(self) -> bool:
        """Run as the worker of one server, from hello to the end. Returns whether to connect to the next
        server."""
        self._round += 1
        self._holding.clear()
        self._dropped.clear()
        self._goes_on: bool | None = None
        """Set when the connection must end: whether to connect again."""
        self._draining = False
        self._welcome: Welcome | None = None
        self._heard = self._beaten = time.monotonic()
        self._dealer, self._control = self._context.socket(zmq.DEALER), self._context.socket(zmq.SUB)
        try:
            self._greet()
            self._poller = zmq.Poller()
            for source in (self._wake_reader, self._dealer, self._control):
                self._poller.register(source, zmq.POLLIN)
            while self._goes_on is None:
                self._turn()
            return self._goes_on and not self._leaving.is_set()
        finally:
            self._dealer.close()
            self._control.close()

    def close(self) -> None:
        """Wait until the last messages are sent."""
        self._context.term()

    def _greet(self) -> None:
        for channel in (self._dealer, self._control):
            options(channel, self._settings.connect, MOST_ASKED)
            secure_client(channel, self._keys)
        previous, self._routing_id = self._routing_id, b"w" + os.urandom(15)
        self._dealer.routing_id = self._routing_id
        self._control.subscribe(b"")
        self._dealer.connect(self._settings.connect)
        hello = Hello(self._host, os.getpid(), self._settings.threads, previous, self._local)
        self._send(b"hello", msgspec.msgpack.encode(hello))

    def _turn(self) -> None:
        """Receive messages, send reports and heartbeats."""
        heartbeat = self._welcome.heartbeat if self._welcome else FIRST_SILENCE
        silence = self._welcome.silence if self._welcome else FIRST_SILENCE
        patience = min(self._beaten + heartbeat, self._heard + silence) - time.monotonic()
        ready = dict(self._poller.poll(max(0, math.ceil(patience * 1000))))
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        for channel in (self._dealer, self._control):
            while channel in ready and self._goes_on is None:
                try:
                    self._handle(channel.recv_multipart(zmq.NOBLOCK))
                except zmq.Again:
                    break
        self._pass_on()
        now = time.monotonic()
        self._announce(now)
        if self._welcome and now >= self._beaten + heartbeat:
            self._send(b"beat", msgspec.msgpack.encode(Beat(tuple(self._holding))))
            self._beaten = now
        if now >= self._heard + silence:
            if self._welcome:
                log.warning("no message from %s for %g s", self._settings.connect, silence)
            else:
                self._announcer.say(self._why_silent())
            self._goes_on = True
        if (self._leaving.is_set() or self._draining) and not self._holding:
            if self._welcome:
                self._dealer.linger = LINGER
                self._send(b"leave")
            self._goes_on = not self._settings.once

    def _announce(self, now: float) -> None:
        """Log whether it works or waits, but no change that lasts shorter than IDLE."""
        if self._holding:
            if not self._worked:
                self._announcer.say("working")
            self._worked = now
        elif self._worked and self._welcome and now >= self._worked + IDLE:
            self._worked = 0.0
            self._announcer.say(f"idle: waiting for tasks from {self._settings.connect}")
        else:
            self._announcer.repeat()

    def _why_silent(self) -> str:
        """Why there is no answer to a hello."""
        address = self._settings.connect
        try:
            socket.create_connection(split(address), 1.0).close()
        except OSError as error:
            return (
                f"nothing listens at {address} ({error.strerror or error}): waiting for a run with "
                f"--engine zeromq --bind {address}"
            )
        return f"{address} does not answer: the keys (--keys) are not those of this run, or it is another program"

    def _handle(self, frames: list[bytes]) -> None:
        header, kind, body = (*frames, b"", b"", b"")[:3]
        if header != HEADER:
            if header.startswith(PROTOCOL):
                theirs = header.removeprefix(PROTOCOL).decode(errors="replace")
                raise UsageError(
                    f"the server at {self._settings.connect} uses version {theirs} of the protocol, this "
                    f"worker {VERSION}: install the same imageloom on both sides"
                )
            log.warning("ignored data that is not a message: %.40r", header)
            return
        self._heard = time.monotonic()
        if kind == b"task":
            if task := body_of(Task, body):
                self._holding.add(task.id)
                self._tasks.put((self._round, task))
        elif kind == b"welcome":
            self._welcome = body_of(Welcome, body)
            if self._welcome:
                self._announcer.say(f"connected to {self._settings.connect}: waiting for tasks")
                host, _ = split(self._settings.connect)
                self._control.connect(f"tcp://{host}:{self._welcome.control}")
        elif kind == b"drop":
            if delivery := body_of(Delivery, body):
                self._dropped.add(delivery.number)
        elif kind == b"drain":
            self._draining = True
        elif kind == b"stop":
            self._goes_on = not self._settings.once
            self._worked = 0.0
            self._announcer.say(f"the run has ended: waiting for the next one at {self._settings.connect}")
        elif kind == b"unknown":
            self._goes_on = True
        elif kind == b"die":
            log.error("imageloom worker %d: ended, because an item took too long (--timeout)", os.getpid())
            os._exit(1)

    def _pass_on(self) -> None:
        """Send the reports of the threads."""
        while self._goes_on is None:
            try:
                began, what = self._reports.get_nowait()
            except Empty:
                return
            if began != self._round:
                continue
            if isinstance(what, Message):
                self._send(b"result", msgspec.msgpack.encode(what))
            else:
                self._holding.discard(what)
                self._dropped.discard(what)
                self._send(b"over", msgspec.msgpack.encode(Delivery(what)))

    def _send(self, kind: bytes, body: bytes = b"") -> None:
        with contextlib.suppress(zmq.Again):  # too many messages wait for a server that does not answer
            self._dealer.send_multipart([HEADER, kind, body], zmq.NOBLOCK)
