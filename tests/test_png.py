"""PNG: each chunk is kept, or named as dropped, whole and in tiles. Written by hand, read by Pillow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faithful import IDENTITY, Refused, both_ways, opened, saved, scene
from imageloom.model import Output, Pixels, Recipe, Step

Chunk = tuple[bytes, bytes]
WIDTH, HEIGHT = 45, 31
IEND = (b"IEND", b"")


def packed(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def file_of(*chunks: Chunk) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed(*each) for each in chunks)


def header_of(bits: int, kind: int) -> Chunk:
    return b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)


def pixels_of(rows: Pixels) -> Chunk:
    return b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))


def rgb(*before: Chunk, after: tuple[Chunk, ...] = (), dtype: str = "uint8") -> bytes:
    rows = scene(3, dtype).astype(">u2") if dtype == "uint16" else scene(3)
    return file_of(header_of(8 * rows.itemsize, 2), *before, pixels_of(rows), *after, IEND)


def chunks_of(data: bytes) -> Iterator[Chunk]:
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 3, 1, orientation, 0)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
KEPT: list[Chunk] = [
    (b"gAMA", struct.pack(">I", 100_000)),
    (b"cHRM", struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)),
    (b"cICP", bytes((9, 16, 0, 1))),
    (b"sRGB", b"\1"),
    (b"mDCV", bytes(range(24))),
    (b"cLLI", bytes(range(8))),
    (b"pHYs", struct.pack(">IIB", 11_811, 11_811, 1)),
    (b"pHYs", struct.pack(">IIB", 12_345, 3_779, 1)),
    (b"pHYs", struct.pack(">IIB", 2, 1, 0)),
    (b"tEXt", b"Copyright\0\xa9 2026 Jane Press"),
    (b"iTXt", b"Description\0\0\0en\0Beschreibung\0" + "Ålesund – a fjord".encode()),
    (b"tIME", bytes((7, 234, 11, 29, 3, 0, 0))),
    (b"prVt", b"private, and safe to copy"),
]


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept[0].decode())
def test_a_chunk_goes_from_png_to_png_as_it_was(kept: Chunk, tmp_path: Path) -> None:
    uneven = kept[0] == b"pHYs" and kept[1][:4] != kept[1][4:8]  # it stays true only if no pixel moves
    ran = both_ways(tmp_path, rgb(kept), IDENTITY if uneven else "resize 50%")
    assert kept in list(chunks_of(ran.data))
    assert ran.dropped == ()
    if kept[0] == b"cICP":
        with pytest.raises(Refused, match="the image is HDR"):
            both_ways(tmp_path / "strip", rgb(kept), "resize 50%", metadata="strip")
        return
    stripped = both_ways(tmp_path / "strip", rgb(kept), "resize 50%", metadata="strip")
    assert {name for name, _ in chunks_of(stripped.data)} == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize(
    ("chunk", "thing"),
    [
        ((b"prVT", b"unsafe to copy"), "private metadata"),
        ((b"bKGD", bytes(6)), "display hints"),
        ((b"sBIT", b"\5\6\5"), "display hints"),
        ((b"tEXt", b"\0no keyword"), "damaged metadata"),
        ((b"iTXt", b"a\0\0\0\0\0\xff"), "damaged metadata"),
        ((b"zTXt", b"a\0\0nothing compressed"), "damaged metadata"),
        ((b"iCCP", b"a\0\0nothing compressed"), "damaged metadata"),
        ((b"gAMA", b"\0"), "damaged metadata"),
    ],
)
def test_what_cannot_be_kept_is_said(chunk: Chunk, thing: str, tmp_path: Path) -> None:
    assert both_ways(tmp_path, rgb(chunk)).dropped == (thing,)


def test_the_parts_of_apples_coding_are_no_loss(tmp_path: Path) -> None:
    assert both_ways(tmp_path, rgb((b"iDOT", bytes(28)))).dropped == ()


def test_what_another_format_lacks_is_said(tmp_path: Path) -> None:
    ran = both_ways(tmp_path, rgb(*KEPT[:2], *KEPT[-4:]), format="webp")
    assert ran.dropped == ("private metadata", "text")
    assert opened(ran.data).info["icc_profile"]  # it says the same as gAMA and cHRM


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45_455))],
        [(b"gAMA", struct.pack(">I", 45_455))],
        [(b"cICP", bytes((1, 13, 0, 1)))],
    ],
)
def test_srgb_is_no_loss_in_a_format_that_cannot_say_it(chunks: list[Chunk], tmp_path: Path) -> None:
    assert both_ways(tmp_path, rgb(*chunks), format="webp").dropped == ()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "XMP", "raw"])
def test_an_orientation_counts_wherever_it_stands(kind: str, after: bool, tmp_path: Path) -> None:
    raw = b"\nexif\n" + b"%8d\n" % (len(exif(6)) + 6) + (b"Exif\0\0" + exif(6)).hex().encode() + b"\n"
    chunk = {
        "eXIf": (b"eXIf", exif(6)),
        "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        "raw": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
    }[kind]
    data = rgb(after=(chunk,)) if after else rgb(chunk)
    assert opened(data).getexif()[0x0112] == 6
    ran = both_ways(tmp_path, data, "auto_orient")
    image = opened(ran.data)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(scene(3), -1))
    assert image.getexif().get(0x0112, 1) == 1
    assert ran.dropped == ()


def test_an_orientation_in_a_large_file_behind_many_chunks_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8)
    data = saved(Image.fromarray(noise), "PNG")
    moved = data[:-12] + packed(b"eXIf", exif(6)) + packed(*IEND)
    ran = both_ways(tmp_path, moved, "auto_orient")
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), np.rot90(noise, -1))


def test_an_orientation_far_before_the_end_is_refused(tmp_path: Path) -> None:
    private = (b"prVt", np.random.default_rng(1).bytes(100_000))
    with pytest.raises(Refused, match="orientation stored far behind"):
        both_ways(tmp_path, rgb(after=((b"eXIf", exif(6)), private)))


@pytest.mark.parametrize("name", ["iptc", "IPTC profile"])
def test_iptc_as_text_is_kept(name: str, tmp_path: Path) -> None:
    records = b"\x1c\2\x50\0\x0aJane Press"
    block = b"8BIM\4\4\0\0" + struct.pack(">I", len(records)) + records + bytes(len(records) % 2)
    text = f"\n{name}\n".encode() + b"%8d\n" % len(block) + block.hex().encode() + b"\n"
    ran = both_ways(tmp_path, rgb((b"tEXt", b"Raw profile type iptc\0" + text)))
    written = dict(opened(ran.data).text)["Raw profile type iptc"]  # type: ignore[attr-defined]
    found = bytes.fromhex(written.split("\n", 3)[3])
    assert found == block
    assert ran.dropped == ()


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(scene(3), 5 * i, axis=1)) for i in range(3)]
    ran = both_ways(tmp_path, saved(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(3))
    assert ran.dropped == ("animation",)


@pytest.mark.parametrize("high", [0, 0xFF, 0xFFFF])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_only_the_low_bits_of_a_transparent_gray_count(bits: int, high: int, tmp_path: Path) -> None:
    shades = (np.arange(WIDTH) * (1 << bits) // WIDTH).astype(np.uint8)
    digits = np.unpackbits(shades[:, None], axis=1)[:, 8 - bits :].reshape(-1)
    row = np.packbits(digits)
    key = high & (0xFFFF << bits) | (1 << bits) - 1
    data = file_of(
        header_of(bits, 0),
        (b"tRNS", struct.pack(">H", key & 0xFFFF)),
        pixels_of(np.tile(row, (HEIGHT, 1))),
        IEND,
    )
    pixels = np.asarray(opened(both_ways(tmp_path, data).data))
    top = (1 << bits) - 1
    np.testing.assert_array_equal(pixels[0, :, 0], shades * (255 // top))
    np.testing.assert_array_equal(pixels[0, :, 1], np.where(shades == top, 0, 255))


def test_only_the_low_bits_of_a_transparent_colour_count(tmp_path: Path) -> None:
    key = scene(3)[3, 5].astype(">u2") | 0x4200
    pixels = np.asarray(opened(both_ways(tmp_path, rgb((b"tRNS", key.astype(">u2").tobytes()))).data))
    same = (scene(3) == scene(3)[3, 5]).all(axis=2)
    np.testing.assert_array_equal(pixels[:, :, 3], np.where(same, 0, 255))


@pytest.mark.parametrize("key", [b"", b"\0", bytes(5), bytes(8)])
def test_a_transparent_colour_of_the_wrong_size_is_ignored(key: bytes, tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.asarray(opened(both_ways(tmp_path, rgb((b"tRNS", key))).data)), scene(3))


@pytest.mark.parametrize("first", ["PLTE", "tRNS"])
def test_more_transparencies_than_colours(first: str, tmp_path: Path) -> None:
    indexes = np.tile(np.arange(WIDTH, dtype=np.uint8) % 3, (HEIGHT, 1))
    chunks = [(b"PLTE", bytes(range(9))), (b"tRNS", bytes((0, 100, 200, 50)))]
    data = file_of(header_of(8, 3), *(chunks if first == "PLTE" else chunks[::-1]), pixels_of(indexes), IEND)
    pixels = np.asarray(opened(both_ways(tmp_path, data).data))
    np.testing.assert_array_equal(pixels[0, :3], [[0, 1, 2, 0], [3, 4, 5, 100], [6, 7, 8, 200]])


def test_a_wrong_checksum_of_metadata_is_a_warning(tmp_path: Path) -> None:
    data = rgb((b"tEXt", b"Comment\0here"), (b"tRNS", bytes(6))).replace(b"here", b"hare")
    data = data.replace(packed(b"tRNS", bytes(6)), packed(b"tRNS", bytes(6))[:-1] + b"x")
    ran = both_ways(tmp_path, data)
    assert ran.warnings == (
        "a checksum is wrong: the chunk tEXt is left out",
        "a checksum is wrong: the chunk tRNS is left out",
    )
    assert ran.dropped == ("damaged metadata",)
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(3))
    with pytest.raises(Refused, match=r"CorruptImage: .*tEXt.*--damage refuse"):
        both_ways(tmp_path / "strict", data, recipe(damage="refuse"))


def recipe(**options: Any) -> Recipe:
    return Recipe((Output((Step("flip"), Step("flip"))),), **options)


@pytest.mark.parametrize("cut", [4, 9, 12])
def test_a_missing_end_is_a_warning(cut: int, tmp_path: Path) -> None:
    ran = both_ways(tmp_path, rgb()[:-cut])
    assert ran.warnings == ("it is cut off, but its pixels are whole",)
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(3))


def test_garbage_behind_the_pixels_is_a_warning(tmp_path: Path) -> None:
    ran = both_ways(tmp_path, rgb()[:-12] + bytes(40))
    assert "damaged at byte" in ran.warnings[0]
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(3))


def test_missing_pixels_are_refused_or_salvaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    data = file_of(header_of(8, 2), pixels_of(noise), IEND)[:-2_000]
    with pytest.raises(Refused, match=r"CorruptImage: .*cut off.*--damage salvage"):
        both_ways(tmp_path / "warn", data)
    ran = both_ways(tmp_path / "salvage", data, recipe(damage="salvage"))
    image = np.asarray(opened(ran.data))
    rows = (image == noise).all(axis=(1, 2)).sum()
    assert 10 < rows < HEIGHT
    assert not image[rows + 1 :].any()
    assert "of its pixels are missing" in ran.warnings[0]


def test_a_wrong_checksum_of_whole_pixels_is_a_warning(tmp_path: Path) -> None:
    data = bytearray(rgb())
    data[-13] ^= 1
    ran = both_ways(tmp_path, bytes(data))
    assert ran.warnings == ("a checksum is wrong (IDAT), but its pixels are whole",)
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(3))


def test_wrong_pixels_are_refused_or_salvaged(tmp_path: Path) -> None:
    data = bytearray(rgb())
    data[-60] ^= 1
    with pytest.raises(Refused, match=r"CorruptImage: .*checksum.*--damage salvage"):
        both_ways(tmp_path / "warn", bytes(data))
    ran = both_ways(tmp_path / "salvage", bytes(data), recipe(damage="salvage"))
    np.testing.assert_array_equal(np.asarray(opened(ran.data))[:15], scene(3)[:15])


def test_texts_are_bounded(tmp_path: Path) -> None:
    bomb = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(9 << 20)))
    with pytest.raises(Refused, match=r"LimitExceeded: .*--metadata strip"):
        both_ways(tmp_path, rgb(bomb, bomb))
    both_ways(tmp_path / "strip", rgb(bomb, bomb), metadata="strip")


def test_apples_own_form_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="CgBI"):
        both_ways(tmp_path, file_of((b"CgBI", bytes(4)), header_of(8, 6), pixels_of(scene(4)), IEND))


def test_metadata_of_a_large_output_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageloom.model.image.LARGE", 100)
    ran = both_ways(tmp_path, rgb(*KEPT[:2], *KEPT[6:7], *KEPT[-4:]))
    assert [*KEPT[:2], *KEPT[6:7], *KEPT[-4:]] == [each for each in chunks_of(ran.data) if each in KEPT]
