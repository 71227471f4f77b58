"""Calls that go on to a pool in bunches: many together, none left behind, none late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import simplejpeg

from imageloom import pool
from imageloom.controller import fixed
from imageloom.engines import Settings, open_engine
from imageloom.model import Item, Limits, Output, Recipe, Task, Work
from imageloom.pipeline import Pipeline
from imageloom.pool import Bunches, SizedExecutor
from imageloom.stores import open_store
from imageloom.work import Attempt

FOREVER = 600.0


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
            assert self.done.acquire(timeout=20)

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
    made: list[int] = []
    made_before: list[int] = []
    compute, commit = Attempt.compute, Attempt.commit

    def computing(attempt: Attempt) -> None:
        compute(attempt)
        made.append(1)

    def committing(attempt: Attempt) -> None:
        made_before.append(len(made))
        commit(attempt)

    monkeypatch.setattr(Attempt, "compute", computing)
    monkeypatch.setattr(Attempt, "commit", committing)
    source, sink = "memory://bunches/in", "memory://bunches/out"
    names = [f"{number:02}.jpg" for number in range(20)]
    photo = simplejpeg.encode_jpeg(np.zeros((40, 60, 3), np.uint8))
    for name in names:
        open_store(source).stage(name, photo)
        open_store(source).commit(name, name, "test", replace=True)
    recipe = Recipe((Output(Pipeline.parse("grayscale").steps),))
    engine = open_engine("threads", Settings(jobs=2, waits=True, in_flight=16))
    works = [Work(Item(name, len(photo)), (name,), number) for number, name in enumerate(names)]
    tasks = [Task(work.number, "1", source, sink, recipe, Limits(), (work,)) for work in works]
    try:
        outcomes = [future.result(timeout=60) for future in [engine.submit(task) for task in tasks]]
    finally:
        engine.close()
    assert all(result.failure is None for outcome in outcomes for result in outcome.results)
    assert made_before[0] >= 8
    assert [item.key for item in open_store(sink).items() if isinstance(item, Item)] == names
