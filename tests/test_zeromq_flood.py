"""Engine zeromq under ten times the connections that it takes, and junk: workers with keys go on."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from guests import keys, remote
from imageloom.bench.samples import draw_photos
from imageloom.engines.zeromq.wire import (
    HEADER,
    ClientKeys,
    add_clients,
    new_server_keys,
    read_keys,
    secure_client,
)
from program import contents, free_port, imageloom, start

FILES = 256
"""That the driver may have open."""
FLOOD = FILES * 10 // 8
"""Connections to each port: ten times as many as it keeps."""


class Driver:
    """A run that waits for workers, and that may not open many files."""

    def __init__(self, folder: Path) -> None:
        draw_photos(folder / "photos", 40)
        self.folder, self.port = folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.process = start(
            *("run", "resize 64x64", folder / "photos", folder / "out", "--engine", "zeromq", "-j", 0),
            *("--bind", self.address, "--keys", keys()[0], "--ledger", folder / "ledger.db"),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )
        for number in (self.port, self.port + 1):
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", number), 5).close()
                    break
                assert self.process.poll() is None
        self.seen = psutil.Process(self.process.pid)
        self.before = self.seen.memory_info().rss

    def finish(self) -> str:
        """Have a worker do it all, within bounded memory; what the driver says."""
        with remote(self.address, self.folder):
            while self.process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    assert self.seen.memory_info().rss - self.before < 100 << 20
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.1)
            out, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert "40 of 40 done, 0 failed" in out
        assert len(contents(self.folder / "out")) == 40
        return errors


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


Peer = Callable[[ClientKeys | None, int], "zmq.Socket[bytes]"]


@pytest.fixture
def connect() -> Iterator[Peer]:
    """Connects a peer, with keys or without, to a port."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = []

    def connect(own: ClientKeys | None, port: int) -> zmq.Socket[bytes]:
        made.append(context.socket(zmq.DEALER))
        if own:
            secure_client(made[-1], own)
        made[-1].connect(f"tcp://127.0.0.1:{port}")
        return made[-1]

    yield connect
    for peer in made:
        peer.close(0)
    context.term()


def test_no_run_listens_without_keys(photos: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    ran = imageloom("run", "flip", photos, photos.parent / "out", "--engine", "zeromq", "--bind", address)
    assert ran.returncode == 2
    assert "imageloom keys DIR" in ran.stderr


@pytest.mark.parametrize(
    "said", [b"", b"\xff" * 1000, b"\xff\0\0\0\0\0\0\0\1\x7f\3"], ids=["silent", "junk", "begun"]
)
def test_ten_times_as_many_connections_cost_no_image(driver: Driver, said: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for number in (driver.port, driver.port + 1):
            for _ in range(FLOOD):
                with contextlib.suppress(OSError):
                    raw = stack.enter_context(socket.create_connection(("127.0.0.1", number), 5))
                    raw.sendall(said)
        errors = driver.finish()
    if not said:
        assert f"has {FILES // 8} connections, the maximum: refusing new connections" in errors


def test_junk_from_who_has_no_keys_takes_no_memory(driver: Driver, connect: Peer) -> None:
    forged = add_clients(new_server_keys(), "forged")[1]["forged"]
    body = bytes(16 << 20)
    for own in (None, forged):
        for number in (driver.port, driver.port + 1):
            for _ in range(4):
                peer = connect(own, number)
                for _ in range(8):
                    with contextlib.suppress(zmq.Again):
                        peer.send_multipart([HEADER, b"result", body], zmq.NOBLOCK, copy=False)
    driver.finish()


def test_a_worker_that_floods_is_cut_off(driver: Driver, connect: Peer) -> None:
    """It has the keys, and sends what is too large, and then too much."""
    for size, count in ((32 << 20, 4), (512 << 10, 300)):
        peer = connect(read_keys(keys()[1], ClientKeys), driver.port)
        body = os.urandom(size)
        for _ in range(count):
            with contextlib.suppress(zmq.Again):
                peer.send_multipart([HEADER, b"hello", body], zmq.NOBLOCK, copy=False)
    driver.finish()
