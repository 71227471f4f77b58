"""Files of ISO boxes: AVIF, HEIF, JPEG XL and JPEG 2000."""

from __future__ import annotations

import struct

import numpy as np
import PIL.ImageCms
import pytest

from faithful import scene
from imageloom import codecs
from imageloom.codecs import jxl
from imageloom.codecs.isobmff import item_bytes, items_of
from imageloom.codecs.metadata import Metadata
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
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


def test_a_jpeg_xl_is_not_decoded_for_its_profile_if_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    entry = profile.index(b"rXYZ")
    red = int.from_bytes(profile[entry + 4 : entry + 8])
    profile[red + 8 : red + 12] = (40_000).to_bytes(4)
    image = np.zeros((1200, 1500, 3), np.uint8)
    data = codecs.encode("jxl", image, Encoding(90), Metadata(icc=bytes(profile)))
    assert isinstance(data, bytes)
    monkeypatch.setattr(jxl, "_UNSUSPECTED", 1)
    monkeypatch.setattr(jxl, "_profile", lambda data: pytest.fail("it is decoded"))
    with pytest.raises(LimitExceeded, match="1500x1200"):
        codecs.header_of(data)
