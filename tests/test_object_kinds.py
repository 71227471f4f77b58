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
from imageloom.stores.object import _memories
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


def test_large_outputs_have_it_too(place: Memory, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.jpg", 1, 900, 700)
    run = Run(
        "resize 5000x4000", tmp_path / "in", place.address, engine="threads", format="png", tile="always"
    )
    assert run.numbers == (1, 0, 0)
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
