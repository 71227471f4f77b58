"""Files of ISO boxes: AVIF, HEIF, JPEG XL and JPEG 2000."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from faithful import scene
from imageloom import codecs
from imageloom.codecs.isobmff import item_bytes, items_of
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding

FORMATS = ("avif", "heif", "jxl", "jp2")
BEHIND = (b"\0", b"SEFT" + bytes(100), b"\xff" * 50, struct.pack(">I", 24) + b"free" + bytes(16))


def encoded(format: str) -> bytes:
    data = codecs.encode(format, scene(3), Encoding(80))
    assert isinstance(data, bytes)
    return data


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_behind_the_boxes_are_ignored(format: str) -> None:
    data = encoded(format)
    wanted = codecs.decode(data, codecs.header_of(data))
    for behind in BEHIND:
        longer = data + behind
        np.testing.assert_array_equal(codecs.decode(longer, codecs.header_of(longer)), wanted)
        assert codecs.read_metadata(longer, format) == codecs.read_metadata(data, format)


@pytest.mark.parametrize("format", ["avif", "heif"])
def test_items_that_are_cut_off_within_a_complete_box(format: str) -> None:
    data = bytearray(encoded(format))
    at = data.index(b"iinf")
    data[at + 8 : at + 10] = b"\xff\xff"
    data[at + 10 : at + 14] = struct.pack(">I", 1 << 20)
    with pytest.raises(CorruptImage):
        codecs.header_of(bytes(data))


def test_items_of_too_many_pieces_are_refused() -> None:
    data = encoded("heif")
    items = items_of(data)
    places = b"".join(struct.pack(">HHH", item, 0, 65_535) for item in range(4000))
    iloc = struct.pack(">IHH", 0, 0, 4000) + places
    with pytest.raises(UnsupportedImage, match="pieces"):
        item_bytes(data, items._replace(boxes={b"iloc": iloc}), 3999)
