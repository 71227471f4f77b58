"""Jobs of the service: what people decide about them, and their items."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from imageloom.engines import Capabilities, Engine
from imageloom.errors import StorageError, UnknownName, UnsupportedImage, UsageError, WrongState
from imageloom.model import Failure, Item, Limits, Outcome, Recipe, Result, Task, page_key
from imageloom.records.events import Failed
from imageloom.service.feed import MOST_KEPT, Feed
from imageloom.service.flowjob import FlowJob
from imageloom.service.flows import Rules
from imageloom.service.steering import SteeredWatch
from imageloom.service.turns import FlowEngine, Turns
from imageloom.worker.guard import Guard
from program import draw, names, wait_until
from serving import ended, flow_of, service_of


def _photos(folder: Path, count: int) -> None:
    for number in range(count):
        draw(folder / f"{number:03}.jpg", number, 60, 40)


def test_a_job_from_its_start_to_its_retry(tmp_path: Path) -> None:
    with service_of(tmp_path) as service:
        root = tmp_path / "root"
        service.write_flow("web", flow_of(root), replace=False)
        _photos(root / "in-web", 3)
        (root / "in-web" / "bad.jpg").write_bytes(b"no image")
        (root / "in-web" / "worse.jpg").write_bytes(b"none either")
        with pytest.raises(UnknownName):
            service.start("other")
        job = ended(service, service.start("web").row.id)
        id = job.row.id
        assert (job.row.state, job.row.done, job.row.failed, job.row.total) == ("done", 3, 2, 5)
        assert [item.key for item in service.views.items(id, "failed")] == ["bad.jpg", "worse.jpg"]
        assert [item.key for item in service.views.items(id, text="WORSE")] == ["worse.jpg"]
        assert [item.key for item in service.views.items(id, after="001.jpg", most=2)] == [
            "002.jpg",
            "bad.jpg",
        ]
        assert service.views.item(id, "bad.jpg").kind
        with pytest.raises(UnknownName):
            service.views.item(id, "none.jpg")
        with pytest.raises(WrongState, match="only failed"):
            service.retry(id, ["000.jpg"])

        draw(root / "in-web" / "bad.jpg")
        assert service.retry(id, ["bad.jpg"]) == 1
        job = ended(service, id)
        assert (job.row.done, job.row.failed) == (4, 1)
        draw(root / "in-web" / "worse.jpg")
        assert service.retry(id) == 1
        job = ended(service, id)
        assert (job.row.done, job.row.failed, job.row.skipped) == (5, 0, 0)
        assert names(root / "out-web") == sorted(names(root / "in-web"))

        again = ended(service, service.start("web").row.id)
        assert (again.row.done, again.row.skipped) == (0, 5)
        assert [row.id for row in service.state.jobs("web")] == [again.row.id, id]


def test_a_watched_flow_starts_by_itself_and_takes_what_arrives(tmp_path: Path) -> None:
    with service_of(tmp_path) as service:
        root = tmp_path / "root"
        service.write_flow("web", flow_of(root, when="watched"), replace=False)
        job = service.views.latest("web")
        assert job is not None
        id = job.row.id
        draw(root / "in-web" / "a.jpg")
        wait_until(lambda: service.views.job(id).numbers.done == 1)
        (root / "in-web" / "bad.jpg").write_bytes(b"no image")
        wait_until(lambda: service.views.job(id).numbers.failed == 1)
        service.set_aside("web", "bad.jpg", True)
        draw(root / "in-web" / "bad.jpg")
        draw(root / "in-web" / "b.jpg")
        wait_until(lambda: service.views.job(id).numbers.done == 2)
        assert names(root / "out-web") == [".imageloom", "a.jpg", "b.jpg"]
        service.set_aside("web", "bad.jpg", False)
        wait_until(lambda: service.views.job(id).numbers.done == 3)
        assert service.views.job(id).numbers.failed == 0
        with pytest.raises(WrongState, match="has not ended"):
            service.start("web")
        with pytest.raises(WrongState, match="has not ended"):
            service.delete_flow("web")
        service.cancel(id)
        assert ended(service, id).row.state == "cancelled"
        service.delete_flow("web")
        assert service.flows.names() == []


def test_a_failed_item_of_a_watched_flow_is_tried_again_when_asked(tmp_path: Path) -> None:
    """It fails again without a change of its file, and the attempt is made at once."""
    root = tmp_path / "root"
    with service_of(tmp_path) as service:
        service.write_flow("web", flow_of(root, when="watched"), replace=False)
        draw(root / "in-web" / "old.jpg")
        (root / "in-web" / "bad.jpg").write_bytes(b"no image")
        wait_until(lambda: len(service.views.items(1)) == 2)
        first = service.views.item(1, "bad.jpg").started
    with service_of(tmp_path) as service:  # after a restart it is not tried again by itself
        draw(root / "in-web" / "a.jpg")
        wait_until(lambda: service.views.job(1).numbers.done == 2)
        assert service.views.job(1).numbers.skipped == 0
        assert service.views.item(1, "bad.jpg").started == first
        assert service.retry(1, ["bad.jpg"]) == 1
        wait_until(lambda: service.views.item(1, "bad.jpg").started > first)
        wait_until(lambda: service.state.retries(1) == [])


def test_a_page_that_failed_in_a_watched_flow_is_tried_again(tmp_path: Path) -> None:
    draw(tmp_path / "root" / "in-web" / "a.tif")
    rules = Rules(Guard((str(tmp_path / "root"),)))
    flow = rules.flow("web", flow_of(tmp_path / "root", when="watched"))
    watch = SteeredWatch(flow, (str(tmp_path / "root"),), lambda key: True, {})
    entries = watch.entries(lambda: None)

    def arrives() -> bool:
        entry = next(entries)
        return isinstance(entry, Item) and entry.key == "a.tif"

    wait_until(arrives)
    watch.split("a.tif", 2)
    for page in range(2):
        watch(Failed(Result(page_key("a.tif", page), failure=Failure.of(UnsupportedImage("no"))), 1, ""))
    watch.again(page_key("a.tif", 1))
    wait_until(arrives)
    watch.end()
    assert [entry for entry in entries if entry] == []


def test_pause_resume_and_cancel_survive_a_restart(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with service_of(tmp_path) as service:
        for name in ("a", "b", "c"):
            service.write_flow(name, flow_of(root, name, when="watched"), replace=False)
        wait_until(lambda: all(row.state == "running" for row in service.state.open_jobs()))
        service.pause(1)
        service.cancel(2)
        wait_until(lambda: service.views.row(1).state == "paused")
        draw(root / "in-a" / "x.jpg")
        ended(service, 2)
    with service_of(tmp_path) as service:
        wait_until(lambda: service.views.row(3).state == "running")
        assert [service.views.row(id).state for id in (1, 2)] == ["paused", "cancelled"]
        with pytest.raises(WrongState, match="has ended"):
            service.resume(2)
        service.resume(1)
        wait_until(lambda: service.views.job(1).numbers.done == 1)
        assert names(root / "out-a") == [".imageloom", "x.jpg"]
        assert service.state.jobs("b", most=5)[0].state == "cancelled"


def test_a_job_keeps_the_recipe_that_it_was_started_with(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with service_of(tmp_path) as service:
        service.write_flow("web", flow_of(root, when="watched"), replace=False)
        assert service.views.job(1).is_current
        service.write_flow("web", flow_of(root, recipe="grayscale", when="watched"), replace=True)
        assert not service.views.job(1).is_current


def test_a_flow_that_is_not_valid_is_shown_and_does_not_start(tmp_path: Path) -> None:
    with service_of(tmp_path) as service:
        (tmp_path / "service" / "flows" / "web.yaml").write_text("source: x\n")
        with pytest.raises(UsageError, match="sink"):
            service.start("web")


def test_a_job_whose_sink_cannot_be_used_says_so(tmp_path: Path) -> None:
    with service_of(tmp_path) as service:
        service.write_flow("web", flow_of(tmp_path / "root"), replace=False)
        (tmp_path / "root" / "out-web").write_text("a file")
        job = ended(service, service.start("web").row.id)
        assert job.row.state == "error"
        assert "out-web" in job.row.message


def test_more_jobs_than_may_run_wait(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with service_of(tmp_path, running=1) as service:
        service.write_flow("a", flow_of(root, "a", when="watched"), replace=False)
        service.write_flow("b", flow_of(root, "b"), replace=False)
        wait_until(lambda: service.views.row(1).state == "running")
        service.start("b")
        assert service.views.row(2).state == "queued"
        service.pause(2)
        assert service.views.row(2).state == "paused"
        service.resume(2)
        service.cancel(1)
        assert ended(service, 2).row.state == "done"


class Held(Engine):
    """An engine with one worker that does nothing until it is told."""

    capabilities = Capabilities()
    capacity = 1

    def __init__(self) -> None:
        self.got: list[tuple[str, Future[Outcome]]] = []

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        self.got.append((task.job, future))
        return future

    def close(self) -> None:
        pass


def _task(job: str) -> Task:
    return Task(0, job, "/in", "/out", Recipe(()), Limits(), ())


def test_flows_take_turns_and_new_arrivals_go_first() -> None:
    engine = Held()
    turns = Turns(engine, Guard())
    bulk, other, watched = (
        FlowEngine(turns, "1", False),
        FlowEngine(turns, "2", False),
        FlowEngine(turns, "3", True),
    )
    futures = [bulk.submit(_task("1")) for _ in range(4)]
    futures += [other.submit(_task("2")) for _ in range(2)]
    futures.append(watched.submit(_task("3")))
    assert futures[3].cancel()
    while len(engine.got) < 6:
        number = sum(future.done() for _, future in engine.got)
        engine.got[number][1].set_result(Outcome(number, "", ()))
    assert [job for job, _ in engine.got] == ["1", "1", "3", "1", "2", "2"]
    assert not futures[0].cancelled()
    for _, future in engine.got:
        if not future.done():
            future.cancel()
    assert all(future.done() for future in futures)
    assert not turns.in_hand


def test_a_backlog_of_arrivals_leaves_a_share_to_bulk_runs() -> None:
    engine = Held()
    turns = Turns(engine, Guard())
    watched, bulk = FlowEngine(turns, "w", True), FlowEngine(turns, "b", False)
    for _ in range(9):
        watched.submit(_task("1"))
    for _ in range(3):
        bulk.submit(_task("2"))
    for number in range(12):
        engine.got[number][1].set_result(Outcome(number, "", ()))
    assert [job for job, _ in engine.got] == ["1", "1", "1", "2"] * 3


def test_a_flow_has_at_most_its_workers() -> None:
    engine = Held()
    turns = Turns(engine, Guard())
    narrow, wide = FlowEngine(turns, "1", False, most=1), FlowEngine(turns, "2", False)
    waiting = [narrow.submit(_task("1")) for _ in range(3)] + [wide.submit(_task("2"))]
    assert [job for job, _ in engine.got] == ["1", "2"]
    assert narrow.capacity == 1
    assert len(turns.in_hand) == 2
    for future in waiting:
        future.cancel()


def test_a_task_outside_of_the_roots_fails_and_is_not_run() -> None:
    engine = Held()
    flow = FlowEngine(Turns(engine, Guard(("/data",))), "1", False)
    future = flow.submit(_task("1"))
    assert "not below a root" in str(future.exception())
    assert engine.got == []


def test_a_task_that_cannot_be_sent_fails_and_the_next_one_is_sent() -> None:
    engine = Held()
    turns = Turns(engine, Guard())
    flow = FlowEngine(turns, "1", False)
    futures = [flow.submit(_task(str(number))) for number in range(4)]
    send, engine.submit = engine.submit, _refuse  # type: ignore[method-assign]
    engine.got[0][1].set_result(Outcome(0, "", ()))
    assert isinstance(futures[2].exception(0), RuntimeError)
    assert isinstance(futures[3].exception(0), RuntimeError)
    engine.submit = send  # type: ignore[method-assign]
    flow.submit(_task("4"))
    assert [job for job, _ in engine.got] == ["0", "1", "4"]


def test_all_tasks_of_a_broken_engine_fail() -> None:
    engine = Held()
    engine.capacity = 100
    turns = Turns(engine, Guard())
    flows = [FlowEngine(turns, str(number), False) for number in range(16)]
    futures = [flow.submit(_task("1")) for flow in flows for _ in range(60)]
    engine.submit = _refuse  # type: ignore[method-assign]
    for _, future in engine.got:
        future.set_exception(RuntimeError("it is broken"))
    assert all(isinstance(future.exception(0), RuntimeError) for future in futures)


def _refuse(task: Task) -> Future[Outcome]:
    raise RuntimeError("it cannot be sent")


def test_a_watched_flow_whose_storage_is_away_for_weeks_waits(tmp_path: Path) -> None:
    with service_of(tmp_path) as service:
        flow = service.write_flow("web", flow_of(tmp_path / "root"), replace=False)
        row = service.start("web").row
        ended(service, row.id)
        job = FlowJob(row, flow, service._site, lambda: None)
        job._failures = 2000
        job._wait_for_storage(StorageError("the disk is not there"))
        assert "next attempt in 300 s" in service.views.row(row.id).message


def test_a_reader_of_the_feed_continues_where_it_was() -> None:
    feed = Feed()
    told = threading.Event()
    stop = feed.listen(told.set)
    feed.add("job", id=1)
    assert told.is_set()
    stop()
    first = feed.id_of(1)
    feed.add("job", id=2)
    assert feed.number_of(first) == 1
    assert [message.data for message in feed.after(1) or ()] == [{"id": 2}]
    for _ in range(MOST_KEPT):
        feed.add("job", id=3)
    assert feed.after(1) is None
    for id in (first, "other-1", f"{first.partition('-')[0]}-99999", "", "x", "a-b-c"):
        assert feed.number_of(id) is None


def test_the_state_of_another_version_is_refused(tmp_path: Path) -> None:
    from imageloom.errors import StorageError
    from imageloom.service.state import ServiceState

    with closing(sqlite3.connect(tmp_path / "x.db")) as db, db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StorageError, match="version 99"):
        ServiceState(tmp_path / "x.db")


@pytest.mark.parametrize("when", ["once", "watched"])
def test_a_page_that_is_set_aside_is_not_processed(when: str, tmp_path: Path) -> None:
    options = {"pages": "all", "name": "{stem}-{page}.{ext}"}
    with service_of(tmp_path) as service:
        root = tmp_path / "root"
        text = flow_of(
            root,
            recipe={"outputs": {".": {"pipeline": "invert", "format": "png"}}},
            when="once",
            options=options,
        )
        service.write_flow("web", text, replace=False)
        service.set_aside("web", page_key("book.tif", 1), True)
        if when == "watched":
            service.write_flow("web", text.replace("once", "watched"), replace=True)
        pages = [np.full((40, 60, 3), 40 * number, np.uint8) for number in range(3)]
        assert cv2.imwritemulti(str(root / "book.tif"), pages)
        os.replace(root / "book.tif", root / "in-web" / "book.tif")
        if when == "once":
            ended(service, service.start("web").row.id)
        else:
            wait_until(lambda: (job := service.views.latest("web")) and job.numbers.done == 2)
        made = [name for name in names(root / "out-web") if name.endswith("png")]
        assert made == ["book-1.png", "book-3.png"]
        service.set_aside("web", page_key("book.tif", 1), False)
        if when == "once":
            ended(service, service.start("web").row.id)
        wait_until((root / "out-web" / "book-2.png").exists)
