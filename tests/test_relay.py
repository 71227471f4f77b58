"""--relay: workers that share no storage with the run reach its source and its sink through its driver."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from random import Random

import numpy as np
import pytest

from imageloom.chaos.proxy import Proxy
from imageloom.engines import Engine
from imageloom.errors import (
    ItemError,
    LimitExceeded,
    StorageError,
    TaskRefused,
    UnreadableItem,
    UnwritableOutput,
)
from imageloom.model import Item, Job, Limits, Outcome, Recipe, Relay, Task, Work
from imageloom.service.relay import connections
from imageloom.service.relay.engine import RelayEngine
from imageloom.service.relay.hosting import relayed
from imageloom.stores import relay as relay_store
from imageloom.stores.local import LocalStore
from imageloom.stores.names import STAGING, new_token
from imageloom.stores.relay import CHECKSUM, PIECE, RelayStore, checksum
from program import draw, free_port, imageloom, start, wait_until

MUCH = 1 << 30


class Held(Engine):
    """An engine that keeps its tasks."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.futures: list[Future[Outcome]] = []

    @property
    def capacity(self) -> int:
        return 1

    def submit(self, task: Task) -> Future[Outcome]:
        self.tasks.append(task)
        self.futures.append(Future())
        return self.futures[-1]

    def close(self) -> None:
        return


class Site:
    """A relay with one task in flight: job 1, item 2, attempt 3, with two outputs."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.out = folder / "photos", folder / "out"
        self.photos.mkdir(parents=True)
        (folder / "secret").write_bytes(b"secret")
        self.sink = LocalStore(str(self.out))
        self.sink.prepare()
        self.held = Held()
        self.port = free_port()
        self._stores: list[RelayStore] = []

    @contextlib.contextmanager
    def served(self) -> Iterator[Site]:
        job = Job(str(self.photos), str(self.out), Recipe(()))
        with relayed(job, self.held, f"127.0.0.1:{self.port}") as engine:
            self.engine: RelayEngine = engine
            work = (Work(Item("1.jpg"), ("a.jpg", "b.jpg"), number=2, attempt=3),)
            engine.submit(Task(0, "1", job.source, job.sink, job.recipe, Limits(), work))
            yield self
        for store in self._stores:
            store.close()
        self.sink.tidy()

    @property
    def relay(self) -> Relay:
        found = self.held.tasks[0].relay
        assert found
        return found

    def store(self, base: str, port: int = 0, relay: Relay | None = None) -> RelayStore:
        store = RelayStore(f"relay://127.0.0.1:{port or self.port}/{base}", relay or self.relay)
        self._stores.append(store)
        return store

    def ask(
        self, method: str, target: str, body: bytes = b"", token: str | None = None, crc: str = "00000000"
    ) -> int:
        """The status of the answer to a request of one's own."""
        plain = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=plain)
        with contextlib.closing(connection):
            given = {"Authorization": f"Bearer {self.relay.token if token is None else token}", CHECKSUM: crc}
            connection.request(method, target, body or None, given)
            return connection.getresponse().status


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path).served() as site:
        yield site


def test_a_worker_elsewhere_needs_nothing_but_the_network(tmp_path: Path) -> None:
    for number in range(6):
        draw(tmp_path / "photos" / f"{number}.jpg", number)
    (tmp_path / "elsewhere").mkdir()
    assert not imageloom("keys", tmp_path / "keys").returncode
    driver, relay = f"tcp://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    place = ("--engine", "zeromq", "--connect", driver, "--keys", tmp_path / "keys" / "client.key")
    worker = start(
        "worker", *place, "--root", f"relay://{relay}", "-j1", "--once", cwd=tmp_path / "elsewhere"
    )
    try:
        run = ("run", "resize 50%", tmp_path / "photos", tmp_path / "out", "--ledger", tmp_path / "ledger.db")
        flags = ("--engine", "zeromq", "--bind", driver, "--keys", tmp_path / "keys" / "server.key")
        done = imageloom(*run, *flags, "--relay", relay)
        assert done.returncode == 0, done.stderr
        assert f"start workers with --root relay://{relay}" in done.stderr
        assert worker.wait(20) == 0
    finally:
        worker.kill()
        worker.wait()
    imageloom("run", "resize 50%", tmp_path / "photos", tmp_path / "same", "--ledger", tmp_path / "ledger.db")
    outputs = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("out", "same")]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 6
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
def test_the_engines_of_this_machine_use_it_too(tmp_path: Path, engine: str) -> None:
    draw(tmp_path / "photos" / "a" / "1.jpg", 1)
    (tmp_path / "photos" / "2.jpg").write_bytes(b"\xff\xd8\xff")
    run = ("run", "resize 50%", tmp_path / "photos", tmp_path / "out", "--ledger", tmp_path / "ledger.db")
    done = imageloom(*run, "--engine", engine, "-j2", "--relay", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1, done.stderr
    assert "1 of 2 done, 1 failed" in done.stdout
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["1.jpg"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photos", "s3://bucket/out", "--relay", "127.0.0.1:7443"], "by themselves"),
        (["photos", "out", "--relay", "7443"], "give HOST:PORT"),
        (["photos", "out", "--relay", "127.0.0.1:0"], "give HOST:PORT"),
        (["photos", "out", "--relay", "127.0.0.1:7443", "--format", "zarr"], "zarr"),
        (["photos", "out", "--relay", "127.0.0.1:7443", "--tile", "always"], "--tile always"),
    ],
)
def test_what_a_relay_cannot_do_is_said_before_the_work(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    draw(tmp_path / "photos" / "1.jpg")
    done = imageloom("run", "resize 50%", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


# What a worker reads and writes


def test_files_are_read_in_pieces(site: Site, tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(2 * PIECE + 777)
    (site.photos / "a b#?%20é.bin").write_bytes(data)
    store, key = site.store("source"), "a b#?%20é.bin"
    found = os.stat(site.photos / key)
    planned = Item(key, found.st_size, found.st_mtime_ns)
    assert store.read(key, MUCH, planned) == data
    assert store.head(key, 10, PIECE) == data[PIECE : PIECE + 10]
    store.fetch(key, str(tmp_path / "copy"), MUCH)
    assert (tmp_path / "copy").read_bytes() == data
    assert (store.size(key), store.exists("no")) == (len(data), False)
    with pytest.raises(LimitExceeded, match="--max-file-size"):
        store.read(key, len(data) - 1)
    (site.photos / key).write_bytes(data[:-1])
    with pytest.raises(UnreadableItem, match="differs from the one that was planned"):
        store.read(key, MUCH, planned)
    (site.photos / "empty").touch()
    assert store.read("empty", MUCH) == b""


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 2 * PIECE + 5])
def test_an_output_arrives_whole(site: Site, size: int) -> None:
    data, token = np.random.default_rng(size).bytes(size), f"{new_token('1', 2, 3)}-0"
    store = site.store("sink")
    store.stage(token, data)
    store.commit(token, "a.jpg", "maker", False)
    assert (site.out / STAGING / token).read_bytes() == data
    store.discard(token)
    assert not (site.out / STAGING / token).exists()


def test_a_connection_that_breaks_costs_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent again: reading and writing a piece twice has the effect of once."""
    data, token = np.random.default_rng(3).bytes(PIECE + 99), f"{new_token('1', 2, 3)}-1"
    (site.photos / "1.bin").write_bytes(data)
    proxy = Proxy(("127.0.0.1", 0), ("127.0.0.1", site.port))
    with contextlib.closing(proxy):
        source, sink = (site.store(base, proxy.address[1]) for base in ("source", "sink"))  # type: ignore[arg-type]
        assert source.head("1.bin", 1) == data[:1]
        assert proxy.cut(Random(1))
        assert source.read("1.bin", MUCH) == data
        sink.stage(token, data)
        cutting = threading.Thread(target=wait_until, args=(lambda: proxy.cut(Random(2)),))
        cutting.start()
        sink.commit(token, "b.jpg", "maker", False)
        cutting.join()
    assert (site.out / STAGING / token).read_bytes() == data
    monkeypatch.setattr(relay_store, "PATIENCE", 0.2)
    sink.stage(token, data)
    with pytest.raises(UnwritableOutput, match="cannot reach the driver"):
        sink.commit(token, "b.jpg", "maker", False)


def test_another_driver_at_the_address_is_noticed(site: Site, tmp_path: Path) -> None:
    with Site(tmp_path / "other").served() as other, pytest.raises(UnreadableItem, match="another key"):
        site.store("source", other.port).read("1.bin", MUCH)


# What strangers and liars send


def test_without_the_token_nothing_is_read_and_nothing_written(site: Site) -> None:
    (site.photos / "1.bin").write_bytes(b"x")
    token = f"{new_token('1', 2, 3)}-0"
    for wrong in ("", "wrong", site.relay.token + "x", site.relay.token[:-1]):
        assert site.ask("GET", "/source/1.bin?at=0&length=9", token=wrong) == 401
        assert site.ask("PUT", f"/sink/{token}?at=0&total=0", token=wrong) == 401
    assert site.ask("GET", "/source/1.bin?at=0&length=9") == 200
    with pytest.raises(TaskRefused, match="its run has ended"):
        site.store("source", relay=Relay("wrong", site.relay.certificate)).read("1.bin", MUCH)


@pytest.mark.parametrize(
    "path",
    ["../secret", "..%2fsecret", "%2e%2e/secret", "a/../../secret", "/etc/passwd", "%2fetc%2fpasswd", "link",
     "folder", "pipe", "1.bin%00", "//1.bin", "a%0ab"],
)  # fmt: skip
def test_nothing_outside_of_the_source_is_read(site: Site, path: str) -> None:
    os.mkfifo(site.photos / "pipe")
    (site.photos / "folder").mkdir()
    (site.photos / "link").symlink_to("missing")
    assert site.ask("GET", f"/source/{path}?at=0&length=9") in (404, 409)


@pytest.mark.parametrize("links", ["inside", "refuse"])
def test_links_are_followed_as_the_run_says(tmp_path: Path, links: str) -> None:
    site = Site(tmp_path)
    (site.photos / "out").symlink_to(tmp_path / "secret")
    job = Job(str(site.photos), str(site.out), Recipe(()), links=links)  # type: ignore[arg-type]
    with relayed(job, site.held, f"127.0.0.1:{site.port}") as engine:
        engine.submit(Task(0, "1", job.source, job.sink, job.recipe, Limits(), ()))
        with pytest.raises(UnreadableItem):
            site.store("source").read("out", MUCH)
    site.sink.tidy()


HEX = "0" * 12


@pytest.mark.parametrize(
    "token",
    [f"1-2-3-{HEX}-2", f"1-2-4-{HEX}-0", f"1-3-3-{HEX}-0", f"2-2-3-{HEX}-0", f"1-2-3-{HEX}", f"1-2-3-{HEX}-0.old",
     "..", "%2e%2e%2fx", f"..%2f1-2-3-{HEX}-0", "0-0-0-000000000000", f"1-2-3-{HEX}-0-file", "x" * 4000],
)  # fmt: skip
def test_only_outputs_of_tasks_in_flight_are_written(site: Site, token: str) -> None:
    before = sorted(site.out.rglob("*"))
    assert site.ask("PUT", f"/sink/{token}?at=0&total=0") in (404, 409)
    assert site.ask("DELETE", f"/sink/{token}") in (404, 409)
    assert sorted(site.out.rglob("*")) == before


def test_a_task_that_has_ended_gets_no_more_outputs(site: Site) -> None:
    store, token = site.store("sink"), f"{new_token('1', 2, 3)}-0"
    site.held.futures[0].set_result(Outcome(0, "w", ()))
    store.stage(token, b"late")
    with pytest.raises(TaskRefused, match="the task has ended"):
        store.commit(token, "a.jpg", "maker", False)


@pytest.mark.parametrize(
    "query",
    [
        "at=1&total=1",
        "at=0&total=0",
        "at=0&total=99999999999999999",
        "at=-1&total=1",
        "at=x&total=1",
        "total=1",
        "at=0",
    ],
)
def test_pieces_that_do_not_fit_are_refused(site: Site, query: str) -> None:
    token = f"{new_token('1', 2, 3)}-0"
    assert site.ask("PUT", f"/sink/{token}?{query}", b"x", crc=checksum(b"x")) == 409
    assert not (site.out / STAGING / token).exists()


def test_an_output_is_sent_a_few_times_only(site: Site) -> None:
    store = site.store("sink")
    with pytest.raises(TaskRefused, match="too often"):  # noqa: PT012 one of them
        for _ in range(20):
            token = f"{new_token('1', 2, 3)}-0"
            store.stage(token, b"x")
            store.commit(token, "a.jpg", "maker", False)


def test_a_damaged_or_endless_piece_is_refused(site: Site) -> None:
    token = f"{new_token('1', 2, 3)}-0"
    assert site.ask("PUT", f"/sink/{token}?at=0&total=1", b"x") == 409
    body = bytes(PIECE + 1)
    with contextlib.suppress(OSError):  # it is cut off while it is sent
        assert (
            site.ask(
                "PUT",
                f"/sink/{token}?at=0&total={len(body)}",
                body,
                crc=checksum(body),
            )
            == 409
        )
    assert not (site.out / STAGING / token).exists()


def test_silent_connections_make_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many as there is room for: the worker that has shown the token stays connected."""
    monkeypatch.setattr(connections, "MOST", 20)
    (site.photos / "1.bin").write_bytes(b"x")
    store = site.store("source")
    assert store.read("1.bin", MUCH) == b"x"
    (mine,) = (one.sock for one in store._idle)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
            assert store.read("1.bin", MUCH) == b"x"
        assert site.store("source").read("1.bin", MUCH) == b"x"
    assert [one.sock for one in store._idle] == [mine]


def test_an_address_that_is_in_use_is_said(site: Site) -> None:
    job = Job(str(site.photos), str(site.out), Recipe(()))
    with (
        pytest.raises(StorageError, match=r"cannot listen on .* \(--relay\)"),
        relayed(job, site.held, f"127.0.0.1:{site.port}"),
    ):
        pass


def test_a_relay_is_no_source_or_sink_of_a_run(site: Site) -> None:
    store = site.store("source")
    for wrong in (lambda: list(store.items()), lambda: store.prepare(""), lambda: store.publish("t", "k")):
        with pytest.raises(StorageError, match="for the workers of one run"):
            wrong()
    for address in ("relay://127.0.0.1/source", "relay://127.0.0.1:1/other", "relay://:1/sink"):
        with pytest.raises(TaskRefused, match="not the address of a relay"):
            RelayStore(address, site.relay)
    with pytest.raises(ItemError, match="certificate"):
        RelayStore("relay://127.0.0.1:1/sink", Relay("t", "no certificate"))


def test_its_server_ends_with_the_run(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.served():
        assert site.ask("GET", "/source/no?at=0&length=1") == 409
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "relay"])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", site.port))
