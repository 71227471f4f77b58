"""Engine redis: what is charged for a consumer that is lost, and what is given back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from imageloom.api import process
from imageloom.bench.samples import draw_photos
from imageloom.engines import Settings, open_engine
from imageloom.engines.redis import wire as redis_wire
from imageloom.engines.redis.engine import RedisStreams
from imageloom.engines.redis.wire import BEGUN, FIELD, GROUP, STREAMS, Delivery, results_key
from imageloom.model import Item, Limits, Outcome, Output, Recipe, Result, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.recipes.recipe import with_operators
from imageloom.records.events import Event, Retried
from imageloom.testing.engines import HARMFUL
from imageloom.worker.message import Message
from program import wait_until
from redis_servers import GivenServer

STREAM = STREAMS["worker"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GivenServer]:
    given = GivenServer(tmp_path / "server")
    yield given
    given.close()


class Consumer:
    """A consumer that does what the tests say."""

    def __init__(self, server: GivenServer, name: str) -> None:
        self._client, self._name = server.client, name

    def take(self, count: int) -> list[tuple[bytes, Delivery]]:
        found: list[tuple[bytes, Delivery]] = []
        while len(found) < count:
            read = self._client.xreadgroup(GROUP, self._name, {STREAM: ">"}, count=1, block=10_000)
            assert read, "nothing comes"
            for entry, fields in read[0][1]:
                found.append((entry, msgspec.msgpack.decode(fields[FIELD.encode()], type=Delivery)))
        return found

    def say(self, delivery: Delivery, field: str, place: int = 0, result: Result | None = None) -> None:
        message = Message(delivery.task.id, place, self._name, result)
        self._client.xadd(results_key(delivery.run), {field: msgspec.msgpack.encode(message)})

    def do(self, entry: bytes, delivery: Delivery) -> None:
        self.say(delivery, BEGUN)
        for place, work in enumerate(delivery.task.work):
            self.say(delivery, FIELD, place, Result(work.item.key))
        self._client.xack(STREAM, GROUP, entry)
        self._client.xdel(STREAM, entry)


@pytest.fixture
def engine(server: GivenServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisStreams]:
    monkeypatch.setattr(redis_wire, "LEASE", 0.3)
    opened = open_engine("redis", Settings(0, connect=server.url))
    assert isinstance(opened, RedisStreams)
    yield opened
    opened.close()


def submit(engine: RedisStreams, number: int, *keys: str) -> Future[Outcome]:
    works = tuple(Work(Item(key), (key,), place) for place, key in enumerate(keys))
    return engine.submit(Task(number, "1", "in", "out", Recipe((Output(()),)), Limits(), works))


def kinds(future: Future[Outcome]) -> list[str]:
    return [one.failure.kind if one.failure else "" for one in future.result(30).results]


def test_a_silent_consumer_is_charged_for_the_item_in_progress(
    engine: RedisStreams, server: GivenServer
) -> None:
    begun, waiting = submit(engine, 1, "a", "b", "c"), submit(engine, 2, "d")
    silent, other = Consumer(server, "far/1/0/1"), Consumer(server, "far/2/0/1")
    (_, first), _ = silent.take(2)
    silent.say(first, BEGUN)
    silent.say(first, FIELD, 0, Result("a"))
    rest = other.take(2)
    assert sorted(work.item.key for _, one in rest for work in one.task.work) == ["c", "d"]
    for entry, delivery in rest:
        other.do(entry, delivery)
    assert kinds(begun) == ["", "WorkerLost", ""]
    failure = begun.result().results[1].failure
    assert failure
    assert "far/1/0/1 did not renew its lease" in failure.message
    assert kinds(waiting) == [""]


def test_what_a_consumer_gives_back_or_the_server_loses_costs_nothing(
    engine: RedisStreams, server: GivenServer
) -> None:
    future = submit(engine, 1, "a", "b")
    one = Consumer(server, "far/1/0/1")
    ((entry, delivery),) = one.take(1)
    one.say(delivery, BEGUN)
    one.say(delivery, FIELD, 0, Result("a"))
    one.say(delivery, FIELD)
    server.client.xack(STREAM, GROUP, entry)
    ((lost, delivery),) = one.take(1)
    one.say(delivery, BEGUN)
    server.client.xack(STREAM, GROUP, lost)
    server.client.xdel(STREAM, lost)
    ((last, delivery),) = one.take(1)
    assert [work.item.key for work in delivery.task.work] == ["b"]
    one.do(last, delivery)
    assert kinds(future) == ["", ""]


def test_a_task_is_sent_at_once_while_the_driver_waits_for_results(
    engine: RedisStreams, server: GivenServer
) -> None:
    seconds = []
    for number in range(5):
        time.sleep(0.1)  # the driver waits for results again
        began = time.monotonic()
        future = submit(engine, number, "a")
        Consumer(server, "far/1/0/1").do(*Consumer(server, "far/1/0/1").take(1)[0])
        assert kinds(future) == [""]
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.2, "it does not wait for the end of a read"


def test_closing_takes_back_what_no_worker_has_and_waits_for_the_rest(
    engine: RedisStreams, server: GivenServer
) -> None:
    begun, waiting = submit(engine, 1, "a"), submit(engine, 2, "b")
    one = Consumer(server, "far/1/0/1")
    ((entry, delivery),) = one.take(1)
    one.say(delivery, BEGUN)
    engine.transport.stop()
    wait_until(lambda: server.client.xlen(STREAM) == 1)
    one.do(entry, delivery)
    engine.close()
    assert kinds(begun) == [""]
    assert waiting.cancelled() or kinds(waiting) == ["WorkerLost"]
    assert list(server.client.scan_iter("imageloom:r*")) == [], "neither its results nor its sign of life"


PAUSE = """
import time
from imageloom import Pixels, operator

@operator("point", examples=("pause",))
def pause(image: Pixels) -> Pixels:
    time.sleep(2)
    return image
"""


def test_the_end_of_a_process_because_of_one_item_costs_its_other_items_nothing(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    photos, operators = tmp_path / "photos", tmp_path / "pause.py"
    draw_photos(photos, 5)
    cv2.imwrite(str(photos / "0.png"), np.full((40, 60, 3), (0, 0, 255), np.uint8))
    operators.write_text(PAUSE)
    recipe = with_operators(Recipe(()), [HARMFUL, str(operators)])
    recipe = replace(recipe, outputs=(Output(Pipeline("hang_on_red | pause | resize 32x32").steps),))
    events: list[Event] = []
    options: dict[str, Any] = {"engine": "redis", "jobs": 1, "threads": 2, "timeout": 3.0}
    summary = process(
        recipe, photos, tmp_path / "out", listeners=[events.append], ledger=tmp_path / "l.db", **options
    )
    assert (summary.done, summary.failed) == (5, 1)
    assert {e.result.key for e in events if isinstance(e, Retried)} == {"0.png"}
