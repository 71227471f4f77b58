"""Watching what is not a local folder, and what the watch itself is made of."""

from __future__ import annotations

import itertools
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from testservers.swift import Swift

from imageloom.driver.run import Driver
from imageloom.driver.watch import MOST_BACKOFF, Watched, changes
from imageloom.driver.watch.changes import Changes
from imageloom.driver.watch.files import is_shared, is_written_to, look
from imageloom.driver.watch.states import InProgress
from imageloom.engines import Settings, open_engine
from imageloom.errors import UnreadableItem, UsageError
from imageloom.model import Failure, Item, Job, Limits, Output, Recipe, Result, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Failed
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.stores import open_store
from imageloom.worker.perform import perform
from places import Bucket, Memory, sftp_server
from program import contents, draw, imageloom, wait_until
from watching import PIPELINE, THREE, Watching, made_of, made_of_one, slow_operator

_numbers = itertools.count()


@pytest.fixture
def place(swift: Swift, s3: None) -> Bucket:
    return Bucket(swift, f"watched{next(_numbers)}")


@pytest.fixture
def sink(swift: Swift, s3: None) -> Bucket:
    return Bucket(swift, f"made{next(_numbers)}")


def workers_of(watch: Watching) -> list[psutil.Process]:
    """What its fork server has made."""
    watcher = psutil.Process(watch.running.pid)
    return [child for child in watcher.children(recursive=True) if child.ppid() != watcher.pid]


def test_one_image_in_a_bucket_becomes_three_although_workers_are_killed(
    place: Bucket, sink: Bucket, tmp_path: Path
) -> None:
    data = draw(tmp_path / "photo" / "1.jpg").read_bytes()
    slow = ("--output", "same=slow", "--operators", slow_operator(tmp_path), "--sandbox", "off")
    flags = ("--engine", "redis", "-j", "2", "--poll", "0.2")
    with Watching(*THREE, *slow, place.address, sink.address, *flags) as watch:
        place.put("new/1.jpg", data)
        watch.wait_for("new/1.jpg", kind="planned")
        wait_until((tmp_path / "slow.begun").exists)
        killed = workers_of(watch)
        for worker in killed:
            worker.kill()
        watch.wait_for("new/1.jpg")
        assert watch.end() == 0
        assert len(killed) == 2
        assert [event["attempt"] for event in watch.events("done")] == [2]
    assert imageloom("run", *THREE, tmp_path / "photo", tmp_path / "out").returncode == 0
    expected = {key.replace("/", "/new/"): made for key, made in contents(tmp_path / "out").items()}
    made = sink.contents()
    assert made.pop("same/new/1.jpg")
    assert made == expected


def test_objects_that_come_are_replaced_and_go(place: Bucket, sink: Bucket, tmp_path: Path) -> None:
    one, two = (draw(tmp_path / "in" / f"{seed}.jpg", seed).read_bytes() for seed in (1, 2))
    flags = (PIPELINE, place.address, sink.address, "--engine", "threads", "--poll", "0.2")
    place.put("1.jpg", one)
    with Watching(*flags) as watch:
        watch.wait_for("1.jpg")
        place.put("2.jpg", one)
        place.put("folder/3.jpg", two)
        watch.wait_for("2.jpg", "folder/3.jpg")
        place.put("2.jpg", two)
        watch.wait_for("2.jpg", times=2)
        place.put("bad.jpg", one[:200])
        watch.wait_for("bad.jpg", kind="failed")
        for later in ("4.jpg", "5.jpg"):  # it is listed again, with them
            place.put(later, two)
            watch.wait_for(later)
        assert watch.end() == 0
        assert len(watch.events("done")) == 6
        assert len(watch.events("failed")) == 1
    place.put("1.jpg", two)
    with Watching(*flags, "--until-idle", 0) as watch:
        assert watch.code() == 1
        assert watch.items("done") == ["1.jpg"]
    expected = made_of_one(two, "x.jpg", tmp_path)
    keys = ("1.jpg", "2.jpg", "folder/3.jpg", "4.jpg", "5.jpg")
    assert sink.contents() == dict.fromkeys(keys, expected)


def test_an_sftp_folder_is_polled_and_uploads_are_waited_for(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSSPEC_SFTP_PASSWORD", "secret")
    inbox = tmp_path / "served" / "inbox"
    draw(inbox / "old.jpg")
    os.utime(inbox / "old.jpg", (1e9, 1e9))
    data = draw(tmp_path / "photo.jpg", 3).read_bytes()
    with (
        sftp_server(tmp_path / "served") as port,
        Watching(PIPELINE, f"sftp://me@127.0.0.1:{port}/inbox", out, "--poll", "0.3") as watch,
    ):
        watch.wait_for("old.jpg")
        for start in range(0, len(data), 1 + len(data) // 3):
            with open(inbox / "new.jpg", "ab") as file:
                file.write(data[start : start + 1 + len(data) // 3])
            time.sleep(0.9)
        watch.wait_for("new.jpg")
        assert watch.end() == 0
        assert sorted(watch.items("done")) == ["new.jpg", "old.jpg"]
        assert watch.events("failed") == []
    assert contents(out) == made_of(inbox, tmp_path)


def run_until_idle(source: Watched, sink: Path | str, tmp_path: Path, pipeline: str = PIPELINE) -> Summary:
    job = Job(source.root, str(sink), Recipe((Output(Pipeline.parse(pipeline).steps),)))
    with closing(open_engine("threads", Settings(2))) as engine, Ledger(tmp_path / "l.db") as ledger:
        return Driver(job, engine, ledger, "threads", [source], source).run()


def test_from_a_folder_into_a_bucket(photos: Path, tmp_path: Path) -> None:
    place = Memory("watch-sink")
    open_store.cache_clear()
    assert run_until_idle(Watched(str(photos), until_idle=0), place.address, tmp_path).done == 6
    assert place.contents() == made_of(photos, tmp_path)


def test_a_worker_puts_nothing_of_a_file_that_is_not_the_one_that_was_planned(photos: Path) -> None:
    """What a worker puts is visible at once where the sink is no folder: it looks before."""
    place = Memory("steady")
    open_store.cache_clear()
    store = open_store(str(photos))
    now = store.find("1.jpg")
    assert now is not None
    works = (
        Work(Item("1.jpg", now.size, now.mtime_ns - 1), ("old.jpg",), 1),
        Work(now, ("now.jpg",), 2),
        Work(Item("1.jpg", now.size + 1, now.mtime_ns), ("other.jpg",), 3),
    )
    recipe = Recipe((Output(()),))
    outcome = perform(Task(1, "1", str(photos), place.address, recipe, Limits(), works))
    kinds = [result.failure.kind if result.failure else "" for result in outcome.results]
    assert kinds == ["UnreadableItem", "", "UnreadableItem"]
    assert place.contents().keys() == {"now.jpg"}


def test_what_a_store_has_lost_is_tried_again_later_and_not_at_once(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.driver.watch.BACKOFF", 0.5)
    monkeypatch.setattr("imageloom.driver.window.FIRST_PAUSE", 0.01)
    out.mkdir()
    (out / "a").write_bytes(b"in the way of a folder")
    threading.Timer(1.0, (out / "a").unlink).start()
    summary = run_until_idle(Watched(str(photos), poll=0.05, until_idle=1.2), out, tmp_path)
    assert summary.done == 6
    assert 2 <= summary.failed <= 6
    assert contents(out) == made_of(photos, tmp_path)


def test_a_file_that_cannot_be_read_for_months_is_tried_once_an_hour(photos: Path) -> None:
    watched = Watched(str(photos))
    failed = Failed(Result("1.jpg", failure=Failure.of(UnreadableItem("the disk is bad"))), 1, "")
    for _ in range(1100):
        watched._out["1.jpg"] = InProgress("", 0.0)
        watched(failed)
    assert watched._due_at["1.jpg"] <= time.monotonic() + MOST_BACKOFF


def test_a_watched_source_is_a_folder(photos: Path) -> None:
    with pytest.raises(UsageError, match="is a file"):
        Watched(str(photos / "1.jpg"))


# Its parts


def test_a_writer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(b"x")
    assert is_written_to(str(path)) is False
    with open(path, "ab"):
        assert is_written_to(str(path)) is True
    with open(path, "rb"):
        assert is_written_to(str(path)) is False
    assert is_written_to(str(tmp_path / "nothing")) is None


def test_a_writer_that_comes_while_it_is_looked_at_is_not_killed_nor_kills(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(b"x")
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with open(path, "ab", buffering=0) as file:
                file.write(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until = time.monotonic() + 1
        found = {is_written_to(str(path)) for _ in iter(lambda: time.monotonic() < until, False)}
    finally:
        over.set()
        writer.join()
    assert found == {True, False}


def test_what_lies_under_a_key(tmp_path: Path) -> None:
    root = os.path.realpath(tmp_path / "in")
    draw(Path(root, "a", "1.jpg"))
    Path(root, "link").symlink_to("a")
    os.mkfifo(Path(root, "fifo.jpg"))
    entry, changed = look(root, "a/1.jpg") or (None, 0.0)
    assert isinstance(entry, Item)
    assert abs(changed - time.time()) < 60
    assert look(root, "link/1.jpg") is None
    assert look(root, "a") is None
    assert look(root, "a/1.jpg/2.jpg") is None
    assert look(root, "nothing.jpg") is None
    assert not isinstance((look(root, "fifo.jpg") or (None,))[0], (Item, type(None)))
    assert not is_shared(root)


def test_changes_that_are_too_many_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MOST_HELD", 20)
    woken = threading.Event()
    watched = Changes(str(tmp_path), woken.set)
    try:
        for number in range(5):
            (tmp_path / f"{number}").touch()
        assert woken.wait(60)
        found: set[str] = set()

        def all_are_told() -> bool:
            found.update(watched.take() or [])
            return len(found) == 5

        wait_until(all_are_told)
        assert sorted(found) == [str(tmp_path / f"{number}") for number in range(5)]
        for number in range(100):
            (tmp_path / f"{number}").touch()
        wait_until(lambda: watched._are_too_many)
        assert watched.take() is None
        (tmp_path / "last").touch()
        wait_until(lambda: str(tmp_path / "last") in (watched.take() or []))
        assert not watched.have_ended
        tmp_path.rename(tmp_path.with_name("other"))
        tmp_path.mkdir()
        assert watched.have_ended
    finally:
        watched.close()
