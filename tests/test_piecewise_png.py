"""PNG in strips, against independent decoders, and files of others read in order."""

from __future__ import annotations

import io
import random
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from drawings import drawn
from imageloom import codecs
from imageloom.codecs import get, read_header
from imageloom.codecs.piecewise import png
from imageloom.errors import CorruptImage
from imageloom.model import Encoding, Frame
from imageloom.tiling.readers import open_reader


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (17, 33), (300, 7200)])
def test_round_trip(width: int, height: int, channels: int, dtype: str, tmp_path: Path) -> None:
    image = drawn(width, height, channels, dtype)
    data = png.Encoder(Frame.of(image)).encode(image)
    found = pyvips.Image.new_from_buffer(data, "", fail_on="warning").numpy()
    assert np.array_equal(found.reshape(image.shape), image)
    if dtype == "uint8":
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
    if channels != 2:
        order = {1: None, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[channels]
        seen: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(seen if order is None else cv2.cvtColor(seen, order), image)
    (tmp_path / "a.png").write_bytes(data)
    reader = open_reader(tmp_path / "a.png", "png", Frame.of(image))
    rows = [reader.read(0, y, width, min(y + 1000, height)) for y in range(0, height, 1000)]
    assert np.array_equal(np.concatenate(rows), image)


def test_size_is_that_of_the_plain_encoder() -> None:
    image = drawn(1000, 4500)
    encoder = png.Encoder(Frame.of(image))
    assert len(encoder.pieces) > 1
    assert len(encoder.encode(image)) < 1.02 * len(get("png").encode(image, Encoding(0)))


def test_chunks_stand_in_the_file() -> None:
    image = drawn(20, 20)
    body = b"tEXtTitle\0hello"
    chunk = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    found = Image.open(io.BytesIO(png.Encoder(Frame.of(image), chunks=chunk).encode(image)))
    assert found.info["Title"] == "hello"


@given(st.binary(max_size=20_000), st.binary(max_size=20_000), st.integers(1, 300))
def test_joined_checksums(first: bytes, second: bytes, times: int) -> None:
    second *= times
    joined = png.joined_adler32(zlib.adler32(first), zlib.adler32(second), len(second))
    assert joined == zlib.adler32(first + second)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_files_of_others_as_their_codec_has_them(mode: str, tmp_path: Path) -> None:
    deep = mode == "I;16"
    source = Image.fromarray(drawn(300, 200, 1, "uint16") if deep else drawn(300, 200))
    (source if deep else source.convert(mode)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    header = read_header(lambda n: data[:n], len(data))
    reader = open_reader(tmp_path / "a.png", "png", header.frame)
    expected = codecs.decode(data, header)
    assert np.array_equal(reader.read(0, 0, 300, 200), expected)


def test_rows_come_in_order_alone(tmp_path: Path) -> None:
    image = drawn(50, 60)
    (tmp_path / "a.png").write_bytes(png.Encoder(Frame.of(image)).encode(image))
    reader = open_reader(tmp_path / "a.png", "png", Frame.of(image))
    assert not reader.random
    reader.read(0, 0, 50, 20)
    for box in ((0, 0, 50, 20), (0, 30, 50, 40), (1, 20, 50, 30), (0, 20, 50, 61), (0, 20, 50, 20)):
        with pytest.raises(ValueError, match="begin at 20"):
            reader.read(*box)
    assert np.array_equal(reader.read(0, 20, 50, 60), image[20:])


def test_header_that_lies(tmp_path: Path) -> None:
    image = drawn(50, 60)
    (tmp_path / "a.png").write_bytes(png.Encoder(Frame.of(image)).encode(image))
    for frame in (Frame(50, 61, 3), Frame(50, 60, 4), Frame(50, 60, 3, "uint16")):
        with pytest.raises(CorruptImage, match="as its header says"):
            open_reader(tmp_path / "a.png", "png", frame)


def test_any_damage_is_told(tmp_path: Path) -> None:
    """A changed byte of the pixels is found by a checksum, or by zlib before it."""
    image = drawn(300, 400)
    data = png.Encoder(Frame.of(image)).encode(image)
    chance = random.Random(4)
    for _ in range(40):
        broken = bytearray(data)
        broken[chance.randrange(60, len(data) - 40)] ^= 1 << chance.randrange(8)
        (tmp_path / "a.png").write_bytes(broken)
        with pytest.raises(CorruptImage):
            open_reader(tmp_path / "a.png", "png", Frame.of(image)).read(0, 0, 300, 400)
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptImage):
        open_reader(tmp_path / "a.png", "png", Frame.of(image)).read(0, 0, 300, 400)
