"""Engine zeromq: workers that are killed, stopped, late, strange or hostile."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import psutil
import pytest
import zmq
from msgspec.structs import replace

from imageloom.api import process
from imageloom.engines import Settings, zeromq
from imageloom.engines.zeromq import Zeromq
from imageloom.engines.zeromq_wire import HEADER, Beat, ClientKeys, Hello, ServerKeys, read_keys
from imageloom.errors import StorageError, UsageError
from imageloom.events import Done, Event, Failed, Retried
from imageloom.model import Item, Limits, Output, Recipe, Step, Task, Work
from imageloom.pipeline import Pipeline
from imageloom.recipe import with_operators
from imageloom.samples import draw_photos
from imageloom.testing.engines import HARMFUL, recipe_of
from program import contents, imageloom, start

OPERATORS = '''
import time
from imageloom import Pixels, operator

@operator("point", examples=("nap 1",))
def nap(image: Pixels, *, seconds: float) -> Pixels:
    """Take long, without taking the processor."""
    time.sleep(seconds)
    return image

@operator("point", examples=("toil_on_red 1",))
def toil_on_red(image: Pixels, *, seconds: float) -> Pixels:
    """Take long over a red image, and the interpreter too."""
    until = time.monotonic() + (seconds if (image == (255, 0, 0)).all() else 0)
    while time.monotonic() < until:
        pass
    return image
'''


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("operators") / "slow.py"
    path.write_text(OPERATORS)
    return str(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 photos, two of them red."""
    folder = tmp_path / "photos"
    draw_photos(folder, 22)
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    for number in range(2):
        assert cv2.imwrite(str(folder / f"red-{number}.png"), red)
    return folder


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageloom.plan.BATCH_ITEMS", 2)


@pytest.fixture
def _quick_hearts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeromq, "HEARTBEAT", 0.1)
    monkeypatch.setattr(zeromq, "SILENCE", 0.7)
    monkeypatch.setattr(zeromq, "TICK", 0.05)


class Ran:
    """One run on this engine, and its events."""

    def __init__(
        self, pipeline: Recipe | str, photos: Path, *listeners: Callable[[Event], None], **more: object
    ) -> None:
        self.events: list[Event] = []
        self.out = photos.parent / "out"
        self.summary = process(
            pipeline,
            photos,
            self.out,
            engine="zeromq",
            ledger=photos.parent / "ledger.db",
            listeners=[self.events.append, *listeners],
            **more,  # type: ignore[arg-type]
        )

    @property
    def retried(self) -> Counter[str]:
        return Counter(e.result.key for e in self.events if isinstance(e, Retried))

    @property
    def attempts(self) -> dict[str, int]:
        done = [(e.result.key, e.attempt) for e in self.events if isinstance(e, Done)]
        assert len(dict(done)) == len(done), "nothing is published twice"
        return dict(done)

    @property
    def workers(self) -> set[str]:
        return {e.worker.partition("/")[0] for e in self.events if isinstance(e, Done)}


def serial(pipeline: Recipe | str, photos: Path) -> dict[str, bytes]:
    out = photos.parent / "serial"
    process(pipeline, photos, out, engine="serial", ledger=photos.parent / "serial.db")
    return contents(out)


def children() -> list[psutil.Process]:
    """Workers of this process: what multiprocessing's fork server has begun."""
    return [grandchild for child in psutil.Process().children() for grandchild in child.children()]


def free_port() -> int:
    """A port of the loopback that is free together with the next one."""
    while True:
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            two.bind(("127.0.0.1", port + 1))
            return port


@contextlib.contextmanager
def remote(address: str, root: Path, *flags: object) -> Iterator[subprocess.Popen[str]]:
    """An `imageloom worker`, ended at the end."""
    command = ["worker", "--engine", "zeromq", "--connect", address, "--root", root, "-j", 1, *flags]
    running = start(*command, stderr=subprocess.PIPE)
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=20)


def slow(text: str, operators: str) -> Recipe:
    """A recipe that knows the operators above."""
    loaded = with_operators(Recipe(()), [operators])
    return replace(loaded, outputs=(Output(Pipeline(f"{text} | resize 32x32").steps, format="png"),))


def task(photos: Path, sink: Path, number: int = 1, *keys: str) -> Task:
    (sink / ".imageloom").mkdir(parents=True, exist_ok=True)
    work = tuple(Work(Item(key), (key,), place) for place, key in enumerate(keys or ("red-0.png",), 1))
    return Task(number, "1", str(photos), str(sink), Recipe((Output((Step("flip"),)),)), Limits(), work)


# Workers that die, stop, take long


def test_killed_workers_are_replaced_and_lose_one_item_each(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 80)
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.15) and len(killed) < 5:
            for worker in children()[:1]:
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    pipeline = "resize 400x400 | median_blur 31"
    try:
        ran = Ran(pipeline, tmp_path / "photos", jobs=2)
    finally:
        done.set()
        thread.join()
    assert killed
    assert (ran.summary.done, ran.summary.failed) == (80, 0)
    assert sum(ran.retried.values()) <= len(killed)
    assert len(ran.attempts) == 80
    assert contents(ran.out) == serial(pipeline, tmp_path / "photos")
    assert not children()


@pytest.mark.usefixtures("_quick_hearts")
def test_who_was_stopped_for_too_long_comes_too_late(
    photos: Path, operators: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imageloom.zeromq")
    stopped: list[psutil.Process] = []
    recipe = slow("nap 0.1", operators)

    def stop_and_go_on(event: Event) -> None:
        if isinstance(event, Done) and not stopped:
            stopped.extend(children()[:1])
            stopped[0].suspend()
        elif isinstance(event, Retried):
            stopped[0].resume()

    ran = Ran(recipe, photos, stop_and_go_on, jobs=2)
    assert (ran.summary.done, ran.summary.failed) == (24, 0)
    assert list(ran.retried.values()) == [1]
    (lost,) = [e.result.failure for e in ran.events if isinstance(e, Retried)]
    assert lost is not None
    assert lost.kind == "WorkerLost"
    assert f"nothing was heard of its worker {stopped[0].pid}" in lost.message
    assert len(ran.attempts) == 24
    assert contents(ran.out) == serial(recipe, photos)
    assert "refused the result of a worker" in caplog.text


@pytest.mark.usefixtures("_quick_hearts")
def test_a_task_ten_times_as_long_as_silence_may_be_runs_once(photos: Path, operators: str) -> None:
    (photos / "red-1.png").unlink()
    ran = Ran(slow(f"toil_on_red {10 * zeromq.SILENCE:g}", operators), photos, jobs=2)
    assert (ran.summary.done, ran.summary.failed) == (23, 0)
    assert not ran.retried
    assert max(e.result.times.filter for e in ran.events if isinstance(e, Done)) >= 10 * zeromq.SILENCE


@pytest.mark.parametrize(
    ("operator", "kind", "settings"),
    [
        ("crash_on_red", "WorkerLost", {}),
        ("hang_on_red", "ItemTimeout", {"timeout": 0.5}),
        pytest.param("eat_memory_on_red", "MemoryError", {"memory": 512 << 20}, marks=pytest.mark.long),
        pytest.param("crash_on_red", "WorkerLost", {"threads": 2}, marks=pytest.mark.long),
        pytest.param("hang_on_red", "ItemTimeout", {"timeout": 0.5, "threads": 2}, marks=pytest.mark.long),
    ],
)
def test_harmful_items_fail_alone_after_three_attempts(
    photos: Path, operator: str, kind: str, settings: dict[str, object]
) -> None:
    ran = Ran(recipe_of(f"{operator} | resize 32x32", "png"), photos, jobs=2, **settings)
    failed = {e.result.key: e for e in ran.events if isinstance(e, Failed)}
    assert set(failed) == {"red-0.png", "red-1.png"}
    for event in failed.values():
        assert event.attempt == 3
        assert event.result.failure is not None
        assert event.result.failure.kind in {kind} | ({"OperatorFailed"} if kind == "MemoryError" else set())
    assert len(ran.attempts) == 22
    assert all(attempt <= 2 for attempt in ran.attempts.values()), "a suspect runs alone"
    assert not children()


# Workers elsewhere


def test_a_worker_comes_late_and_leaves_early(photos: Path, operators: str) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    recipe = slow("nap 0.15", operators)
    with remote(address, photos.parent, "--operators", operators) as guest:
        theirs = 0

        def see_off(event: Event) -> None:
            nonlocal theirs
            if isinstance(event, Done) and ":" in event.worker:
                theirs += 1
                if theirs == 2:
                    guest.terminate()

        ran = Ran(recipe, photos, see_off, jobs=1, bind=address)
        assert guest.wait(20) == 0
    assert ran.summary.done == 24
    assert len(ran.workers) == 2
    assert 2 <= theirs <= 4
    assert not ran.retried, "who hands back what it has costs no attempts"
    assert contents(ran.out) == serial(recipe, photos)


def test_a_remote_worker_that_hangs_ends_itself_and_is_replaced(photos: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    (photos / "red-1.png").unlink()
    with remote(address, photos.parent, "--operators", HARMFUL) as guest:
        ran = Ran(recipe_of("hang_on_red | resize 32x32", "png"), photos, bind=address, timeout=0.5)
        guest.terminate()
        _, said = guest.communicate(timeout=20)
    assert (ran.summary.done, ran.summary.failed) == (22, 1)
    (failed,) = [e for e in ran.events if isinstance(e, Failed)]
    assert failed.result.failure is not None
    assert (failed.result.key, failed.attempt) == ("red-0.png", 3)
    assert failed.result.failure.kind == "ItemTimeout"
    assert set(ran.attempts.values()) == {1}
    assert said.count("another one is started") == 3


def test_the_driver_is_killed_and_its_workers_serve_the_next_one(photos: Path, operators: str) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    out = photos.parent / "out"
    pipeline = "nap 0.1 | resize 32x32"
    options = ("--operators", operators, "--format", "png", "--ledger", photos.parent / "ledger.db")
    command = [
        "run",
        pipeline,
        photos,
        out,
        *options,
        "--engine",
        "zeromq",
        "-j",
        1,
        "--bind",
        address,
        "--items-at-once",
        1,
    ]
    with remote(address, photos.parent, "--operators", operators) as guest:
        first = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        local: list[psutil.Process] = []
        while len(list(out.glob("*.png"))) < 6 and first.poll() is None:
            local = psutil.Process(first.pid).children(recursive=True)
            time.sleep(0.01)
        first.kill()
        first.wait(20)
        published = len(list(out.glob("*.png")))
        assert 0 < published < 24
        _, alive = psutil.wait_procs(local, timeout=10)
        assert local
        assert not alive, "its own workers end with it"
        again = imageloom(*command, "--json")
        assert again.returncode == 0, again.stderr
        assert guest.poll() is None
        guest.terminate()
        assert guest.wait(20) == 0
    assert f'"worker":"{socket.gethostname()}:' in again.stdout.replace('": "', '":"')
    assert contents(out) == serial(slow("nap 0.1", operators), photos)


def test_what_lies_outside_of_a_workers_roots_fails_by_name(photos: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    elsewhere = photos.parent / "elsewhere"
    elsewhere.mkdir()
    with remote(address, elsewhere):
        ran = Ran("flip", photos, bind=address)
    failures = {e.result.failure.kind for e in ran.events if isinstance(e, Failed) if e.result.failure}
    assert failures == {"TaskRefused"}
    assert not contents(ran.out)


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
    assert "knows a client 'client' already" in again.stderr
    with pytest.raises(UsageError, match="no file of a client's keys"):
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
        future = engine.submit(task(photos, photos.parent / "out"))
        with contextlib.ExitStack() as guests:
            for flags in ([], ["--keys", strange / "client.key"], ["--keys", photos.parent / "forged.key"]):
                guests.enter_context(remote(engine.address, photos.parent, *flags))
            time.sleep(2.5)
            assert not future.running()
            assert not future.done()
        with remote(engine.address, photos.parent, "--keys", ours / "client.key"):
            assert future.result(30).results[0].failure is None
    finally:
        engine.close()


def test_beyond_this_machine_keys_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="imageloom keys DIR"):
        Zeromq(Settings(1, bind="tcp://0.0.0.0:5555"))
    refused = imageloom("worker", "--engine", "zeromq", "--connect", "tcp://192.0.2.1:5555", "-j", 1)
    assert refused.returncode == 2
    assert "imageloom keys DIR" in refused.stderr
    with pytest.raises(UsageError, match="no address such as"):
        Zeromq(Settings(1, bind="ipc:///tmp/x"))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StorageError, match=f":{taken.getsockname()[1]}"):
            Zeromq(Settings(1, bind=f"tcp://127.0.0.1:{taken.getsockname()[1]}"))


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
    engine = Zeromq(Settings(1, bind=f"tcp://127.0.0.1:{port}"))
    context = zmq.Context()
    try:
        for number in (port, port + 1):
            for data in (b"\xff" * 10_000, evil, b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000)):
                with socket.create_connection(("127.0.0.1", number), 5) as raw:
                    raw.sendall(data)
            for kind in (zmq.DEALER, zmq.REQ, zmq.XSUB):
                peer = context.socket(kind)
                peer.linger = 500
                peer.connect(f"tcp://127.0.0.1:{number}")
                bodies = [evil, b"", b"\x01" + evil, os.urandom(99), b"\xff" * 99]
                kinds = [b"hello", b"result", b"beat", b"over", b"leave", b"\xff"]
                frames = [[HEADER, k, b] for k in kinds for b in bodies]
                for message in [*frames, [evil], [b""], [b"imageloom/9", b"hello", evil], [HEADER]]:
                    with contextlib.suppress(zmq.ZMQError):  # a REQ waits for an answer
                        peer.send_multipart(message, zmq.NOBLOCK)
                peer.close()
        outcome = engine.submit(task(photos, photos.parent / "out")).result(30)
        assert outcome.results[0].failure is None
    finally:
        context.destroy(500)
        engine.close()
    assert not canary.exists()
    assert "ignored what is no Hello" in caplog.text
    assert "ignored what is no message of this version: b'imageloom/9'" in caplog.text


@contextlib.contextmanager
def dealer(engine: Zeromq) -> Iterator[zmq.Socket[bytes]]:
    """A worker made by hand, with its welcome behind it."""
    context = zmq.Context()
    try:
        peer = context.socket(zmq.DEALER)
        peer.rcvtimeo = 10_000
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
    engine = Zeromq(Settings(0, bind="tcp://127.0.0.1:*"))
    try:
        with dealer(engine) as peer:
            future = engine.submit(task(photos, photos.parent / "out"))
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
    engine = Zeromq(Settings(0, bind="tcp://127.0.0.1:*"))
    context = zmq.Context()
    try:
        peer = context.socket(zmq.DEALER)
        peer.rcvtimeo = 10_000
        peer.connect(engine.address)
        peer.send_multipart([b"imageloom/99", b"hello", b"of a later form"])
        assert peer.recv_multipart()[0] == HEADER
        server = context.socket(zmq.ROUTER)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        with remote(f"tcp://127.0.0.1:{port}", photos) as guest:
            server.rcvtimeo = 20_000
            routing_id = server.recv_multipart()[0]
            server.send_multipart([routing_id, b"imageloom/99", b"unknown", b""])
            assert guest.wait(20) == 2
            assert guest.stderr is not None
            assert "speaks version 99 of the protocol, this worker 1" in guest.stderr.read()
    finally:
        context.destroy(0)
        engine.close()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_processes_with_two_threads(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 200)
    pipeline = "resize 400x400 | median_blur 31"
    ran = Ran(pipeline, tmp_path / "photos", jobs=2, threads=2)
    assert ran.summary.done == 200
    threads = {e.worker for e in ran.events if isinstance(e, Done)}
    assert len(threads) == 4
    assert contents(ran.out) == serial(pipeline, tmp_path / "photos")
