"""Engine redis: what others write to the server takes bounded memory of the driver, and ends no run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from imageloom.bench.samples import draw_photos
from imageloom.engines.redis.replies import OVERSIZED, BoundedParser
from imageloom.engines.redis.results import MOST_READ, ResultsReader
from imageloom.engines.redis.server import Server
from imageloom.engines.redis.wire import GROUP, STREAMS, connect
from imageloom.testing.engines import HARMFUL
from program import contents, start, wait_until
from redis_servers import GivenServer

KEY = "imageloom:results:1"
MOST_GROWTH = 64 << 20
"""Bytes by which the driver's memory may rise."""


@pytest.fixture
def client() -> Iterator[Redis]:
    server = Server()
    made = connect(server.url)
    yield made
    made.close()
    server.close()


@pytest.fixture
def reader(client: Redis) -> Iterator[ResultsReader]:
    made = ResultsReader(client, KEY)
    yield made
    made.close()


def numbers(reader: ResultsReader) -> list[bytes | None]:
    return [None if fields is None else fields[b"number"] for found in reader.take_all() for fields in found]


def test_large_entries_are_deleted_and_the_others_are_read(client: Redis, reader: ResultsReader) -> None:
    large = os.urandom(BoundedParser.most_string + 1)
    for number in range(6):
        client.xadd(KEY, {"number": number, **({"data": large} if number % 2 else {})})
    client.xadd(KEY, {large: b"1", "number": 6})
    client.xadd(KEY, dict.fromkeys(map(str, range(MOST_READ)), b""))
    client.xadd(KEY, {"number": 8})
    assert numbers(reader) == [b"0", None, b"2", None, b"4", None, None, None, b"8"]
    assert numbers(reader) == []
    assert client.xlen(KEY) == 0


def test_entries_that_are_large_together_are_read_one_after_the_other(
    client: Redis, reader: ResultsReader
) -> None:
    for number in range(20):
        client.xadd(KEY, {"number": number, "data": os.urandom(BoundedParser.most_string - 100)})
    found: list[bytes | None] = []
    while new := numbers(reader):
        found += new
    assert found == [b"%d" % number for number in range(20)]


def test_an_entry_is_taken_once_though_two_answers_have_it(client: Redis, reader: ResultsReader) -> None:
    reader.ask()
    client.xadd(KEY, {"number": 0})
    wait_until(lambda: reader.has_answer)
    assert numbers(reader) == [b"0"]
    client.xadd(KEY, {"number": 1})
    assert reader.take() == []
    assert numbers(reader) == [b"1"]


def test_an_entry_of_many_fields_that_is_too_large_is_deleted(client: Redis, reader: ResultsReader) -> None:
    client.xadd(KEY, {"number": 0})
    client.xadd(KEY, {str(field): os.urandom(BoundedParser.most_string - 100) for field in range(12)})
    client.xadd(KEY, {"number": 2})
    found: list[bytes | None] = []
    while new := numbers(reader):
        found += new
    assert found == [b"0", None, b"2"]


def test_the_answer_to_a_command_is_bounded_too(client: Redis) -> None:
    client.set("large", bytes(BoundedParser.most_string + 1))
    client.set("small", b"1")
    assert client.mget(["large", "small"]) == [OVERSIZED, b"1"]


def write_results(client: Any) -> None:
    """Large entries to each run's results, whole ones and those of many fields."""
    for key in client.scan_iter("imageloom:results:*"):
        for fields in ({"data": bytes(48 << 20)}, dict.fromkeys(map(str, range(50_000)), "x" * 100)):
            client.xadd(key, fields, maxlen=20)
        for _ in range(50):
            client.xadd(key, {"data": bytes(1 << 20)}, maxlen=100)


def write_tasks(client: Any) -> None:
    """Large tasks, and consumers with long names."""
    for stream in STREAMS.values():
        client.xadd(stream, {"data": bytes(48 << 20)}, maxlen=100)
        client.xgroup_createconsumer(stream, GROUP, os.urandom(12 << 20))


@pytest.mark.parametrize(
    ("write", "said"),
    [(write_results, "deleted an entry of the results"), (write_tasks, "which is not a delivery")],
)
def test_large_entries_take_no_memory_of_the_driver(
    write: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    draw_photos(tmp_path / "photos", 20)
    server = GivenServer(tmp_path / "server")
    over = threading.Event()

    def flood() -> None:
        client: Any = Redis.from_url(server.url, protocol=2)
        while not over.wait(0.1):
            with contextlib.suppress(RedisError):
                write(client)
        client.close()

    writer = threading.Thread(target=flood)
    driver = start(
        *(
            "run",
            "toil 0.05 | resize 64x64",
            tmp_path / "photos",
            tmp_path / "out",
            "--engine",
            "redis",
            "-j",
            1,
        ),
        *(*server.place, "--operators", HARMFUL, "--ledger", tmp_path / "ledger.db"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        seen = psutil.Process(driver.pid)
        while driver.poll() is None and not server.client.exists("imageloom:worker"):
            pass
        before = highest = seen.memory_info().rss
        writer.start()
        while driver.poll() is None:
            with contextlib.suppress(psutil.Error):
                highest = max(highest, seen.memory_info().rss)
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(0.02)
        out, errors = driver.communicate(timeout=60)
    finally:
        over.set()
        writer.join()
        driver.kill()
        driver.wait()
        server.close()
    assert driver.returncode == 0, errors
    assert "20 of 20 done" in out
    assert len(contents(tmp_path / "out")) == 20
    assert said in errors, "it is no test otherwise"
    assert highest - before < MOST_GROWTH, f"{(highest - before) >> 20} MB"
