"""The conformance suite for stores, as a pytest class. It needs a storage location with independent access:

class TestLocal(StoreTests):
    @pytest.fixture
    def place(self, tmp_path): return Folder(tmp_path / "place")
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Protocol

import pytest

from imageloom.errors import (
    InvalidName,
    LimitExceeded,
    OutputExists,
    UnreadableItem,
    UnwritableOutput,
)
from imageloom.model import Item
from imageloom.stores import Store, open_store
from imageloom.stores.names import STAGING, new_token

LARGE = 9_000_000
"""Size in bytes of an output that is uploaded in parts."""
MUCH = 1 << 30
ODD = (
    "a b.jpg",
    "c#d.jpg",
    "e?f=g.jpg",
    "h%20i.jpg",
    "j&k+l.jpg",
    "\N{SNOWMAN}/é.jpg",
    "back\\slash.jpg",
    "'q\".jpg",
)
WRONG = ("../up.jpg", "a/../../up.jpg", "/top.jpg", "a//b.jpg", "./here.jpg", "line\nbreak.jpg", "nul\0.jpg")


class Place(Protocol):
    """Access to a store's contents without the store's code."""

    address: str

    def put(self, key: str, data: bytes) -> None: ...

    def contents(self) -> dict[str, bytes]:
        """Contents of all files by key, including hidden files."""


class StoreTests:
    """The suite."""

    odd: ClassVar[tuple[str, ...]] = ODD
    """Unusual keys that the store must support."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def store(self, place: Place) -> Store:
        return self.open(place.address)

    def open(self, address: str) -> Store:
        open_store.cache_clear()
        return open_store(address)

    @pytest.fixture
    def sink(self, store: Store, tmp_path: Path) -> Store:
        """The store, prepared for writing."""
        store.prepare(str(tmp_path))
        return store

    def write(
        self,
        store: Store,
        key: str,
        data: bytes,
        maker: str = "maker",
        replace: bool = False,
        token: str = "t",
    ) -> None:
        """Stage, commit and publish an output, as worker and driver do."""
        store.stage(token, data)
        store.commit(token, key, maker, replace)
        store.publish(token, key, maker, replace)

    # Reading

    def test_all_that_is_there_is_listed_with_its_size(self, store: Store, place: Place) -> None:
        files = {"1.jpg": b"one", "a/2.png": b"two..", "a/b/3.jpg": b"", "z.txt": b"text"}
        for key, data in (files | {"a/.hidden.jpg": b"x", f"{STAGING}/t": b"y"}).items():
            place.put(key, data)
        found = {entry.key: entry.size for entry in store.items() if isinstance(entry, Item)}
        assert found == {key: len(data) for key, data in files.items()}
        one, listed = store.find("a/2.png"), next(e for e in store.items() if e.key == "a/2.png")
        assert one
        assert isinstance(listed, Item)
        assert (one.key, one.fingerprint) == (listed.key, listed.fingerprint)
        assert abs(one.mtime_ns - listed.mtime_ns) < 1e9  # the header of one object has whole seconds

    def test_what_is_read_is_what_is_there(self, store: Store, place: Place, tmp_path: Path) -> None:
        data = bytes(range(256)) * 1000
        place.put("a/1.jpg", data)
        assert store.read("a/1.jpg", MUCH) == data
        assert store.head("a/1.jpg", 100) == data[:100]
        assert store.head("a/1.jpg", 100, 777) == data[777:877]
        assert store.head("a/1.jpg", 100, len(data) - 5) == data[-5:]
        store.fetch("a/1.jpg", str(tmp_path / "copy"), MUCH)
        assert (tmp_path / "copy").read_bytes() == data
        assert (store.size("a/1.jpg"), store.exists("a/1.jpg")) == (len(data), True)

    def test_what_is_not_there_is_said_so(self, store: Store, place: Place, tmp_path: Path) -> None:
        place.put("1.jpg", b"one")
        assert store.find("2.jpg") is None
        assert store.size("a/2.jpg") is None
        assert not store.exists("2.jpg")
        for read in (store.read, store.head, lambda key, n: store.fetch(key, str(tmp_path / "copy"), n)):
            with pytest.raises(UnreadableItem):
                read("2.jpg", 10)

    def test_over_the_limit_nothing_is_read(self, store: Store, place: Place, tmp_path: Path) -> None:
        place.put("1.jpg", bytes(1000))
        assert len(store.read("1.jpg", 1000)) == 1000
        with pytest.raises(LimitExceeded, match="--max-file-size"):
            store.read("1.jpg", 999)
        with pytest.raises(LimitExceeded, match="--max-file-size"):
            store.fetch("1.jpg", str(tmp_path / "copy"), 999)

    def test_another_version_has_another_fingerprint(self, store: Store, place: Place) -> None:
        place.put("1.jpg", b"one")
        first = store.find("1.jpg")
        place.put("1.jpg", b"other")
        second = store.find("1.jpg")
        assert first
        assert second
        assert first.fingerprint != second.fingerprint
        assert second.fingerprint == next(e for e in store.items() if isinstance(e, Item)).fingerprint

    # Writing

    def test_an_output_is_seen_when_it_is_whole_and_not_before(self, sink: Store, place: Place) -> None:
        before = place.contents()
        sink.stage("t", b"data")
        assert {key for key in place.contents() if not key.startswith(f"{STAGING}/")} == before.keys()
        sink.commit("t", "a/b/1.jpg", "maker", False)
        sink.publish("t", "a/b/1.jpg", "maker", False)
        sink.tidy()
        assert place.contents() == {"a/b/1.jpg": b"data"}

    def test_what_is_discarded_leaves_nothing(self, sink: Store, place: Place) -> None:
        sink.stage("t", b"data")
        sink.discard("t")
        sink.discard("never")
        Path(sink.staging("u")).write_bytes(b"data")
        sink.discard("u")
        assert not Path(sink.staging("u")).exists()
        sink.tidy()
        assert place.contents() == {}

    def test_what_is_large_is_published_from_a_file(self, sink: Store, place: Place) -> None:
        data = bytes(range(250)) * (LARGE // 250)
        Path(sink.staging("t")).write_bytes(data)
        sink.publish("t", "a/large.tif", "maker", False)
        assert not Path(sink.staging("t")).exists()
        sink.tidy()
        assert place.contents() == {"a/large.tif": data}

    def test_an_output_takes_the_place_of_its_earlier_self(self, sink: Store, place: Place) -> None:
        self.write(sink, "1.jpg", b"one")
        self.write(sink, "1.jpg", b"other", replace=True)
        sink.tidy()
        assert place.contents() == {"1.jpg": b"other"}

    def test_creation_replaces_nothing(self, sink: Store, place: Place) -> None:
        """A creation never replaces a file, except one from the same item or with the same bytes."""
        if not sink.creates:
            pytest.skip("declared: it is looked whether a name is free before the work")
        place.put("foreign.jpg", b"foreign")
        with pytest.raises(OutputExists, match=r"foreign.jpg exists .*--if-exists"):
            self.write(sink, "foreign.jpg", b"mine")
        self.write(sink, "foreign.jpg", b"foreign")
        self.write(sink, "mine.jpg", b"first recipe")
        self.write(sink, "mine.jpg", b"second recipe")
        with pytest.raises(OutputExists):
            self.write(sink, "mine.jpg", b"mine", maker="another")
        Path(sink.staging("u")).write_bytes(b"large")
        with pytest.raises(OutputExists):
            sink.publish("u", "foreign.jpg", "maker", False)
        sink.tidy()
        assert place.contents() == {"foreign.jpg": b"foreign", "mine.jpg": b"second recipe"}

    def test_one_of_many_wins_a_name(self, sink: Store, place: Place) -> None:
        def commit(number: int) -> bool:
            try:
                self.write(sink, "1.jpg", b"%d" % number, f"maker {number}", token=f"t{number}")
            except (OutputExists, UnwritableOutput):
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = [number for number, won in enumerate(pool.map(commit, range(8))) if won]
        for number in {*range(8)} - {*won}:
            sink.discard(f"t{number}")
        sink.tidy()
        (data,) = place.contents().values()
        assert int(data) in won

    def test_many_at_once_do_not_mix(self, sink: Store, place: Place) -> None:
        def work(number: int) -> bytes:
            self.write(sink, f"{number % 3}/{number}.jpg", b"%d" % number * 1000, token=f"t{number}")
            return sink.read(f"{number % 3}/{number}.jpg", MUCH)

        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(work, range(40))) == [b"%d" % number * 1000 for number in range(40)]
        sink.tidy()
        assert len(place.contents()) == 40

    # Keys

    def test_odd_keys_come_through(self, sink: Store, place: Place) -> None:
        for key in self.odd:
            self.write(sink, key, key.encode())
        assert {e.key for e in sink.items() if isinstance(e, Item)} == set(self.odd)
        assert all(sink.read(key, MUCH) == key.encode() for key in self.odd)
        sink.tidy()
        assert place.contents() == {key: key.encode() for key in self.odd}

    @pytest.mark.parametrize("key", WRONG)
    def test_a_key_never_leads_out(self, sink: Store, place: Place, key: str) -> None:
        if sink.is_local:
            pytest.skip("a folder's own names are single names; others are refused where they come from")
        with pytest.raises(InvalidName, match="rename it"):
            self.write(sink, key, b"data")
        with pytest.raises(InvalidName):
            sink.read(key, MUCH)
        sink.tidy()
        assert place.contents() == {}

    def test_it_is_tidied_up(self, sink: Store, place: Place, tmp_path: Path) -> None:
        place.put("1.jpg", b"one")
        sink.stage(new_token("1", 1, 1), b"left")
        Path(sink.staging(new_token("1", 2, 1))).write_bytes(b"left")
        sink.prepare(str(tmp_path))
        sink.tidy()
        assert place.contents() == {"1.jpg": b"one"}
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("imageloom-")] == []

    def test_what_others_have_put_where_outputs_are_staged_stays(
        self, sink: Store, place: Place, tmp_path: Path
    ) -> None:
        others = {f"{STAGING}/{name}": b"theirs" for name in ("notes.txt", "2026-01-02", "1-1-1-input")}
        for key, data in others.items():
            place.put(key, data)
        sink.stage(new_token("1", 1, 1), b"left")
        sink.prepare(str(tmp_path))
        assert {key: place.contents().get(key) for key in others} == others
        sink.tidy()
        assert place.contents() == others
