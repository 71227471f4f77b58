"""Stores: the conformance suite over every family, and what each must refuse."""

from __future__ import annotations

import contextlib
import itertools
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from testservers.swift import Swift

from imageloom.errors import MissingExtra, StorageError, UnwritableOutput, UsageError
from imageloom.model import Item, Unlisted
from imageloom.stores import Store, open_store
from imageloom.stores.fsspec import FsspecStore
from imageloom.stores.local import LocalStore
from imageloom.stores.names import new_token
from imageloom.testing.stores import ODD, Place, StoreTests
from places import Bucket, Folder, FsspecMemory, Memory, sftp_server

_numbers = itertools.count()


class TestLocal(StoreTests):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Folder(tmp_path / "place")


class TestMemory(StoreTests):
    @pytest.fixture
    def place(self) -> Place:
        return Memory(f"bucket{next(_numbers)}")


class TestFsspecMemory(StoreTests):
    @pytest.fixture
    def place(self) -> Place:
        return FsspecMemory(f"folder{next(_numbers)}")

    def open(self, address: str) -> Store:
        return FsspecStore(address)


class TestSwift(StoreTests):
    @pytest.fixture
    def place(self, swift: Swift, s3: None) -> Place:
        return Bucket(swift, f"bucket{next(_numbers)}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """An SFTP server's port and folder."""
    folder = tmp_path_factory.mktemp("sftp")
    with sftp_server(folder) as port:
        yield port, folder


class TestSftp(StoreTests):
    odd = tuple(key for key in ODD if not set(key) & set("?#"))

    @pytest.fixture
    def place(self, server: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> Place:
        from fsspec.config import conf

        port, folder = server
        monkeypatch.setitem(conf, "sftp", {"password": "secret"})
        name = f"folder{next(_numbers)}"
        return Folder(folder / name, f"sftp://me@127.0.0.1:{port}/{name}")

    def test_a_wrong_password_is_said_and_not_shown(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fsspec.config import conf

        monkeypatch.setitem(conf, "sftp", {"password": "wrong-secret"})
        with pytest.raises(StorageError, match="access is denied") as error:
            self.open(place.address)
        assert "wrong-secret" not in str(error.value)


# Archives


def test_a_zip_is_a_source(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for key in ("1.jpg", "a/2.jpg", "../up.jpg", "/top.jpg", "a/../../up.jpg"):
            archive.writestr(key, key)
    store = open_store(f"zip://{tmp_path}/photos.zip")
    entries = list(store.items())
    assert {e.key: e.size for e in entries if isinstance(e, Item)} == {"1.jpg": 5, "a/2.jpg": 7}
    assert {e.failure.kind for e in entries if isinstance(e, Unlisted)} == {"InvalidName"}
    assert store.read("a/2.jpg", 100) == b"a/2.jpg"
    below = open_store(f"zip://{tmp_path}/photos.zip/a")
    assert [e.key for e in below.items() if isinstance(e, Item)] == ["2.jpg"]


@pytest.mark.parametrize("scheme", ["zip", "tar"])
def test_an_archive_is_no_sink(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / f"photos.{scheme}"
    (zipfile.ZipFile if scheme == "zip" else tarfile.open)(path, "w").close()
    with pytest.raises(UsageError, match="can only be read"):
        open_store(f"{scheme}://{path}").prepare("")


# Addresses


def test_a_file_address_is_a_local_folder(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/a%20b").address == f"{tmp_path}/a b"


def test_what_a_late_worker_stages_goes_as_well(tmp_path: Path) -> None:
    """One whose task was given to another while it was thought dead writes on while the folder goes."""
    ended = threading.Event()

    def stage(worker: int) -> None:
        store = LocalStore(str(tmp_path))
        for number in itertools.count():
            if ended.is_set():
                return
            with contextlib.suppress(UnwritableOutput):
                store.stage(new_token("1", number, worker), b"data")
            time.sleep(0.0001)

    threads = [threading.Thread(target=stage, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    sink = LocalStore(str(tmp_path))
    try:
        for _ in range(50):
            sink.prepare()
            time.sleep(0.002)
            sink.tidy()
            assert not (tmp_path / ".imageloom").exists()
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    "address",
    ["s3://AKIA:hunter2@bucket/in", "sftp://me:hunter2@host/in", "s3://bucket/in?X-Amz-Signature=hunter2"],
)
def test_secrets_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UsageError) as error:
        open_store(address)
    assert "hunter2" not in str(error.value)


def test_an_unknown_scheme_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"there is no scheme wrong://.*s3, gs, az"):
        open_store("wrong://place")


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [
        ("s3://bucket", "obstore", "s3"),
        ("gs://bucket", "obstore", "gcs"),
        ("az://bucket", "obstore", "azure"),
        ("ftp://host/in", "fsspec", "fsspec"),
        ("gdrive://root/in", "google.auth", "gdrive"),
    ],
)
def test_a_missing_library_names_its_extra(
    address: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    open_store.cache_clear()
    with pytest.raises(MissingExtra, match=rf"imageloom\[{extra}\]"):
        open_store(address)


def test_without_credentials_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    open_store.cache_clear()
    with pytest.raises(StorageError, match="no credentials for s3://"):
        open_store("s3://bucket")


def test_credentials_come_from_a_profile(
    swift: Swift, s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Bucket(swift, f"bucket{next(_numbers)}")
    place.put("1.jpg", b"one")
    for name in swift.environment:
        monkeypatch.delenv(name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[other]\naws_access_key_id = test:tester\naws_secret_access_key = testing\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        f"[profile other]\nregion = us-east-1\nendpoint_url = {swift.endpoint}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "other")
    open_store.cache_clear()
    assert open_store(place.address).read("1.jpg", 100) == b"one"


def test_a_key_that_is_no_path_is_named_and_those_behind_it_are_listed(swift: Swift, s3: None) -> None:
    place = Bucket(swift, f"bucket{next(_numbers)}")
    for key in ("b//c.jpg", "d/../e.jpg", "z.jpg"):
        place.put(key, b"x")
    open_store.cache_clear()
    entries = list(open_store(place.address).items())
    assert [e.key for e in entries if isinstance(e, Item)] == ["z.jpg"]
    assert [e.key for e in entries if isinstance(e, Unlisted)] == ["b//c.jpg", "d/../e.jpg"]
