"""Calls that go on to a pool in bunches: many together, none left behind, none late."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import simplejpeg
from msgspec.structs import replace

from imageloom.api import process
from imageloom.engines import Settings, open_engine
from imageloom.model import Item, Limits, Output, Recipe, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Event, Started
from imageloom.stores import open_store
from imageloom.worker import pool
from imageloom.worker.controller import fixed
from imageloom.worker.perform import Attempt
from imageloom.worker.pool import Bunches, SizedExecutor

FOREVER = 600.0
SOURCE, SINK = "memory://bunches/a", "memory://bunches/b"


class Uploads:
    """A pool of eight threads that counts what it did, and what waits for it."""

    def __init__(self) -> None:
        self.coming = True
        self.done = threading.Semaphore(0)
        self.threads = SizedExecutor(fixed(8), "upload")
        self.bunches = Bunches(self.threads, lambda: self.coming)

    def post(self, count: int) -> None:
        for _ in range(count):
            self.bunches.post(partial(self.done.release))

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.done.acquire(timeout=60)

    def nothing_more(self) -> bool:
        return not self.done.acquire(timeout=0.2)


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    made = Uploads()
    yield made
    made.threads.shutdown()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LONGEST_WAIT", FOREVER)


@pytest.mark.usefixtures("patient")
def test_calls_go_on_by_half_of_the_pools_threads(uploads: Uploads) -> None:
    uploads.post(3)
    assert uploads.nothing_more()
    uploads.post(3)
    uploads.wait_for(4)
    assert uploads.nothing_more()
    uploads.post(2)
    uploads.wait_for(4)


@pytest.mark.usefixtures("patient")
def test_none_waits_where_no_more_are_coming(uploads: Uploads) -> None:
    uploads.post(2)
    uploads.coming = False
    uploads.post(1)
    uploads.wait_for(3)
    uploads.post(1)
    uploads.wait_for(1)


def test_none_waits_for_long(uploads: Uploads) -> None:
    uploads.post(1)
    uploads.wait_for(1)
    uploads.post(1)
    uploads.wait_for(1)


@pytest.mark.usefixtures("patient")
def test_threads_that_wait_for_stores_upload_in_bunches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen requests in flight: no upload begins before eight outputs are made; the last wait for none."""
    monkeypatch.setattr(pool, "LONGEST_WAIT", FOREVER)
    made: list[int] = []
    made_before: list[int] = []
    compute, commit = Attempt.compute, Attempt.commit
    submitted = threading.Event()

    def computing(attempt: Attempt) -> None:
        assert submitted.wait(60)
        compute(attempt)
        made.append(1)

    def committing(attempt: Attempt) -> None:
        made_before.append(len(made))
        commit(attempt)

    monkeypatch.setattr(Attempt, "compute", computing)
    monkeypatch.setattr(Attempt, "commit", committing)
    task = upload_photos(20)
    works = task.work
    engine = open_engine("threads", Settings(jobs=2, waits=True, in_flight=16))
    tasks = [replace(task, id=work.number, work=(work,)) for work in works]
    try:
        futures = [engine.submit(task) for task in tasks]
        submitted.set()
        outcomes = [future.result(timeout=60) for future in futures]
    finally:
        engine.close()
    assert all(result.failure is None for outcome in outcomes for result in outcome.results)
    assert made_before[0] >= 8
    assert names_in(SINK) == [work.names[0] for work in works]


def test_outputs_of_one_task_are_uploaded_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together, commit = threading.Barrier(4, timeout=60), Attempt.commit

    def committing(attempt: Attempt) -> None:
        together.wait()
        commit(attempt)

    monkeypatch.setattr(Attempt, "commit", committing)
    task = upload_photos(4)
    with closing(open_engine("threads", Settings(jobs=2, waits=True, in_flight=8))) as engine:
        results = engine.submit(task).result(timeout=60).results
    assert [(result.key, result.failure) for result in results] == [
        (work.item.key, None) for work in task.work
    ]
    assert names_in(SINK) == [work.names[0] for work in task.work]


@pytest.mark.parametrize(("engine", "most"), [("threads", 4), ("serial", 1)])
def test_items_go_alone_until_workers_are_busy(engine: str, most: int, tmp_path: Path) -> None:
    """Then a few together, where they do not wait for each other's requests."""
    upload_photos(60)
    begun: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, Started):
            begun.append(event.items)

    summary = process(
        "grayscale",
        SOURCE,
        SINK,
        engine=engine,
        jobs=2,
        in_flight=4,
        if_exists="overwrite",
        ledger=tmp_path / "ledger.db",
        listeners=[note],
    )
    assert summary.done == sum(begun) == 60
    assert begun[:4] == [1] * 4
    assert max(begun) == most


def test_tasks_leave_no_garbage_behind() -> None:
    """A collector that comes late must not find the images of many tasks."""
    task = upload_photos(40)
    with closing(open_engine("threads", Settings(jobs=2, waits=True, in_flight=8))) as engine:
        engine.submit(replace(task, work=task.work[:1])).result(timeout=60)
        gc.collect()
        gc.disable()
        try:
            for work in task.work:
                engine.submit(replace(task, id=work.number, work=(work,))).result(timeout=60)
            assert gc.collect() < len(task.work)
        finally:
            gc.enable()


def upload_photos(count: int) -> Task:
    """Small photos, and a task of them all; the sink is emptied."""
    photo = simplejpeg.encode_jpeg(np.zeros((40, 60, 3), np.uint8))
    names = [f"{number:02}.jpg" for number in range(count)]
    for address in (SOURCE, SINK):
        client: Any = open_store(address)._client  # type: ignore[attr-defined]
        obstore.delete(
            client, [found["path"] for page in obstore.list(client, address[-1:]) for found in page]
        )
    for name in names:
        open_store(SOURCE).stage(name, photo)
        open_store(SOURCE).commit(name, name, "test", replace=True)
    works = tuple(Work(Item(name, len(photo)), (name,), number) for number, name in enumerate(names))
    recipe = Recipe((Output(Pipeline.parse("grayscale").steps),))
    return Task(0, "1", SOURCE, SINK, recipe, Limits(), works)


def names_in(address: str) -> list[str]:
    return [item.key for item in open_store(address).items() if isinstance(item, Item)]
