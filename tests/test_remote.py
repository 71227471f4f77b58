"""Whole runs from and to stores that are not local: Swift, and a proxy before it that goes wrong."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from testservers.proxy import Fault, FaultyProxy, Request
from testservers.swift import SECRET, Swift

from imageloom.api import process
from imageloom.driver import window
from imageloom.errors import StorageError, UsageError
from imageloom.model import IfExists
from imageloom.stores import open_store
from imageloom.stores.object import ObjectStore
from places import Bucket, Memory, peak
from program import Run, contents, draw, imageloom, kill, start, wait_until

PIPELINE = "resize 64x48 | grayscale"
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "FIRST_PAUSE", 0.01)


@pytest.fixture
def place(swift: Swift, s3: None, photos: Path) -> Bucket:
    """A bucket's folder with the photos."""
    place = Bucket(swift, f"remote{next(_numbers)}")
    for number in range(10):
        draw(photos / "more" / f"{number}.jpg", number)
    for key, data in contents(photos).items():
        place.put(key, data)
    return place


@pytest.fixture
def expected(photos: Path, place: Bucket, tmp_path: Path) -> dict[str, bytes]:
    """What a local run makes."""
    process(PIPELINE, photos, tmp_path / "expected")
    return contents(tmp_path / "expected")


@pytest.fixture
def sink(swift: Swift, s3: None) -> Bucket:
    return Bucket(swift, f"sink{next(_numbers)}")


@pytest.fixture
def through(swift: Swift, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FaultyProxy]]:
    """Puts a proxy between the stores and Swift."""
    proxies: list[FaultyProxy] = []

    def put(
        fault: Callable[[Request], Fault | None] = lambda request: None, delay: float = 0.0
    ) -> FaultyProxy:
        proxy = FaultyProxy(swift.port, fault, delay).__enter__()
        proxies.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        open_store.cache_clear()
        return proxy

    yield put
    for proxy in proxies:
        proxy.__exit__()


@pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
def test_bytes_equal_the_local_runs(
    place: Bucket, sink: Bucket, expected: dict[str, bytes], engine: str
) -> None:
    ran = Run(PIPELINE, place.address, sink.address, engine=engine, jobs=2)
    assert ran.numbers == (16, 0, 0)
    assert sink.contents() == expected
    again = Run(PIPELINE, place.address, sink.address, engine=engine, jobs=2)
    assert again.numbers == (0, 0, 16)
    assert set(again.skipped.values()) == {"done before"}


def test_local_to_remote_and_back(
    photos: Path, place: Bucket, sink: Bucket, expected: dict[str, bytes], out: Path
) -> None:
    assert Run(PIPELINE, photos, sink.address).numbers == (16, 0, 0)
    assert sink.contents() == expected
    assert Run(PIPELINE, place.address, out).numbers == (16, 0, 0)
    assert contents(out) == expected


def test_one_image_by_its_address(place: Bucket, out: Path, expected: dict[str, bytes]) -> None:
    assert Run(PIPELINE, f"{place.address}/a/1.jpg", out).done == ["1.jpg"]
    assert contents(out) == {"1.jpg": expected["a/1.jpg"]}


def test_an_item_costs_one_get_and_one_put(
    place: Bucket, sink: Bucket, through: Callable[..., FaultyProxy]
) -> None:
    proxy = through(delay=0.02)
    assert Run(PIPELINE, place.address, sink.address, engine="threads", in_flight=8).numbers == (16, 0, 0)
    asked = Counter(request.method for request in proxy.requests)
    assert asked == {
        "GET": 16 + 1,
        "PUT": 16 + 1,
        "POST": 1,
    }  # and a listing, and the probe, which is deleted
    assert 2 < proxy.most_at_once <= 2 * 8


def test_changed_input_is_done_again(place: Bucket, sink: Bucket, photos: Path) -> None:
    Run(PIPELINE, place.address, sink.address)
    place.put("1.jpg", (photos / "2.jpg").read_bytes())
    assert Run(PIPELINE, place.address, sink.address).done == ["1.jpg"]
    assert sink.contents()["1.jpg"] == sink.contents()["2.jpg"]
    assert Run("grayscale", place.address, sink.address).numbers == (16, 0, 0)


def test_a_foreign_object_is_not_touched(place: Bucket, sink: Bucket, expected: dict[str, bytes]) -> None:
    sink.put("1.jpg", b"foreign")
    ran = Run(PIPELINE, place.address, sink.address)
    assert ran.failed == {"1.jpg": "OutputExists"}
    assert sink.contents() == expected | {"1.jpg": b"foreign"}
    ran = Run(PIPELINE, place.address, sink.address, if_exists="skip")
    assert ran.skipped["1.jpg"] == "output exists"
    assert Run(PIPELINE, place.address, sink.address, if_exists="overwrite").done == ["1.jpg"]
    assert sink.contents() == expected


def test_without_its_ledger_its_own_outputs_are_no_strangers(
    place: Bucket, sink: Bucket, expected: dict[str, bytes], tmp_path: Path
) -> None:
    Run("invert", place.address, sink.address)
    assert Run(PIPELINE, place.address, sink.address, ledger=tmp_path / "new.db").numbers == (16, 0, 0)
    assert sink.contents() == expected


@pytest.mark.parametrize("if_exists", ["error", "skip", "overwrite"])
def test_claims_are_written_before_the_uploads(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, if_exists: IfExists
) -> None:
    """After a kill, one that leaves alone what is there would take its outputs for a stranger's."""
    ledger, commit, missing = tmp_path / "ledger.db", ObjectStore.commit, []

    def look_first(store: ObjectStore, token: str, key: str, *more: object) -> None:
        with closing(sqlite3.connect(ledger)) as db:
            if not db.execute("SELECT 1 FROM outputs WHERE name = ?", (key,)).fetchone():
                missing.append(key)
        commit(store, token, key, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(ObjectStore, "commit", look_first)
    sink = Memory(f"claims{next(_numbers)}")
    ran = Run(PIPELINE, photos, sink.address, ledger=ledger, if_exists=if_exists, engine="threads")
    assert ran.numbers == (len(contents(photos)), 0, 0)
    assert not missing


# What goes wrong


def test_whatever_goes_wrong_nothing_is_lost_or_short(
    place: Bucket, sink: Bucket, expected: dict[str, bytes], through: Callable[..., FaultyProxy]
) -> None:
    faults: list[Fault] = ["refuse", "cut request", "lose answer", "throttle", "cut answer"]
    told = Counter[Fault]()

    def fault(request: Request) -> Fault | None:
        if request.number % 4:
            return None
        chosen = faults[request.number // 4 % 5]
        told[chosen] += 1
        return chosen

    through(fault)
    ran = Run(PIPELINE, place.address, sink.address, engine="threads", in_flight=8)
    assert set(told) == set(faults)
    assert ran.numbers == (16, 0, 0)
    assert sink.contents() == expected


def test_an_upload_whose_answer_is_lost_is_found_to_be_ours(
    place: Bucket, sink: Bucket, expected: dict[str, bytes], through: Callable[..., FaultyProxy]
) -> None:
    lost: set[str] = set()

    def fault(request: Request) -> Fault | None:
        if request.method == "PUT" and request.path not in lost and ".jpg" in request.path:
            lost.add(request.path)
            return "lose answer"
        return None

    through(fault)
    assert Run(PIPELINE, place.address, sink.address).numbers == (16, 0, 0)
    assert len(lost) == 16
    assert sink.contents() == expected


def test_a_store_that_goes_away_fails_items_and_publishes_nothing_short(
    place: Bucket, sink: Bucket, through: Callable[..., FaultyProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    from imageloom.stores import object as objects

    monkeypatch.setitem(objects._RETRY, "max_retries", 1)
    through(lambda request: "cut request" if request.method == "PUT" and "2.jpg" in request.path else None)
    ran = Run(PIPELINE, place.address, sink.address)
    assert ran.failed == dict.fromkeys(("2.jpg", "a/2.jpg", "b/2.jpg", "more/2.jpg"), "UnwritableOutput")
    assert not any("2.jpg" in key for key in sink.contents())


def test_a_large_upload_that_fails_is_aborted(
    sink: Bucket, through: Callable[..., FaultyProxy], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from imageloom.errors import UnwritableOutput
    from imageloom.stores import object as objects

    monkeypatch.setitem(objects._RETRY, "max_retries", 1)
    proxy = through(lambda request: "refuse" if "partNumber=2" in request.path else None)
    store = open_store(sink.address)
    store.prepare(str(tmp_path))
    Path(store.staging("t")).write_bytes(bytes(20_000_000))
    with pytest.raises(UnwritableOutput, match="503 Service Unavailable"):
        store.publish("t", "large.tif", "maker", False)
    store.tidy()
    assert any(r.method == "DELETE" and "uploadId=" in r.path for r in proxy.requests)
    assert sink.contents() == {}


def test_killed_and_run_again_the_end_is_the_same(
    place: Bucket, sink: Bucket, expected: dict[str, bytes], through: Callable[..., FaultyProxy]
) -> None:
    through(delay=0.05)

    def has_begun() -> bool:
        return bool(sink.outputs()) or running.poll() is not None

    for pause in (0.1, 0.2):
        running = start("run", "-q", "--in-flight", "3", PIPELINE, place.address, sink.address)
        wait_until(has_begun)
        time.sleep(pause)  # killed at several moments
        kill(running)
        running.wait(60)
        made = {key: data for key, data in sink.contents().items() if not key.startswith(".imageloom/")}
        assert made == {key: expected[key] for key in made}
    assert Run(PIPELINE, place.address, sink.address).summary.failed == 0
    assert sink.contents() == expected


def test_shards_at_once_make_what_one_run_makes(
    place: Bucket, sink: Bucket, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """With a ledger each, as on machines of their own. One is killed, and started again with another ledger."""

    def run(number: int, ledger: str) -> subprocess.Popen[str]:
        arguments = ("--shard", f"{number}/3", "--ledger", tmp_path / ledger / "ledger.db")
        return start("run", "-q", "--in-flight", "2", PIPELINE, place.address, sink.address, *arguments)

    runs = [run(number, str(number)) for number in (1, 2, 3)]
    wait_until(sink.outputs)
    kill(runs[1])
    runs[1] = run(2, "new")
    assert [one.wait(60) for one in runs] == [0, 0, 0]
    assert sink.contents() == expected


# What is known before the work


def test_what_cannot_work_is_said_before_it_starts(
    swift: Swift, place: Bucket, sink: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log, ledger = tmp_path / "log", tmp_path / "ledger.db"

    def reason(source: str, to: str) -> str:
        done = imageloom("run", "--ledger", ledger, "--log-file", log, PIPELINE, source, to)
        assert done.returncode == 4, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "no such bucket" in reason("s3://not-there/in", sink.address)
    assert "cannot write to s3://not-there/out" in reason(place.address, "s3://not-there/out")
    name = f"readable{next(_numbers)}"
    swift.make_bucket(name, writable=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    assert "access is denied" in reason(place.address, str(tmp_path / "out"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test:reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reading")
    assert "access is denied" in reason(str(tmp_path), f"s3://{name}/out")
    written = ledger.read_bytes() + (log.read_bytes() if log.exists() else b"")
    assert not any(secret in written for secret in (b"wrong-secret", b"reading", SECRET.encode()))


def test_nothing_secret_is_written_down(place: Bucket, sink: Bucket, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = imageloom("run", "-v", "--json", "--log-file", log, PIPELINE, place.address, sink.address)
    assert done.returncode == 0, done.stderr
    state = Path(os.environ["XDG_STATE_HOME"])
    for text in (done.stdout, done.stderr, log.read_text()):
        assert SECRET not in text
    assert not any(SECRET.encode() in data for data in contents(state).values())
    with closing(sqlite3.connect(state / "imageloom" / "ledger.db")) as db:
        assert db.execute("SELECT source, sink FROM jobs").fetchall() == [(place.address, sink.address)]


def test_a_sink_in_its_source_and_a_remote_one_in_place_are_refused(s3: None) -> None:
    for sink in ("s3://bucket/in", "s3://bucket/in/out", "s3://bucket/in/"):
        with pytest.raises(UsageError, match="lies in the source"):
            process(PIPELINE, "s3://bucket/in", sink)
    with pytest.raises(UsageError, match="--in-place needs a local folder"):
        process(PIPELINE, "s3://bucket/in", "s3://bucket/in", in_place=True)


def test_one_run_at_a_time_writes_into_a_sink(
    place: Bucket, sink: Bucket, through: Callable[..., FaultyProxy]
) -> None:
    through(delay=0.2)
    running = start("run", "-q", "--in-flight", "1", PIPELINE, place.address, sink.address)
    try:
        wait_until(sink.outputs)
        with pytest.raises(StorageError, match="one run at a time"):
            process(PIPELINE, place.address, sink.address)
    finally:
        running.kill()
        running.wait(60)


# Much, and large


@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_many_keys_are_listed_in_bounded_memory(count: int) -> None:
    place = Memory("many")
    for number in range(count):
        place.put(f"{number % 100:02}/{number:06}.jpg", b"")
    open_store.cache_clear()
    store = open_store(place.address)
    next(store.items())
    tracemalloc.start()
    try:
        assert sum(1 for _ in store.items()) == count
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "count", [2_000, pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_many_images_are_done_in_bounded_memory(count: int, tmp_path: Path) -> None:
    most = peak(count, tmp_path)
    assert most < 4_000_000 + 200 * count  # an output, which this store keeps, is 150 bytes


def test_large_images_are_done_in_tiles_by_way_of_scratch(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageloom.model.image.LARGE", 100_000)
    place, sink = Memory("large"), Memory("large-sink")
    photo = draw(tmp_path / "in" / "large.png", width=900, height=700)
    place.put("large.png", photo.read_bytes())
    process("flip", photo.parent, out, tile="always")
    (tmp_path / "scratch").mkdir()
    open_store.cache_clear()
    for text, folder in (("flip", "whole"), ("flip | resize 100x100", "small")):
        summary = process(
            text,
            place.address,
            f"{sink.address}/{folder}",
            tile="always",
            scratch=tmp_path / "scratch",
            jobs=2,
        )
        assert summary.done == 1
    assert sink.contents()["whole/large.png"] == (out / "large.png").read_bytes()
    assert "small/large.png" in sink.contents()
    assert list((tmp_path / "scratch").iterdir()) == []
