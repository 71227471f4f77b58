"""JPEG in strips: the pixels of a file that was encoded whole, and regions of one that is decoded whole."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pyvips
import simplejpeg
from PIL import Image

from drawings import drawn
from imageloom.codecs import get
from imageloom.codecs.jpegmetadata import Around
from imageloom.codecs.piecewise import jpeg
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Frame, Pixels
from imageloom.tiling.readers import open_reader
from imageloom.tiling.readers.jpeg import Reader

SIZES = [(1, 1), (16, 16), (17, 33), (333, 128), (640, 257), (40, 5000)]


def whole(data: bytes, channels: int) -> Pixels:
    """Decoded by libjpeg-turbo at once."""
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if channels == 1 else "RGB")
    return pixels[:, :, 0] if channels == 1 else pixels


def some_boxes(frame: Frame, count: int = 25) -> list[tuple[int, int, int, int]]:
    chance = random.Random(frame.pixels)
    boxes = [(0, 0, frame.width, frame.height)]
    for _ in range(count):
        x0, y0 = chance.randrange(frame.width), chance.randrange(frame.height)
        boxes.append((x0, y0, chance.randint(x0 + 1, frame.width), chance.randint(y0 + 1, frame.height)))
    return boxes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_of_a_file_that_was_encoded_whole(
    width: int, height: int, channels: int, tmp_path: Path
) -> None:
    image = drawn(width, height, channels)
    data = jpeg.Encoder(Frame.of(image), quality=90).encode(image)
    expected = whole(get("jpeg").encode(image, Encoding(90)), channels)
    assert np.array_equal(whole(data, channels), expected)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)
    found = pyvips.Image.new_from_buffer(data, "", fail_on="warning").numpy()
    assert np.array_equal(found.reshape(expected.shape), expected)
    seen: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(seen if channels == 1 else seen[:, :, ::-1], expected)
    (tmp_path / "a.jpg").write_bytes(data)
    reader = open_reader(tmp_path / "a.jpg", "jpeg", Frame.of(image))
    assert reader.random
    for x0, y0, x1, y1 in some_boxes(reader.frame):
        assert np.array_equal(reader.read(x0, y0, x1, y1), expected[y0:y1, x0:x1])
    reader.close()


def test_segments_stand_in_the_file() -> None:
    image = drawn(100, 80)
    comment = b"\xff\xfe\x00\x07hello"
    data = jpeg.Encoder(Frame.of(image), around=Around(segments=comment)).encode(image)
    assert Image.open(io.BytesIO(data)).info["comment"] == b"hello"


@pytest.mark.parametrize("quality", [1, 40, 100])
def test_every_quality(quality: int) -> None:
    image = drawn(200, 150)
    data = jpeg.Encoder(Frame.of(image), quality=quality).encode(image)
    assert np.array_equal(whole(data, 3), whole(get("jpeg").encode(image, Encoding(quality)), 3))


MAKERS: dict[str, dict[str, Any]] = {
    "a row": {"restart_marker_rows": 1},
    "three rows": {"restart_marker_rows": 3},
    "4:4:4": {"restart_marker_rows": 1, "subsampling": "4:4:4"},
    "4:2:2": {"restart_marker_rows": 2, "subsampling": "4:2:2"},
    "half a row": {"restart_marker_blocks": 10},
    "one and a half": {"restart_marker_blocks": 30},
    "every MCU": {"restart_marker_blocks": 1},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("maker", MAKERS)
def test_regions_of_files_of_others(maker: str, channels: int, tmp_path: Path) -> None:
    """320 pixels are 20 MCUs of 16."""
    image = drawn(320, 403, channels)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=92, **MAKERS[maker])
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    expected = whole(file.getvalue(), channels)
    reader = Reader(tmp_path / "a.jpg")
    for x0, y0, x1, y1 in some_boxes(reader.frame):
        assert np.array_equal(reader.read(x0, y0, x1, y1), expected[y0:y1, x0:x1])
    reader.close()


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True, "restart_marker_rows": 1}, {"restart_marker_blocks": 19}],
    ids=["no markers", "progressive", "markers within rows"],
)
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_others_are_read_in_order(options: dict[str, Any], subsampling: str, tmp_path: Path) -> None:
    image = drawn(320, 403)
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=92, subsampling=subsampling, **options)
    expected = whole((tmp_path / "a.jpg").read_bytes(), 3)
    with pytest.raises(UnsupportedImage):
        Reader(tmp_path / "a.jpg")
    reader = open_reader(tmp_path / "a.jpg", "jpeg", Frame.of(image))
    assert not reader.random
    rows = [reader.read(0, y, 320, min(y + 50, 403)) for y in range(0, 403, 50)]
    assert np.array_equal(np.concatenate(rows), expected)


def damaged(name: str, data: bytes) -> bytes:
    marker = data.index(b"\xff\xd2", data.index(b"\xff\xda"))
    return {
        "cut off": data[: len(data) // 2],
        "cut off before its end": data[:-2],
        "cut off in its header": data[:100],
        "a marker is lost": data[:marker] + data[marker + 2 :],
        "no frame": data[:2] + data[data.index(b"\xff\xda") :],
        "a length of nothing": data[:4] + b"\0\0" + data[6:],
        "no image": b"\xff\xd8" + b"\xff" * 5000,
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "cut off",
        "cut off before its end",
        "cut off in its header",
        "a marker is lost",
        "no frame",
        "a length of nothing",
        "no image",
    ],
)
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    """What can be repaired is decoded as a whole."""
    image = drawn(320, 403)
    data = jpeg.Encoder(Frame.of(image)).encode(image)
    (tmp_path / "a.jpg").write_bytes(damaged(name, data))
    with pytest.raises((CorruptImage, UnsupportedImage)):
        Reader(tmp_path / "a.jpg")


def test_damage_spoils_its_own_rows_alone(tmp_path: Path) -> None:
    image = drawn(320, 1600)
    data = bytearray(jpeg.Encoder(Frame.of(image)).encode(image))
    marker = data.index(b"\xff\xd7", data.index(b"\xff\xda"))
    data[marker + 2 : marker + 6] = b"\xff\x00\xff\x00"
    (tmp_path / "a.jpg").write_bytes(data)
    reader = Reader(tmp_path / "a.jpg")
    with pytest.raises(CorruptImage, match="rows 112 to 159 are damaged"):
        reader.read(0, 130, 320, 140)
    assert reader.read(0, 400, 320, 1600).shape == (1200, 320, 3)
    reader.close()


def test_any_damage_is_told(tmp_path: Path) -> None:
    """Whatever bytes are changed, the reader decodes or raises CorruptImage or UnsupportedImage."""
    image = drawn(160, 320)
    data = jpeg.Encoder(Frame.of(image)).encode(image)
    chance = random.Random(4)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(2, chance.choice((700, len(data))))] = chance.randrange(256)
        (tmp_path / "a.jpg").write_bytes(broken)
        try:
            reader = Reader(tmp_path / "a.jpg")
        except (CorruptImage, UnsupportedImage):
            continue
        try:
            if reader.frame.pixels < 10_000_000:
                pixels = reader.read(0, 0, reader.frame.width, reader.frame.height)
                assert pixels.shape[:2] == (reader.frame.height, reader.frame.width)
        except CorruptImage:
            pass
        finally:
            reader.close()
