"""Engine zeromq: who may come in, and what becomes of what should not have."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from msgspec.structs import replace

from guests import family, keys, remote
from imageloom.engines import Settings
from imageloom.engines.zeromq.engine import Zeromq
from imageloom.engines.zeromq.wire import (
    HEADER,
    VERSION,
    Beat,
    ClientKeys,
    Hello,
    ServerKeys,
    read_keys,
    secure_client,
    secure_server,
)
from imageloom.errors import StorageError, UsageError
from imageloom.model import Item, Limits, Output, Recipe, Step, Task, Work
from program import free_port, imageloom


def task(photos: Path) -> Task:
    sink = photos.parent / "out"
    (sink / ".imageloom").mkdir(parents=True)
    work = (Work(Item("1.jpg"), ("1.jpg",), 1),)
    return Task(1, "1", str(photos), str(sink), Recipe((Output((Step("flip"),)),)), Limits(), work)


# Who may come in


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    made = imageloom("keys", tmp_path / "keys")
    assert made.stdout.split() == [str(tmp_path / "keys" / name) for name in ("server.key", "client.key")]
    for name in ("server.key", "client.key"):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600
    assert imageloom("keys", tmp_path / "keys", "--client", "other").returncode == 0
    server = read_keys(str(tmp_path / "keys" / "server.key"), ServerKeys)
    other = read_keys(str(tmp_path / "keys" / "other.key"), ClientKeys)
    assert server.clients.keys() == {"client", "other"}
    assert (server.clients["other"], server.public) == (other.public, other.server)
    again = imageloom("keys", tmp_path / "keys")
    assert again.returncode == 2
    assert "already has a client 'client'" in again.stderr
    with pytest.raises(UsageError, match="not a file of client keys"):
        read_keys(str(tmp_path / "keys" / "server.key"), ClientKeys)


def test_a_worker_without_the_keys_gets_nothing(photos: Path) -> None:
    ours, strange = photos.parent / "ours", photos.parent / "strange"
    for folder in (ours, strange):
        assert imageloom("keys", folder).returncode == 0
    forged = read_keys(str(strange / "client.key"), ClientKeys)  # it knows the server's public key
    server = read_keys(str(ours / "server.key"), ServerKeys)
    (photos.parent / "forged.key").write_bytes(msgspec.json.encode(replace(forged, server=server.public)))
    engine = Zeromq(Settings(0, bind="tcp://127.0.0.1:*", keys=str(ours / "server.key")))
    try:
        future = engine.submit(task(photos))
        with contextlib.ExitStack() as guests:
            for flags in (["--keys", strange / "client.key"], ["--keys", photos.parent / "forged.key"]):
                guests.enter_context(remote(engine.address, photos.parent, *flags))
            with remote(engine.address, photos.parent, "--keys", ours / "client.key") as guest:
                outcome = future.result(60)
                assert outcome.results[0].failure is None
                assert int(outcome.worker.split(":")[1].split("/")[0]) in family(guest)
    finally:
        engine.close()


def test_no_port_and_no_worker_is_without_keys() -> None:
    for host in ("0.0.0.0", "127.0.0.1", "localhost", "[::1]"):
        with pytest.raises(UsageError, match="imageloom keys DIR"):
            Zeromq(Settings(1, bind=f"tcp://{host}:5555"))
    for host in ("192.0.2.1", "127.0.0.1"):
        refused = imageloom("worker", "--engine", "zeromq", "--connect", f"tcp://{host}:5555", "-j", 1)
        assert refused.returncode == 2
        assert "imageloom keys DIR" in refused.stderr
    with pytest.raises(UsageError, match="not an address, such as"):
        Zeromq(Settings(1, bind="ipc:///tmp/x"))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StorageError, match=f":{taken.getsockname()[1]}"):
            Zeromq(Settings(1, bind=f"tcp://127.0.0.1:{taken.getsockname()[1]}", keys=keys()[0]))


@pytest.mark.parametrize(
    "command",
    [
        ["run", "flip", "photos", "out", "--engine", "zeromq"],
        ["keys", "keys"],
        ["worker", "--engine", "zeromq", "--connect", "tcp://127.0.0.1:5555", "-j", "1"],
    ],
)
def test_without_the_library_its_extra_is_named(command: list[str], photos: Path) -> None:
    (photos.parent / "zmq.py").write_text("raise ModuleNotFoundError('it is not there', name='zmq')")
    path = os.pathsep.join([str(photos.parent), os.environ.get("PYTHONPATH", "")])
    refused = imageloom(*command, cwd=photos.parent, env={**os.environ, "PYTHONPATH": path})
    assert refused.returncode == 2
    assert "pip install 'imageloom[zeromq]'" in refused.stderr
    assert "Traceback" not in refused.stderr


# What comes in


class Canary:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (self.path,)


def test_junk_is_ignored(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    canary = photos.parent / "canary"
    evil = pickle.dumps(Canary(str(canary)))
    port = free_port()
    own = read_keys(keys()[1], ClientKeys)
    engine = Zeromq(Settings(1, bind=f"tcp://127.0.0.1:{port}", keys=keys()[0]))
    context = zmq.Context()
    try:
        for number in (port, port + 1):
            for data in (b"\xff" * 10_000, evil, b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000)):
                with socket.create_connection(("127.0.0.1", number), 5) as raw:
                    raw.sendall(data)
            for kind in (zmq.DEALER, zmq.REQ, zmq.XSUB):
                peer = context.socket(kind)
                peer.linger = 500
                secure_client(peer, own)
                peer.connect(f"tcp://127.0.0.1:{number}")
                bodies = [evil, b"", b"\x01" + evil, os.urandom(99), b"\xff" * 99]
                kinds = [b"hello", b"result", b"beat", b"over", b"leave", b"\xff"]
                frames = [[HEADER, k, b] for k in kinds for b in bodies]
                for message in [*frames, [evil], [b""], [b"imageloom/9", b"hello", evil], [HEADER]]:
                    with contextlib.suppress(zmq.ZMQError):  # a REQ waits for an answer
                        peer.send_multipart(message, zmq.NOBLOCK)
                peer.close()
        outcome = engine.submit(task(photos)).result(30)
        assert outcome.results[0].failure is None
    finally:
        context.destroy(500)
        engine.close()
    assert not canary.exists()
    assert "ignored data that is not a Hello" in caplog.text
    assert "ignored data that is not a message of this version: b'imageloom/9'" in caplog.text


@contextlib.contextmanager
def dealer(engine: Zeromq) -> Iterator[zmq.Socket[bytes]]:
    """A worker made by hand, with its welcome behind it."""
    context = zmq.Context()
    try:
        peer = context.socket(zmq.DEALER)
        peer.rcvtimeo = 10_000
        secure_client(peer, read_keys(keys()[1], ClientKeys))
        peer.connect(engine.address)
        peer.send_multipart([HEADER, b"hello", msgspec.msgpack.encode(Hello("afar", 1, 1))])
        assert peer.recv_multipart()[:2] == [HEADER, b"welcome"]
        yield peer
    finally:
        context.destroy(0)


def next_task(peer: zmq.Socket[bytes]) -> Task:
    while True:
        _, kind, body = peer.recv_multipart()
        if kind == b"task":
            return msgspec.msgpack.decode(body, type=Task)


def test_a_task_that_got_lost_on_its_way_is_sent_again(photos: Path) -> None:
    """Where a connection breaks, messages may: the worker's heartbeats do not name what it never got."""
    engine = Zeromq(Settings(0, bind="tcp://127.0.0.1:*", keys=keys()[0]))
    try:
        with dealer(engine) as peer:
            future = engine.submit(task(photos))
            first = next_task(peer)
            for _ in range(2):
                peer.send_multipart([HEADER, b"beat", msgspec.msgpack.encode(Beat(()))])
            second = next_task(peer)
            assert (second.work, second.id) == (first.work, first.id + 1)
            peer.send_multipart([HEADER, b"leave", b""])
            with remote(engine.address, photos.parent):
                assert future.result(30).results[0].failure is None
    finally:
        engine.close()


def test_a_worker_that_speaks_another_version_is_told_and_leaves(photos: Path) -> None:
    engine = Zeromq(Settings(0, bind="tcp://127.0.0.1:*", keys=keys()[0]))
    context = zmq.Context()
    try:
        peer = context.socket(zmq.DEALER)
        peer.rcvtimeo = 10_000
        secure_client(peer, read_keys(keys()[1], ClientKeys))
        peer.connect(engine.address)
        peer.send_multipart([b"imageloom/99", b"hello", b"of a later form"])
        assert peer.recv_multipart()[0] == HEADER
        server = context.socket(zmq.ROUTER)
        secure_server(server, read_keys(keys()[0], ServerKeys))
        port = server.bind_to_random_port("tcp://127.0.0.1")
        with remote(f"tcp://127.0.0.1:{port}", photos) as guest:
            server.rcvtimeo = 20_000
            routing_id = server.recv_multipart()[0]
            server.send_multipart([routing_id, b"imageloom/99", b"unknown", b""])
            assert guest.wait(60) == 2
            assert guest.stderr is not None
            assert f"uses version 99 of the protocol, this worker {VERSION}" in guest.stderr.read()
    finally:
        context.destroy(0)
        engine.close()
