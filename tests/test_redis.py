"""Engine redis: real servers, real workers, killed, stopped, flushed and fed with junk."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.driver.run import Driver
from imageloom.engines import Settings, open_engine
from imageloom.engines.redis import wire as redis_wire
from imageloom.engines.redis.engine import RedisStreams
from imageloom.engines.redis.wire import DEAD, STREAMS
from imageloom.model import Item, Job, Limits, Task, Work
from imageloom.records.events import Done, Event, Failed, Retried
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.testing.engines import contents, recipe_of
from program import imageloom, start, wait_until
from redis_servers import GivenServer, Workers, slow_photos

SLOW = "resize 400x400 | median_blur 31"
COUNT = 60
LEASE = 0.4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GivenServer]:
    given = GivenServer(tmp_path / "server")
    yield given
    given.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("redis") / "photos"
    draw_photos(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def undisturbed(many: Path) -> dict[str, bytes]:
    process(SLOW, many, many.parent / "out", engine="serial", ledger=many.parent / "ledger.db")
    return contents(many.parent / "out")


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_wire, "LEASE", LEASE)


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def drive(
    photos: Path,
    out: Path,
    do: Callable[[int, RedisStreams], None],
    url: str = "",
    jobs: int = 2,
    text: str = SLOW,
) -> tuple[Summary, list[Event]]:
    """A run that is told of each item that is done, by their count so far."""
    events: list[Event] = []
    engine = open_engine("redis", Settings(jobs, timeout=20.0, connect=url))
    assert isinstance(engine, RedisStreams)

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Done):
            do(sum(isinstance(e, Done) for e in events), engine)

    try:
        with Ledger(out.with_suffix(".db")) as ledger:
            job = Job(str(photos), str(out), recipe_of(text))
            summary = Driver(job, engine, ledger, "redis", [listen]).run()
    finally:
        engine.close()
    return summary, events


def check(summary: Summary, events: list[Event], out: Path, undisturbed: dict[str, bytes]) -> None:
    assert (summary.done, summary.failed) == (len(undisturbed), 0)
    assert contents(out) == undisturbed
    assert max(Counter(e.result.key for e in events if isinstance(e, Done)).values()) == 1


# Deaths


def test_killed_workers_lose_one_item_each(many: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    killed: list[int] = []

    def kill(count: int, engine: RedisStreams) -> None:
        if count in (10, 25) and engine.transport.fleet:
            killed.append(next(pid for pid in engine.transport.fleet.pids if pid not in killed))
            os.kill(killed[-1], signal.SIGKILL)

    summary, events = drive(many, tmp_path / "out", kill)
    check(summary, events, tmp_path / "out", undisturbed)
    retried = [e for e in events if isinstance(e, Retried)]
    assert len(killed) == 2
    assert len(retried) <= 2
    assert all(e.result.failure and "SIGKILL" in e.result.failure.message for e in retried)


def test_the_embedded_server_is_killed_and_comes_back(
    many: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    killed: list[int] = []

    def kill(count: int, engine: RedisStreams) -> None:
        due, server = count >= (8, 25, 1 << 30)[len(killed)], engine.transport.server
        if due and server and server.pid not in killed:  # the second one is there
            killed.append(server.pid)
            os.kill(server.pid, signal.SIGKILL)

    summary, events = drive(many, tmp_path / "out", kill)
    check(summary, events, tmp_path / "out", undisturbed)
    assert len(set(killed)) == 2
    assert not [e for e in events if isinstance(e, Retried)], "a server's death is no item's failure"


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_a_given_server_is_killed_and_started_again(
    fsync: str, many: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    server = GivenServer(tmp_path / "server", fsync)
    starts: list[threading.Timer] = []

    def kill(count: int, engine: RedisStreams) -> None:
        if count in (8, 30):
            all_started()
            server.kill()
            starts.append(threading.Timer(0.3, server.start))
            starts[-1].start()

    def all_started() -> None:
        for timer in starts:
            timer.join()

    try:
        summary, events = drive(many, tmp_path / "out", kill, server.url)
        all_started()
        check(summary, events, tmp_path / "out", undisturbed)
        assert not [e for e in events if isinstance(e, Retried)]
        assert server.client.keys() == []
    finally:
        all_started()
        server.close()


def test_the_driver_is_killed_and_the_next_run_goes_on(
    many: Path, tmp_path: Path, undisturbed: dict[str, bytes], server: GivenServer
) -> None:
    out = tmp_path / "out"
    command = ["run", SLOW, many, out, "--engine", "redis", *server.place, "-j", "2"]
    first = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(out.glob("*.jpg"))) > 5)
    first.kill()
    first.wait()
    done = len(list(out.glob("*.jpg")))
    again = imageloom(*command)
    assert again.returncode == 0, again.stderr
    assert "failed:" not in again.stderr
    assert 0 < done < COUNT
    assert f"of {COUNT} done" in again.stdout
    assert contents(out) == undisturbed
    assert all(server.client.pttl(key) > 0 for key in server.client.scan_iter()), (
        "its leftovers go by themselves"
    )


def test_an_embedded_server_dies_with_its_driver(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    driver = start("run", SLOW, many, out, "--engine", "redis", "-j", "2", stdout=subprocess.DEVNULL)
    wait_until(lambda: any(out.glob("*.jpg")))
    family = psutil.Process(driver.pid).children(recursive=True)
    (server,) = [process for process in family if process.name() == "valkey-server"]
    driver.kill()
    driver.wait()
    wait_until(lambda: not server.is_running())


def test_what_fails_in_planning_is_a_dead_letter(tmp_path: Path, server: GivenServer) -> None:
    """No worker has seen these items, and there is not one task."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "empty.jpg").touch()
    (tmp_path / "photos" / "link.jpg").symlink_to("nowhere")
    summary, _ = drive(tmp_path / "photos", tmp_path / "out", lambda *_: None, server.url)
    assert (summary.done, summary.failed) == (0, 2)
    listed = imageloom("dead", "list", *server.place).stdout
    assert "empty.jpg  CorruptImage: " in listed
    assert "link.jpg  UnreadableItem: it is a broken symbolic link" in listed
    assert f"{tmp_path}/photos -> {tmp_path}/out" in listed


def test_a_poison_item_is_given_up_and_no_other_suffers(tmp_path: Path, server: GivenServer) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    draw_photos(photos, 22)
    import cv2
    import numpy as np

    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    cv2.imwrite(str(photos / "red.png"), red)
    summary, events = drive(photos, out, lambda *_: None, server.url, text="crash_on_red | resize 32x32")
    assert (summary.done, summary.failed) == (22, 1)
    assert {e.result.key for e in events if isinstance(e, Retried)} == {"red.png"}
    (failed,) = [e for e in events if isinstance(e, Failed)]
    assert failed.result.failure
    assert (failed.attempt, failed.result.failure.kind) == (3, "WorkerLost")
    assert "SIGSEGV" in failed.result.failure.message

    listed = imageloom("dead", "list", *server.place)
    assert "red.png  WorkerLost: its worker died: killed by SIGSEGV (attempt 3)" in listed.stdout
    assert str(out) in listed.stdout
    assert len(listed.stdout.splitlines()) == 1
    assert (
        "no dead letter for the item blue.png" in imageloom("dead", "drop", *server.place, "blue.png").stderr
    )
    retried = imageloom("dead", "retry", *server.place, "red.png")
    assert f"{photos} {out} --retry-failed" in retried.stdout
    assert server.client.keys() == []
    again = imageloom(
        "run", "resize 32x32", photos, out, "--retry-failed", "--ledger", out.with_suffix(".db")
    )
    assert "1 of 23 done" in again.stdout, again.stderr
    server.client.xadd(DEAD, {"junk": pickle.dumps(print)})
    assert imageloom("dead", "list", *server.place).stdout == ""


def test_an_item_that_hangs_is_ended(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    draw_photos(photos, 6)
    import cv2
    import numpy as np

    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 2] = 255
    cv2.imwrite(str(photos / "0.png"), red)
    events: list[Event] = []
    recipe = recipe_of("hang_on_red | resize 32x32")
    options: dict[str, Any] = {"engine": "redis", "jobs": 2, "timeout": 0.5, "ledger": tmp_path / "l.db"}
    summary = process(recipe, photos, tmp_path / "out", listeners=[events.append], **options)
    assert (summary.done, summary.failed) == (6, 1)
    (failed,) = [e for e in events if isinstance(e, Failed)]
    assert failed.result.failure
    assert (failed.attempt, failed.result.failure.kind) == (3, "ItemTimeout")
    assert {e.result.key for e in events if isinstance(e, Retried)} == {"0.png"}


# Leases


LONG = "toil 6"


@pytest.mark.usefixtures("short_lease")
def test_a_task_of_ten_leases_runs_once(tmp_path: Path) -> None:
    photos = slow_photos(tmp_path / "photos", 1)
    began = time.monotonic()
    summary, events = drive(photos, tmp_path / "out", lambda *_: None, jobs=1, text=LONG)
    assert summary.done == 1
    assert not [e for e in events if isinstance(e, Retried)]
    (done,) = [e for e in events if isinstance(e, Done)]
    assert done.attempt == 1
    assert time.monotonic() - began > done.result.times.total > 10 * LEASE, "it is no test otherwise"


@pytest.mark.usefixtures("short_lease")
def test_a_worker_that_was_stopped_is_too_late(tmp_path: Path, server: GivenServer, workers: Workers) -> None:
    photos, out = slow_photos(tmp_path / "photos", 1), tmp_path / "out"
    first = workers.start(server.url, tmp_path, "-j", "1")
    stopped: list[int] = []

    def stop() -> None:
        wait_until(lambda: has_begun(server))
        stopped.append(int(held_by(server)[0].split("/")[1]))
        os.kill(stopped[0], signal.SIGSTOP)
        workers.start(server.url, tmp_path, "-j", "1")
        wait_until(lambda: held_by(server) and f"/{stopped[0]}/" not in held_by(server)[0])
        os.kill(stopped[0], signal.SIGCONT)

    thread = threading.Thread(target=stop)
    thread.start()
    summary, events = drive(photos, out, lambda *_: None, server.url, jobs=0, text=LONG)
    thread.join()
    assert first.poll() is None
    assert summary.done == 1
    (retried,) = [e for e in events if isinstance(e, Retried)]
    assert retried.result.failure
    assert "did not renew its lease" in retried.result.failure.message
    (done,) = [e for e in events if isinstance(e, Done)]
    assert done.attempt == 2
    assert f"/{stopped[0]}/" not in done.worker
    assert [path.name for path in out.iterdir()] == ["0.png"]


def has_begun(server: GivenServer) -> bool:
    """Whether a worker has ever told a driver that it has begun something."""
    keys = list(server.client.scan_iter("imageloom:results:*"))
    return bool(keys and server.client.xinfo_stream(keys[0])["entries-added"])


def held_by(server: GivenServer) -> list[str]:
    """The names of those who have something in hand."""
    try:
        found = server.client.xpending_range(STREAMS["worker"], "imageloom", "-", "+", 10)
    except Exception:
        return []
    return [one["consumer"].decode() for one in found]


# What the server forgets


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("how", ["flushed", "group", "key", "trimmed"])
def test_what_the_server_forgets_is_put_in_again(
    how: str, many: Path, tmp_path: Path, undisturbed: dict[str, bytes], server: GivenServer
) -> None:
    stream = STREAMS["worker"]
    ways: dict[str, Callable[[], object]] = {
        "flushed": server.client.flushdb,
        "group": lambda: server.client.xgroup_destroy(stream, "imageloom"),
        "key": lambda: server.client.delete(stream),
        "trimmed": lambda: server.client.xtrim(stream, maxlen=0, approximate=False),
    }
    forget = ways[how]

    def listen(count: int, engine: RedisStreams) -> None:
        if count in (10, 30):
            forget()

    summary, events = drive(many, tmp_path / "out", listen, server.url)
    check(summary, events, tmp_path / "out", undisturbed)
    assert not [e for e in events if isinstance(e, Retried)]


def test_junk_is_dropped(
    many: Path, tmp_path: Path, undisturbed: dict[str, bytes], server: GivenServer, workers: Workers
) -> None:
    canary = tmp_path / "canary"

    class Canary:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(canary),)

    def feed(count: int, engine: RedisStreams) -> None:
        if count % 10 == 0:
            for key in (*STREAMS.values(), redis_wire.results_key(engine.transport.run)):
                for junk in (pickle.dumps(Canary()), os.urandom(300), b"", b"\xc1", b"\x80"):
                    server.client.xadd(key, {"data": junk})
                server.client.xadd(key, {b"\xff": b"\xff"})

    workers.start(server.url, tmp_path.parent)
    summary, events = drive(many, tmp_path / "out", feed, server.url, jobs=1)
    check(summary, events, tmp_path / "out", undisturbed)
    assert not canary.exists()
    wait_until(lambda: all(server.client.xlen(stream) == 0 for stream in STREAMS.values()))


# The streams hold a window


def empty_task(number: int, folder: Path) -> Task:
    work = Work(Item("0.jpg"), ("0.jpg",), number)
    return Task(number, "1", str(folder), str(folder), recipe_of("invert"), Limits(), (work,))


def test_the_streams_hold_a_window_of_the_job(tmp_path: Path, server: GivenServer) -> None:
    """5,000 tasks that are over at once, on an empty file, are submitted at once."""
    (tmp_path / "0.jpg").touch()
    engine = open_engine("redis", Settings(2, connect=server.url))
    longest = 0
    try:
        futures = [engine.submit(empty_task(number, tmp_path)) for number in range(5000)]
        while not all(future.done() for future in futures):
            keys = [key for key in server.client.scan_iter() if server.client.type(key) == b"stream"]
            longest = max([longest, *(server.client.xlen(key) for key in keys)])
            time.sleep(0.02)
        assert {future.result().results[0].written for future in futures} == {()}
    finally:
        engine.close()
    assert 0 < longest <= 200
    assert server.client.keys() == []
