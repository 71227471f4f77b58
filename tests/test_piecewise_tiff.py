"""TIFF in tiles, against independent readers, and regions of files that others wrote."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from drawings import drawn
from imageloom import codecs
from imageloom.codecs.piecewise import tiff
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame, Pixels
from imageloom.tiling import readers
from imageloom.tiling.readers import open_reader
from imageloom.tiling.readers.tiff import Reader

pyvips.cache_set_max(0)  # it would not see that a file of the same name is another one
LOSSLESS: list[tiff.Compression] = ["none", "deflate", "zstd"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tif"


def check_regions(path: Path, expected: Pixels, cache: int = 32 << 20) -> None:
    reader = Reader(path, cache)
    assert reader.frame == Frame.of(expected)
    chance = random.Random(1)
    for _ in range(12):
        x0, y0 = chance.randrange(reader.frame.width), chance.randrange(reader.frame.height)
        x1, y1 = chance.randint(x0 + 1, reader.frame.width), chance.randint(y0 + 1, reader.frame.height)
        assert np.array_equal(reader.read(x0, y0, x1, y1), expected[y0:y1, x0:x1])
    assert np.array_equal(reader.read(0, 0, reader.frame.width, reader.frame.height), expected)
    reader.close()


@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_round_trip(channels: int, dtype: str, compression: tiff.Compression, path: Path) -> None:
    for width, height in ((1, 1), (256, 512), (700, 333)):
        image = drawn(width, height, channels, dtype)
        path.write_bytes(tiff.Encoder(Frame.of(image), compression=compression).encode(image))
        with tifffile.TiffFile(path) as file:
            assert np.array_equal(file.asarray().reshape(image.shape), image)
            assert file.pages.first.is_tiled
        if compression != "zstd":  # libvips' wheel goes without it
            found = pyvips.Image.new_from_file(str(path), fail_on="warning").numpy()
            assert np.array_equal(found.reshape(image.shape), image)
        if dtype == "uint8" and compression != "zstd":
            assert np.array_equal(np.asarray(Image.open(path)), image)
        check_regions(path, image)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_tiles(channels: int, path: Path) -> None:
    image = drawn(700, 333, channels)
    path.write_bytes(tiff.Encoder(Frame.of(image), compression="jpeg", quality=95).encode(image))
    expected = tifffile.imread(path)
    assert np.abs(expected.astype(int) - image).mean() < 8
    assert np.array_equal(pyvips.Image.new_from_file(str(path), fail_on="warning").numpy(), expected)
    assert np.array_equal(np.asarray(Image.open(path)), expected)
    check_regions(path, expected)


def test_bigtiff_where_the_file_gets_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = drawn(700, 333)
    encoder = tiff.Encoder(Frame.of(image))
    path.write_bytes(encoder.encode(image))
    with tifffile.TiffFile(path) as file:
        assert not file.is_bigtiff
    monkeypatch.setattr(tiff, "_CLASSIC_END", 100_000)
    path.write_bytes(encoder.encode(image))
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        assert np.array_equal(file.asarray(), image)
    check_regions(path, image)
    assert np.array_equal(pyvips.Image.new_from_file(str(path)).numpy(), image)


def test_further_tags(path: Path) -> None:
    image = drawn(70, 33)
    tags = (tiff.Tag(270, 2, b"a picture\0"), tiff.Tag(34675, 7, b"profile"))
    path.write_bytes(tiff.Encoder(Frame.of(image), tags=tags).encode(image))
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.description == "a picture"
        assert file.pages.first.tags[34675].value == b"profile"


OTHERS: dict[str, dict[str, Any]] = {
    "deflate tiles": {"tile": (128, 64), "compression": "zlib"},
    "deflate tiles, predictor": {"tile": (128, 64), "compression": "zlib", "predictor": True},
    "lzw strips, predictor": {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
    "packbits strips": {"rowsperstrip": 50, "compression": "packbits"},
    "zstd tiles": {"tile": (64, 64), "compression": "zstd"},
    "plain strips": {"rowsperstrip": 16},
    "one plain strip": {},
    "big-endian": {"rowsperstrip": 16, "byteorder": ">", "compression": "zlib", "predictor": True},
    "bigtiff": {"tile": (256, 256), "bigtiff": True, "compression": "zlib"},
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("maker", OTHERS)
def test_regions_of_files_of_others(maker: str, channels: int, dtype: str, path: Path) -> None:
    options = dict(OTHERS[maker])
    if dtype == "float32" and options.get("predictor"):
        options["predictor"] = 3
    options["photometric"] = "minisblack" if channels == 1 else "rgb"
    if channels == 4:
        options["extrasamples"] = ["unassalpha"]
    image = drawn(301, 203, channels, dtype)
    file = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    tifffile.imwrite(path, image, metadata=None, **file, **options)
    check_regions(path, image, cache=20_000)


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "packbits", "jpeg"])
@pytest.mark.parametrize("tile", [False, True])
def test_regions_of_files_of_libvips(compression: str, tile: bool, path: Path) -> None:
    image = drawn(301, 203)
    pyvips.Image.new_from_array(image).tiffsave(str(path), compression=compression, tile=tile, Q=95)
    expected = pyvips.Image.new_from_file(str(path)).numpy()
    check_regions(path, expected)


def test_pieces_too_large_are_read_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = drawn(301, 203)
    tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=203, compression="zlib", metadata=None)
    monkeypatch.setattr(readers.tiff, "_LARGEST_PIECE", 100_000)
    reader = open_reader(path, "tiff", Frame.of(image))
    assert not reader.random
    assert np.array_equal(np.concatenate((reader.read(0, 0, 301, 90), reader.read(0, 90, 301, 203))), image)


def test_kinds_of_pixels_that_are_not_read(path: Path) -> None:
    image = drawn(64, 48)
    tifffile.imwrite(path, image[:, :, 0].astype(np.int32), metadata=None, photometric="minisblack")
    with pytest.raises(UnsupportedImage):
        Reader(path)


def entry(data: bytes | bytearray, code: int) -> int:
    """Where the entry of a tag stands in a classic little-endian file."""
    at = int.from_bytes(data[4:8], "little")
    for index in range(int.from_bytes(data[at : at + 2], "little")):
        if int.from_bytes(data[at + 2 + 12 * index :][:2], "little") == code:
            return at + 2 + 12 * index
    raise LookupError(code)


def values(data: bytes | bytearray, code: int) -> tuple[int, int]:
    """Where the values of a tag stand, and how many there are."""
    at = entry(data, code)
    count, place = struct.unpack_from("<II", data, at + 4)
    return place, count


OFFSETS, SIZES = 324, 325


def lying(name: str, data: bytearray) -> None:
    offsets, sizes = values(data, OFFSETS)[0], values(data, SIZES)[0]
    if name == "a tile is missing":
        struct.pack_into("<I", data, sizes + 4 * 5, 0)
    elif name == "a tile lies beyond the end":
        struct.pack_into("<I", data, offsets + 4 * 5, len(data) - 10)
    elif name == "a tile is too long":
        struct.pack_into("<I", data, offsets + 4 * 5, 16)
        struct.pack_into("<I", data, sizes + 4 * 5, len(data) - 16)
    elif name == "tiles are missing":
        struct.pack_into("<I", data, entry(data, OFFSETS) + 4, 3)
    elif name == "a billion tiles":
        struct.pack_into("<I", data, entry(data, OFFSETS) + 4, 1 << 30)
    elif name == "a size that lies":
        struct.pack_into("<I", data, entry(data, 256) + 8, 1 << 31)
    elif name == "tiles of nothing":
        struct.pack_into("<H", data, entry(data, 322) + 8, 0)
    elif name == "no directory":
        struct.pack_into("<I", data, 4, len(data) + 100)
    elif name == "cut off":
        del data[-300:]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a tile is missing", r"tile 5 \(row 1, column 1\) is missing"),
        ("a tile lies beyond the end", r"tile 5 \(row 1, column 1\) lies beyond the end"),
        ("tiles are missing", "has 3 of its 12 strips or tiles"),
        ("a billion tiles", "TIFF"),
        ("a size that lies", "of its .* strips or tiles"),
        ("tiles of nothing", "TIFF"),
        ("no directory", "directory"),
        ("cut off", "TIFF"),
    ],
)
def test_directories_that_lie(name: str, said: str, path: Path) -> None:
    image = drawn(1000, 700)
    data = bytearray(tiff.Encoder(Frame.of(image), compression="none").encode(image))
    lying(name, data)
    path.write_bytes(data)
    with pytest.raises(CorruptImage, match=said):
        Reader(path)


@pytest.mark.parametrize("compression", ["none", "deflate"])
def test_tile_with_a_size_that_is_too_large(compression: tiff.Compression, path: Path) -> None:
    """Of a tile that is not compressed, only the bytes of its pixels are read."""
    image = drawn(1000, 700)
    data = bytearray(tiff.Encoder(Frame.of(image), compression=compression).encode(image) + bytes(1 << 21))
    lying("a tile is too long", data)
    path.write_bytes(data)
    if compression == "none":
        codecs.header_of(bytes(data))
        assert Reader(path).frame == Frame.of(image)
    else:
        with pytest.raises(
            CorruptImage, match=r"tile 5 \(row 1, column 1\) has .* more than its pixels can need"
        ):
            Reader(path)


def test_directory_that_follows_itself(path: Path) -> None:
    """The chain ends where it begins again."""
    image = drawn(100, 70)
    data = bytearray(tiff.Encoder(Frame.of(image)).encode(image))
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    data[end : end + 4] = data[4:8]
    path.write_bytes(data)
    header = codecs.header_of(bytes(data))
    assert header.pages == 1
    assert np.array_equal(codecs.decode(bytes(data), header), image)


@pytest.mark.parametrize("compression", ["deflate", "zstd", "jpeg"])
def test_damage_spoils_its_own_tile_alone(compression: tiff.Compression, path: Path) -> None:
    image = drawn(1000, 700)
    data = bytearray(tiff.Encoder(Frame.of(image), compression=compression).encode(image))
    offset, size = (
        int.from_bytes(data[values(data, code)[0] + 20 :][:4], "little") for code in (OFFSETS, SIZES)
    )
    data[offset : offset + size] = bytes(size)
    path.write_bytes(data)
    reader = Reader(path)
    with pytest.raises(CorruptImage, match=r"tile 5 \(row 1, column 1\) is damaged"):
        reader.read(0, 0, 1000, 700)
    assert reader.read(0, 0, 1000, 256).shape == (256, 1000, 3)
    reader.close()


@pytest.mark.parametrize("compression", ["deflate", "zstd", "jpeg", "none"])
def test_any_damage_is_told(compression: tiff.Compression, path: Path) -> None:
    """Whatever bytes are changed, the reader decodes or raises CorruptImage or UnsupportedImage."""
    image = drawn(300, 280)
    data = tiff.Encoder(Frame.of(image), compression=compression).encode(image)
    directory = int.from_bytes(data[4:8], "little")
    chance = random.Random(4)
    for _ in range(120):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            broken[chance.randrange(chance.choice((4, directory)), len(data))] = chance.randrange(256)
        path.write_bytes(broken)
        try:
            reader = Reader(path)
        except (CorruptImage, UnsupportedImage):
            continue
        try:
            if reader.frame.pixels < 10_000_000:
                pixels = reader.read(0, 0, reader.frame.width, reader.frame.height)
                assert Frame.of(pixels) == reader.frame
        except CorruptImage:
            pass
        finally:
            reader.close()


def large_jpeg() -> bytes:
    """A tile that says that it has 60,000 x 60,000 pixels."""
    data = bytearray(tiff.Encoder(Frame(256, 256, 3), compression="jpeg").compress(drawn(256, 256)))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


BOMBS: dict[tiff.Compression, Callable[[], bytes]] = {
    "deflate": lambda: zlib.compress(bytes(100 << 20)),
    "zstd": lambda: bytes(imagecodecs.zstd_encode(bytes(100 << 20), 1)),
    "jpeg": large_jpeg,
}


@pytest.mark.parametrize("compression", BOMBS)
def test_tile_that_unpacks_to_more_than_its_pixels(compression: tiff.Compression, path: Path) -> None:
    frame, bomb = Frame(300, 280, 3), BOMBS[compression]()
    with tiff.Encoder(frame, compression=compression).create(path) as writer:
        for index in range(4):
            writer.put(index, bomb)
    reader = Reader(path)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptImage, match="tile 0"):
            reader.read(0, 0, 300, 280)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
        reader.close()
