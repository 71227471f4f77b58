"""Whole runs from and to Google Drive, and watching it, over a server that stands in for it and goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from testservers.proxy import Fault as Cut
from testservers.proxy import FaultyProxy, Request

from drive_server import ROOT, DriveServer, Folder, reach
from imageloom.api import process
from imageloom.stores import driveapi, open_store
from program import Run, contents, draw, imageloom
from watching import Watching, made_of_one

PIPELINE = "resize 64x48 | grayscale"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DriveServer]:
    monkeypatch.setattr(driveapi, "FIRST_PAUSE", 0.01)
    with DriveServer() as server:
        reach(server.endpoint, monkeypatch)
        yield server


@pytest.fixture
def place(server: DriveServer) -> Folder:
    return Folder(server, "Photos/in here")


@pytest.fixture
def proxy(server: DriveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Goes wrong with every third request that is no listing, in turn."""
    kinds: list[Cut] = ["lose answer", "refuse", "cut request", "throttle", "cut answer"]

    def fault(request: Request) -> Cut | None:
        return kinds[request.number // 3 % 5] if request.number % 3 == 0 else None

    with FaultyProxy(server.port, fault) as proxy:
        reach(proxy.endpoint, monkeypatch)
        yield proxy


def test_whatever_goes_wrong_nothing_is_lost_short_or_twice_there(
    server: DriveServer, proxy: FaultyProxy, photos: Path, tmp_path: Path
) -> None:
    place = Folder(server, "in")
    for key, data in contents(photos).items():
        place.put(key, data)
    process(PIPELINE, photos, tmp_path / "expected")
    server.fault = lambda *_: (403, "userRateLimitExceeded") if server.number() % 7 == 0 else None
    ran = Run(PIPELINE, place.address, "gdrive://root/out", engine="threads", in_flight=4)
    assert ran.numbers == (6, 0, 0)
    assert server.contents(server.folder("out")) == contents(tmp_path / "expected")
    assert proxy.requests[-1].number > 30


def test_a_creation_whose_answer_is_lost_is_not_done_twice(
    server: DriveServer, place: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: set[str] = set()

    def fault(request: Request) -> Cut | None:
        if request.method != "POST" or request.path in lost:
            return None
        lost.add(request.path)
        return "lose answer"

    with FaultyProxy(server.port, fault) as proxy:
        reach(proxy.endpoint, monkeypatch)
        store = open_store(place.address)
        store.stage("t", b"data")
        store.commit("t", "new/1.jpg", "maker", False)
    assert len(lost) == 2  # of a folder and of a file
    assert place.contents() == {"new/1.jpg": b"data"}
    assert [file["name"] for file in server.within(place.id)] == ["new"]
    assert sum(request.method == "POST" for request in proxy.requests) == 4


def test_a_large_upload_goes_on_where_it_was_cut(
    server: DriveServer, place: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driveapi, "PART", 1 << 20)
    cuts: list[Cut] = ["lose answer", "cut request", "refuse", "lose answer"]
    lost = 0

    def fault(request: Request) -> Cut | None:
        nonlocal lost
        if request.size > 1000 and request.number % 2 and cuts:
            lost += request.size
            return cuts.pop()
        return None

    data = bytes(range(251)) * 30_000
    with FaultyProxy(server.port, fault) as proxy:
        reach(proxy.endpoint, monkeypatch)
        store = open_store(place.address)
        store.prepare(str(tmp_path))
        Path(store.staging("t")).write_bytes(data)
        store.publish("t", "large.tif", "maker", False)
        store.tidy()
    assert not cuts
    assert place.contents() == {"large.tif": data}
    assert sum(request.size for request in proxy.requests) < len(data) + lost + 10_000


def test_a_download_goes_on_where_it_was_cut(
    server: DriveServer, place: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = bytes(range(251)) * 10_000
    place.put("large.tif", data)
    cut: list[Request] = []

    def fault(request: Request) -> Cut | None:
        if "alt=media" in request.path and len(cut) < 3:
            cut.append(request)
            return "cut answer"
        return None

    with FaultyProxy(server.port, fault) as proxy:
        reach(proxy.endpoint, monkeypatch)
        open_store(place.address).fetch("large.tif", str(tmp_path / "copy"), len(data))
    assert (tmp_path / "copy").read_bytes() == data
    starts = [int(r.headers["range"][6:].split("-")[0]) for r in proxy.requests if "alt=media" in r.path]
    assert starts == sorted(set(starts))
    assert len(starts) == 4


def test_a_run_from_and_to_drive_and_again(server: DriveServer, photos: Path, tmp_path: Path) -> None:
    place = Folder(server, "in")
    for key, data in contents(photos).items():
        place.put(key, data)
    process(PIPELINE, photos, tmp_path / "expected")
    command = ("run", "--engine", "processes", "-j", 2, PIPELINE, place.address, "gdrive://root/out")
    for said in ("6 done", "all 6 are up to date"):
        done = imageloom(*command)
        assert done.returncode == 0, done.stderr
        assert said in done.stderr + done.stdout
        assert server.contents(server.folder("out")) == contents(tmp_path / "expected")


def test_drive_is_watched_by_its_changes_and_listed_once(
    server: DriveServer, place: Folder, tmp_path: Path, out: Path
) -> None:
    one, two = (draw(tmp_path / "in" / f"{seed}.jpg", seed).read_bytes() for seed in (1, 2))

    def listings() -> int:
        """Those of whole folders; a look at one name is a listing, too."""
        return server.asked("orderBy") - server.asked("name+%3D")

    def wait_for_questions() -> None:
        asked = server.asked("/drive/v3/changes?")
        watch.wait(lambda: server.asked("/drive/v3/changes?") >= asked + 2)

    place.put("1.jpg", one)
    with Watching(PIPELINE, place.address, out, "--engine", "threads", "--poll", "0.1") as watch:
        watch.wait_for("1.jpg")
        wait_for_questions()
        listed = listings()
        place.put("2.jpg", one)
        server.put("elsewhere/3.jpg", one)
        watch.wait_for("2.jpg")
        place.put("2.jpg", two)
        watch.wait_for("2.jpg", times=2)
        moved = server.add("before.jpg", ROOT, one)
        with server.lock:
            server.save({"id": moved, "name": "moved.jpg", "parents": [place.id]}, None)
            server.save({"id": server.put("Photos/in here/trashed.jpg", one), "trashed": True}, None)
        watch.wait_for("moved.jpg")
        server.remove(moved)
        wait_for_questions()
        place.put("moved.jpg", one)
        watch.wait_for("moved.jpg", times=2)
        assert listings() == listed == 1
        folder = server.folder("new", ROOT)
        server.add("4.jpg", folder, two)
        server.save({"id": folder, "parents": [place.id]}, None)
        watch.wait_for("new/4.jpg")
        server.put("Photos/in here/new/5.jpg", one)
        watch.wait_for("new/5.jpg")
        assert listings() == 1 + 2
        server.fault = lambda method, path: (400, "invalid") if "/changes?" in path else None
        place.put("6.jpg", two)
        watch.wait_for("6.jpg")
        assert listings() > 3
        server.fault = lambda method, path: (503, "backendError") if server.number() % 2 else None
        place.put("7.jpg", two)
        watch.wait_for("7.jpg")
        assert watch.end() == 0
        done = [
            "1.jpg",
            "2.jpg",
            "2.jpg",
            "6.jpg",
            "7.jpg",
            "moved.jpg",
            "moved.jpg",
            "new/4.jpg",
            "new/5.jpg",
        ]
        assert sorted(watch.items("done")) == done
        assert watch.events("failed") == []
    assert contents(out)["new/4.jpg"] == made_of_one(two, "x.jpg", tmp_path)
