"""Google Drive, over a server that stands in for it: the suite of stores, and what is its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drive_server import DriveServer, Fault, Folder, reach
from imageloom.api import process
from imageloom.errors import OutputExists, StorageError, UnreadableItem, UnwritableOutput, UsageError
from imageloom.model import Item, Unlisted
from imageloom.stores import Store, credentials, driveapi, open_store
from imageloom.stores.drive import DriveStore
from imageloom.testing.stores import Place, StoreTests

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


class TestDrive(StoreTests):
    @pytest.fixture
    def place(self, place: Folder) -> Place:
        return place


@pytest.fixture
def store(place: Folder) -> DriveStore:
    store = open_store(place.address)
    assert isinstance(store, DriveStore)
    return store


def write(store: Store, key: str, data: bytes, maker: str = "maker", replace: bool = False) -> None:
    store.stage("t", data)
    store.commit("t", key, maker, replace)


def keys(store: Store) -> list[str]:
    return sorted(entry.key for entry in store.items() if isinstance(entry, Item))


# What is Drive's own


def test_all_pages_of_all_folders_are_listed(server: DriveServer, place: Folder, store: DriveStore) -> None:
    names = [f"{folder}{number}.jpg" for folder in ("", "a/", "a/b/") for number in range(20)]
    for name in names:
        place.put(name, name.encode())
    place.put("gone.jpg", b"x")
    server.save({"id": server.within(place.id)[-1]["id"], "trashed": True}, None)
    assert keys(store) == sorted(names)
    assert server.asked("/drive/v3/files?") == 2 + 3 * 3  # the way to the folder, and three pages of each


def test_what_was_listed_is_read_in_one_request(
    server: DriveServer, place: Folder, store: DriveStore
) -> None:
    for number in range(5):
        place.put(f"{number}.jpg", b"%d" % number)
    listed = keys(store)
    before = len(server.requests)
    assert [store.read(key, 10) for key in listed] == [b"%d" % number for number in range(5)]
    assert len(server.requests) - before == 5


def test_what_has_changed_since_it_was_listed_is_read_as_it_is(place: Folder, store: DriveStore) -> None:
    place.put("1.jpg", b"one")
    assert keys(store) == ["1.jpg"]
    place.put("1.jpg", b"other")
    assert store.read("1.jpg", 10) == b"other"


def test_of_files_of_one_name_the_oldest_is_meant_and_others_are_refused(
    server: DriveServer, place: Folder, store: DriveStore
) -> None:
    server.add("1.JPG", place.id, b"another name")
    first = server.add("1.jpg", place.id, b"first")
    second = server.add("1.jpg", place.id, b"second")
    assert store.read("1.jpg", 10) == b"first"
    entries = {entry.key: entry for entry in store.items()}
    assert entries.keys() == {"1.jpg", f"1 ({second}).jpg", "1.JPG"}
    refused = entries[f"1 ({second}).jpg"]
    assert isinstance(refused, Unlisted)
    assert "an older file" in refused.failure.message
    server.remove(first)
    assert store.read("1.jpg", 10) == b"second"
    assert keys(store) == ["1.JPG", "1.jpg"]


def test_folders_of_one_name_are_one(server: DriveServer, place: Folder, store: DriveStore) -> None:
    old, new = server.add("a", place.id), server.add("a", place.id)
    server.add("1.jpg", old, b"one")
    server.add("2.jpg", new, b"two")
    assert keys(store) == ["a/1.jpg", "a/2.jpg"]
    assert store.read("a/2.jpg", 10) == b"two"
    write(store, "a/2.jpg", b"new", replace=True)
    write(store, "a/3.jpg", b"three")
    assert {file["name"] for file in server.within(old)} == {"1.jpg", "3.jpg"}
    assert server.within(new)[0]["data"] == b"new"


def test_what_is_no_file_or_has_no_name_for_one_is_told(
    server: DriveServer, place: Folder, store: DriveStore
) -> None:
    server.add("link.jpg", place.id, b"", mimeType="application/vnd.google-apps.shortcut")
    server.add("a/b.jpg", place.id, b"x")
    server.add("..", place.id)
    told = {entry.key: entry.failure for entry in store.items() if isinstance(entry, Unlisted)}
    assert {key: failure.kind for key, failure in told.items()} == {
        "link.jpg": "UnreadableItem",
        "a%2Fb.jpg": "InvalidName",
        "..": "InvalidName",
    }
    assert "no file but a shortcut" in told["link.jpg"].message


def test_a_folder_by_its_id(server: DriveServer, place: Folder) -> None:
    place.put("a/1.jpg", b"one")
    assert keys(open_store(f"gdrive://{place.id}/a")) == ["1.jpg"]
    for address in ("gdrive://", "gdrive:// /a", "gdrive://../a"):
        with pytest.raises(UsageError, match="needs a folder"):
            open_store(address)
    with pytest.raises(StorageError, match=r"no such file or folder.*404 notFound"):
        keys(open_store("gdrive://not-there/a"))
    with pytest.raises(StorageError, match="there is no folder gdrive://root/nothing"):
        keys(open_store("gdrive://root/nothing"))


def test_a_folder_of_a_shared_drive(server: DriveServer, tmp_path: Path) -> None:
    shared = server.add("Team", "", driveId="the-drive")
    server.put("Photos/mine.jpg", b"mine")
    server.put("a/1.jpg", b"one", shared)
    store = open_store(f"gdrive://{shared}")
    store.prepare(str(tmp_path))
    feed = store.feed()
    assert feed
    assert keys(store) == ["a/1.jpg"]
    write(store, "a/2.jpg", b"two")
    server.put("Photos/2.jpg", b"mine")
    assert feed.take() == ["a/2.jpg"]
    assert feed.take() == []
    assert server.contents(shared) == {"a/1.jpg": b"one", "a/2.jpg": b"two"}
    store.tidy()


def test_a_sink_in_its_source_is_noticed_by_whatever_address(server: DriveServer, photos: Path) -> None:
    inner = server.folder("Photos/in here/out")
    for sink in (f"gdrive://{inner}/new", "gdrive://root/Photos/in here/out"):
        with pytest.raises(UsageError, match="lies in the source"):
            process(PIPELINE, "gdrive://root/Photos", sink)


def test_a_folder_that_may_only_be_read_is_no_sink(
    server: DriveServer, place: Folder, store: DriveStore
) -> None:
    server.save({"id": place.id, "may_add": False}, None)
    with pytest.raises(StorageError, match="has only read access"):
        store.prepare("")


def test_who_is_not_the_first_takes_its_file_back(
    server: DriveServer, place: Folder, store: DriveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one creates the file between the look and the creation."""
    create = store._drive.create

    def late(*arguments: object) -> str:
        server.add("1.jpg", place.id, b"theirs")
        return create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store._drive, "create", late)
    with pytest.raises(OutputExists):
        write(store, "1.jpg", b"mine")
    assert place.contents() == {"1.jpg": b"theirs"}


_CLIENT = """
import sys
from imageloom.errors import OutputExists
from imageloom.stores import open_store

store, won = open_store(sys.argv[1]), []
for number in range(20):
    store.stage("token", f"{sys.argv[2]} {number}".encode())
    try:
        store.commit("token", f"new/{number % 3}/{number}.jpg", sys.argv[2], False)
        won.append(str(number))
    except OutputExists:
        pass
print(*won)
"""


def test_clients_that_race_leave_one_file_of_each_name(place: Folder) -> None:
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENT, place.address, name], stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b", "c")
    ]
    try:
        won = {
            name: client.communicate(timeout=60)[0].split()
            for name, client in zip("abc", clients, strict=True)
        }
    finally:
        for client in clients:
            client.kill()
            client.wait()
    assert sorted(int(number) for numbers in won.values() for number in numbers) == list(range(20))
    assert place.contents() == {
        f"new/{int(number) % 3}/{number}.jpg": f"{name} {number}".encode()
        for name, numbers in won.items()
        for number in numbers
    }


# What goes wrong


def test_what_passes_is_tried_again_and_what_does_not_is_said(
    server: DriveServer, place: Folder, store: DriveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put("1.jpg", b"one")
    faults: list[Fault] = [(403, "userRateLimitExceeded"), (429, "rateLimitExceeded"), (503, "backendError")]
    server.fault = lambda *_: faults.pop() if faults else None
    assert store.read("1.jpg", 10) == b"one"
    assert not faults
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    for status, reason, words in (
        (403, "dailyLimitExceeded", "access is denied.*403 dailyLimitExceeded"),
        (401, "authError", "access is denied"),
        (404, "notFound", "no such file"),
    ):
        server.fault = lambda *_, fault=(status, reason): fault
        before = len(server.requests)
        with pytest.raises(StorageError, match=words) as error:
            store.find("1.jpg")
        assert "secret" not in str(error.value)
        assert len(server.requests) - before == 1
    assert not waited
    server.fault = lambda *_: (503, "backendError")
    with pytest.raises(UnreadableItem, match="503 backendError"):
        open_store(place.address).read("1.jpg", 10)
    assert len(waited) == driveapi.TRIES - 1
    assert waited[-1] > 8 * waited[0]


def test_an_upload_that_fails_is_not_seen(server: DriveServer, place: Folder, store: DriveStore) -> None:
    place.put("1.jpg", b"old")
    server.fault = lambda method, path: (403, "storageQuotaExceeded") if "/upload/" in path else None
    for key in ("1.jpg", "2.jpg"):
        with pytest.raises(UnwritableOutput, match="403 storageQuotaExceeded"):
            write(store, key, b"new", replace=True)
    assert place.contents() == {"1.jpg": b"old"}


# Credentials


def test_without_credentials_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(credentials.GOOGLE_FROM, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    open_store.cache_clear()
    with pytest.raises(StorageError, match=r"no credentials for gdrive://.*GOOGLE_APPLICATION_CREDENTIALS"):
        open_store("gdrive://root")


@pytest.mark.parametrize(
    "endpoint", ["http://example.org:80", "https://127.0.0.1", "http://127.0.0.1.example.org"]
)
def test_another_endpoint_is_one_of_this_machine(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(endpoint, monkeypatch)
    with pytest.raises(UsageError, match="a server on this machine"):
        open_store("gdrive://root")
