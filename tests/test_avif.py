"""AVIF: depths, colours, turns, sequences and damage. Files of Pillow and avifenc, whole and in tiles."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from faithful import Refused, both_ways, opened, saved, scene
from imageloom.codecs import decode, get, header_of, read_metadata
from imageloom.codecs.metadata import NO_METADATA, Luminance, Metadata, Primaries
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Encoding, Pixels

HDR = Metadata(colours=Primaries(cicp=(9, 16, 0, 1)))


def encoded(image: Pixels, metadata: Metadata = NO_METADATA, **options: Any) -> bytes:
    data = get("avif").encode(image, Encoding(90, **options), metadata)
    assert isinstance(data, bytes)
    return data


def decoded(data: bytes) -> Pixels:
    return decode(data, header_of(data))


def deep(channels: int, bits: int) -> Pixels:
    """Values of so many bits in the range of 16 bits."""
    top = (1 << bits) - 1
    small = scene(channels, "uint16").astype(np.uint32) * top // 65_535
    return ((small * 65_535 + top // 2) // top).astype(np.uint16)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ten_and_twelve_bits_are_kept(channels: int, bits: int, tmp_path: Path) -> None:
    image = deep(channels, bits)
    data = encoded(image, HDR, lossless=True)
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert seen is not None
    assert seen.max() == (1 << bits) - 1
    np.testing.assert_array_equal(decoded(data), image)
    ran = both_ways(tmp_path, data, format="png")
    np.testing.assert_array_equal(decoded(ran.data), image)
    assert b"cICP\x09\x10\0\1" in ran.data
    assert ran.dropped == ()
    again = both_ways(tmp_path / "again", data, "auto_orient")
    assert abs(decoded(again.data).astype(int) - image).mean() < (10 if channels > 1 else 400)
    assert read_metadata(again.data, "avif").colours == HDR.colours


@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_stays_lossless(channels: int, tmp_path: Path) -> None:
    data = encoded(scene(channels), lossless=True)
    ran = both_ways(tmp_path, data, "auto_orient")
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(channels))


def test_gray_stays_gray_with_its_profile(tmp_path: Path) -> None:
    profile = bytes(16) + b"GRAY" + bytes(108)
    data = saved(Image.fromarray(scene(1)), "PNG", icc_profile=profile)
    ran = both_ways(tmp_path, data, format="avif", quality=95)
    assert (opened(ran.data).mode, opened(ran.data).info["icc_profile"]) == ("L", profile)
    back = both_ways(tmp_path / "back", ran.data, format="png")
    assert (opened(back.data).mode, opened(back.data).info["icc_profile"]) == ("L", profile)
    assert np.abs(np.asarray(opened(back.data)).astype(int) - scene(1)).mean() < 2


def test_colours_are_read_from_the_pictures_if_the_file_does_not_say_them(tmp_path: Path) -> None:
    data = saved(Image.fromarray(scene(3)), "AVIF", quality=95)
    first = data.replace(b"colrnclx", b"freenclx")
    assert read_metadata(first, "avif").colours == Primaries(cicp=(1, 13, 0, 1))
    assert both_ways(tmp_path, first, format="webp").dropped == ()


def test_hdr_in_a_format_that_cannot_say_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="the image is HDR"):
        both_ways(tmp_path, encoded(scene(3), HDR), format="webp")


def test_the_properties_turn_an_image_and_exif_does_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(Image.fromarray(scene(3)), "AVIF", quality=95, exif=exif)
    ran = both_ways(tmp_path, turned, "auto_orient", quality=95)
    upright = np.rot90(scene(3), -1).astype(int)
    assert np.abs(np.asarray(opened(ran.data)).astype(int) - upright).mean() < 3
    assert opened(ran.data).getexif().get(0x0112, 1) == 1
    upright_block, turned_block = (
        b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 3, 1, number, 0) for number in (1, 6)
    )
    plain = encoded(scene(3), Metadata(exif=upright_block), lossless=True)
    contradicted = plain.replace(upright_block, turned_block)
    assert contradicted != plain
    ran = both_ways(tmp_path / "other", contradicted, "auto_orient", quality=95)
    assert np.abs(np.asarray(opened(ran.data)).astype(int) - scene(3)).mean() < 3
    assert opened(ran.data).getexif().get(0x0112, 1) == 1


def test_a_sequence_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(scene(3), 5 * i, axis=1)) for i in range(3)]
    data = saved(frames[0], "AVIF", save_all=True, append_images=frames[1:], quality=95)
    ran = both_ways(tmp_path, data, format="png")
    assert np.abs(np.asarray(opened(ran.data)).astype(int) - scene(3)).mean() < 3
    assert ran.dropped == ("animation",)


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def full(name: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(name, struct.pack(">I", version << 24 | flags), *parts)


def grid(listed: tuple[int, ...]) -> bytes:
    """Two tiles of 64x64 side by side; `listed` are the tiles that the grid names, of 2 and 3."""
    tiles = [saved(Image.new("RGB", (64, 64), colour), "AVIF", quality=90) for colour in ("red", "blue")]

    def found(name: bytes) -> bytes:
        at = tiles[0].index(name) - 4
        return tiles[0][at : at + int.from_bytes(tiles[0][at : at + 4])]

    items = [
        struct.pack(">BBBBHH", 0, 0, 0, 1, 128, 64),
        *(tile[tile.index(b"mdat") + 4 :] for tile in tiles),
    ]
    kinds = (b"grid", b"av01", b"av01")
    sizes = [full(b"ispe", 0, 0, struct.pack(">II", width, 64)) for width in (128, 64)]
    properties = box(b"ipco", *sizes, *(found(name) for name in (b"pixi", b"av1C", b"colr")))
    applied = struct.pack(">IHB3B", 3, 1, 3, 1, 3, 5) + b"".join(
        struct.pack(">HB4B", item, 4, 2, 3, 0x84, 5) for item in (2, 3)
    )
    entries = (full(b"infe", 2, 0, struct.pack(">HH4sB", n, 0, kind, 0)) for n, kind in enumerate(kinds, 1))
    head = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    described = [
        full(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
        full(b"pitm", 0, 0, struct.pack(">H", 1)),
        full(b"iinf", 0, 0, struct.pack(">H", 3), *entries),
        full(b"iref", 0, 0, box(b"dimg", struct.pack(f">HH{len(listed)}H", 1, len(listed), *listed))),
        box(b"iprp", properties, full(b"ipma", 0, 0, applied)),
    ]
    at = len(head) + 12 + sum(map(len, described)) + 16 + 3 * 14 + 8
    places = b""
    for number, item in enumerate(items, 1):
        places += struct.pack(">HHHII", number, 0, 1, at, len(item))
        at += len(item)
    iloc = full(b"iloc", 0, 0, struct.pack(">BBH", 0x44, 0, 3), places)
    return head + full(b"meta", 0, 0, *described, iloc) + box(b"mdat", *items)


def test_a_grid_is_read(tmp_path: Path) -> None:
    pixels = np.asarray(opened(both_ways(tmp_path, grid((2, 3)), format="png").data))
    assert pixels[32, 32, 0] > 240
    assert pixels[32, 96, 2] > 240


@pytest.mark.parametrize("listed", [(2, 2), (2,), (2, 9), ()])
def test_a_grid_that_is_not_valid_is_a_damaged_image(listed: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(Refused, match="CorruptImage: the AVIF's grid of tiles is not valid"):
        both_ways(tmp_path, grid(listed), format="png")


def test_damage_anywhere_is_named() -> None:
    data = saved(Image.fromarray(scene(3)), "AVIF", quality=90)
    chance = np.random.default_rng(4)
    for _ in range(150):
        broken = bytearray(data)
        broken[chance.integers(len(data))] ^= 1 << int(chance.integers(8))
        with suppress(CorruptImage, UnsupportedImage, LimitExceeded):
            read_metadata(bytes(broken), "avif")
            decoded(bytes(broken))


def test_luminance_goes_to_png(tmp_path: Path) -> None:
    levels = struct.pack(">II", 10_000_000, 4_000_000)
    metadata = Metadata(colours=HDR.colours, luminance=Luminance(content=levels))
    png = get("png").encode(scene(3), Encoding(), metadata)
    assert read_metadata(both_ways(tmp_path, png).data, "png").luminance == metadata.luminance
    assert both_ways(tmp_path / "avif", png, format="avif").dropped == ("HDR",)


def test_exif_of_a_turned_picture_is_read_as_it_is_stored() -> None:
    block = Image.Exif()
    block[0x0112] = 6
    block[0x010F] = "Maker"
    file = io.BytesIO()
    Image.fromarray(scene(3)).save(file, "AVIF", exif=block)
    data = file.getvalue()
    found = read_metadata(data, "avif").exif
    assert b"Maker" in found
    assert found in data
    assert header_of(data).orientation == 6
