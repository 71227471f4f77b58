"""Objects: the media type of outputs, encodings of inputs, and keys that are not valid paths."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import obstore
import pytest
from testservers.swift import Swift

from imageloom import codecs
from imageloom.bench.samples import draw_photo
from imageloom.errors import UnsupportedImage
from imageloom.model import Encoding
from imageloom.stores import open_store
from imageloom.stores.media import media_type
from imageloom.stores.object import ObjectStore, _memories
from places import Bucket, Memory
from program import Run, draw

_numbers = itertools.count()
MEDIA = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "tiff": "image/tiff",
    "bmp": "image/bmp",
    "pnm": "image/x-portable-pixmap",
    "avif": "image/avif",
}


@pytest.fixture
def place() -> Memory:
    open_store.cache_clear()
    return Memory(f"kinds{next(_numbers)}")


def attributes(place: Memory) -> dict[str, str]:
    client = _memories[place.address.split("/")[2]]
    return {key: obstore.get(client, f"folder/{key}").attributes["Content-Type"] for key in place.contents()}


@pytest.mark.parametrize("format", MEDIA)
def test_outputs_have_the_media_type_of_their_format(format: str, place: Memory, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.jpg")
    for name in ("{stem}.{ext}", "{stem}-unnamed", "{stem}-wrong.txt"):
        Run("invert", tmp_path / "in", place.address, engine="serial", format=format, name=name)
    assert set(attributes(place).values()) == {MEDIA[format]}
    assert len(attributes(place)) == 3


def test_outputs_from_files_have_it_too(place: Memory, tmp_path: Path) -> None:
    store = open_store(place.address)
    store.prepare(str(tmp_path))
    draw(tmp_path / "a.png").rename(store.staging("t"))
    store.publish("t", "a.png", "maker", False)
    store.tidy()
    assert attributes(place) == {"a.png": "image/png"}


def test_every_format_that_is_written_has_a_media_type() -> None:
    written = [
        format for format in codecs.formats() if codecs.get(format).written == format and format != "zarr"
    ]
    for format in written:
        data = codecs.encode(format, draw_photo(0, 16, 16), Encoding(80))
        assert isinstance(data, bytes)
        assert media_type(data[:64], "x").startswith("image/"), format


def test_an_object_that_is_stored_compressed_is_refused_by_name(place: Memory, tmp_path: Path) -> None:
    data = draw(tmp_path / "a.jpg").read_bytes()
    place.put("good.jpg", data)
    client = _memories[place.address.split("/")[2]]
    for encoding in ("gzip", "br"):
        given = {"Content-Encoding": encoding}
        obstore.put(client, f"folder/{encoding}.jpg", gzip.compress(data), attributes=given)
    obstore.put(client, "folder/same.jpg", data, attributes={"Content-Encoding": "identity"})
    with pytest.raises(UnsupportedImage, match="Content-Encoding: gzip"):
        open_store(place.address).read("gzip.jpg", 1 << 20)
    run = Run("invert", place.address, tmp_path / "out", engine="threads")
    assert (run.done, sorted(run.failed)) == (["good.jpg", "same.jpg"], ["br.jpg", "gzip.jpg"])
    assert "Content-Encoding: gzip" in run.reason("gzip.jpg")


def test_markers_of_folders_are_no_items(swift: Swift, s3: None, tmp_path: Path) -> None:
    place = Bucket(swift, f"markers{next(_numbers)}")
    place.put("a.jpg", draw(tmp_path / "a.jpg").read_bytes())
    for key in ("", "b.jpg/", "c/", "c/d/"):
        place.put(key, b"")
    place.put("empty.jpg", b"")
    run = Run("invert", place.address, tmp_path / "out", engine="threads")
    assert (run.done, list(run.failed)) == (["a.jpg"], ["empty.jpg"])
    assert run.summary.left_out == {}


ODD = ("a//b.jpg", "./c.jpg", "d/./e.jpg", "d/../f.jpg", "g.jpg/", "h/x\n.jpg", "/i.jpg")


def test_odd_keys_hide_no_others(swift: Swift, s3: None, tmp_path: Path) -> None:
    """Each fails by its name; the keys before and behind it in the listing are found."""
    place = Bucket(swift, f"odd{next(_numbers)}")
    data = draw(tmp_path / "a.jpg", 0, 24, 16).read_bytes()
    good = [f"{letter}/{number}.jpg" for letter in "AahzZ" for number in range(4)] + [
        "0.jpg",
        "z.jpg",
        "!.jpg",
    ]
    for key in (*good, *ODD):
        place.put(key, data)
    place.put("a/", b"")
    run = Run("invert", place.address, tmp_path / "out", engine="threads")
    assert run.done == sorted(good)
    assert set(run.failed.values()) == {"InvalidName"}
    shown = {key.replace("\n", "\\n") for key in ODD}
    assert set(run.failed) == shown


def test_keys_that_start_with_a_slash(swift: Swift, s3: None, tmp_path: Path) -> None:
    name = f"slash{next(_numbers)}"
    swift.make_bucket(name)
    data = draw(tmp_path / "a.jpg", 0, 24, 16).read_bytes()
    for key in ("/a.jpg", "a.jpg", "b.jpg"):
        swift.put(name, key, data)
    run = Run("invert", f"s3://{name}", tmp_path / "out", engine="threads")
    assert (run.done, run.failed) == (["a.jpg", "b.jpg"], {"/a.jpg": "InvalidName"})


def test_many_keys_beside_an_odd_one(swift: Swift, s3: None) -> None:
    """More than a page of keys on both sides."""
    place = Bucket(swift, f"many{next(_numbers)}")
    keys = [f"{letter}{number}.jpg" for letter in "az" for number in range(6)]
    for key in (*keys, "m//.jpg"):
        place.put(key, b"x")
    store = open_store(place.address)
    assert isinstance(store, ObjectStore)
    assert store._raw is not None
    listed = [found.key.removeprefix("in here/") for found in store._raw.keys("in here/", most=2)]
    assert listed == sorted([*keys, "m//.jpg"])
    after = [found.key.removeprefix("in here/") for found in store._raw.keys("in here/", "in here/m", 5)]
    assert after == sorted(key for key in [*keys, "m//.jpg"] if key > "m")
