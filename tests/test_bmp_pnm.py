"""BMP and PNM of unusual kinds, whole and in tiles: written by hand and by Pillow, read by Pillow."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from faithful import Refused, both_ways, opened, saved, scene
from imageloom import codecs
from imageloom.errors import CorruptImage
from imageloom.model import Output, Recipe, Step

HEIGHT, WIDTH = 31, 45
PROFILE = bytes(16) + b"RGB " + bytes(108)
SALVAGE = Recipe((Output((Step("flip"), Step("flip"))),), damage="salvage")


def bmp(
    values: Any, bits: int, masks: tuple[int, ...], length: int = 40, packing: int = 3, down: bool = False
) -> bytes:
    """Pixels of 16 or 32 bits with masks, after a header of this length."""
    rows = np.zeros((HEIGHT, -(-WIDTH * bits // 32) * 4), np.uint8)
    rows[:, : WIDTH * bits // 8] = (
        values.astype("<u2" if bits == 16 else "<u4").view(np.uint8).reshape(HEIGHT, -1)
    )
    height = -HEIGHT if down else HEIGHT
    info = struct.pack(
        "<IiiHHIIiiII", length, WIDTH, height, 1, bits, packing, rows.size, 11_811, 11_811, 0, 0
    )
    info += struct.pack(f"<{len(masks)}I", *masks)
    info = info.ljust(length, b"\0")
    body = (rows if down else rows[::-1]).tobytes()
    return struct.pack("<2sIII", b"BM", 14 + len(info) + len(body), 0, 14 + len(info)) + info + body


def packed(channels: int, masks: tuple[int, ...]) -> tuple[Any, Any]:
    """The scene with the bits of the masks, and what it is with 8 bits again."""
    values = np.zeros((HEIGHT, WIDTH), np.uint32)
    expected = np.zeros((HEIGHT, WIDTH, channels), np.uint8)
    for i, mask in enumerate(masks):
        lowest = (mask & -mask).bit_length() - 1
        top = mask >> lowest
        small = scene(channels)[:, :, i].astype(np.uint64) * top // 255
        values |= (small << np.uint64(lowest)).astype(np.uint32)
        expected[:, :, i] = small * 255 // top
    return values, expected


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("length", [40, 56, 108, 124])
@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xF00, 0xF0, 0xF)),
        (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF, 0xFF00, 0xFF0000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
    ],
)
def test_bit_fields(bits: int, masks: tuple[int, ...], length: int, down: bool, tmp_path: Path) -> None:
    values, expected = packed(len(masks), masks)
    packing = 6 if len(masks) == 4 and length == 40 else 3
    data = bmp(values, bits, masks, length, packing, down)
    ran = both_ways(tmp_path, data, format="png")
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), expected)


def test_the_density_is_kept(tmp_path: Path) -> None:
    data = saved(Image.fromarray(scene(3)), "BMP", dpi=(300, 300))
    ran = both_ways(tmp_path, data, "resize 50%")
    assert round(opened(ran.data).info["dpi"][0]) == 300
    assert ran.dropped == ()
    png = both_ways(tmp_path / "png", data, format="png")
    assert round(opened(png.data).info["dpi"][0]) == 300


def test_a_profile_is_read(tmp_path: Path) -> None:
    plain = bmp(np.zeros((HEIGHT, WIDTH), np.uint32), 32, (0xFF0000, 0xFF00, 0xFF), 124)
    data = bytearray(plain + PROFILE)
    data[70:74] = b"DEBM"
    data[126:134] = struct.pack("<II", len(plain) - 14, len(PROFILE))
    ran = both_ways(tmp_path, bytes(data), format="png")
    assert opened(ran.data).info["icc_profile"] == PROFILE


@pytest.mark.parametrize("packing", [4, 5])
def test_another_file_inside_is_refused_by_name(packing: int, tmp_path: Path) -> None:
    data = bmp(np.zeros((HEIGHT, WIDTH), np.uint32), 32, (), packing=packing)
    with pytest.raises(Refused, match=r"UnsupportedImage: BMP with a (JPEG|PNG) inside"):
        both_ways(tmp_path, data)


def raw(image: Any = None, comment: str = "", top: int = 255) -> bytes:
    pixels = scene(3) if image is None else image
    return f"P6\n{comment}{WIDTH} {HEIGHT}\n{top}\n".encode() + pixels.tobytes()


def test_the_second_image_of_a_file_is_said(tmp_path: Path) -> None:
    ran = both_ways(tmp_path, raw() + raw())
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(3))
    assert ran.dropped == ("pages",)
    assert both_ways(tmp_path / "one", raw() + b"\n").dropped == ()


def test_comments_are_kept(tmp_path: Path) -> None:
    data = raw(comment="# Ålesund\n#\n# a fjord\n")
    ran = both_ways(tmp_path, data)
    assert ran.data.startswith("P6\n# Ålesund\n# a fjord\n45 31\n255\n".encode())
    png = both_ways(tmp_path / "png", data, format="png")
    assert opened(png.data).info["Comment"] == "Ålesund\na fjord"
    assert png.dropped == ()


def test_a_comment_behind_the_maximum(tmp_path: Path) -> None:
    data = f"P6 {WIDTH} {HEIGHT} 255# made by hand\n".encode() + scene(3).tobytes()
    np.testing.assert_array_equal(np.asarray(opened(both_ways(tmp_path, data).data)), scene(3))


def test_comments_between_plain_numbers(tmp_path: Path) -> None:
    numbers = "# one\n".join(f"{n}\n" for n in scene(3).reshape(-1))
    data = f"P3\n{WIDTH} {HEIGHT}\n255\n{numbers}".encode()
    np.testing.assert_array_equal(np.asarray(opened(both_ways(tmp_path, data).data)), scene(3))


@pytest.mark.parametrize("top", [100, 1023])
def test_samples_above_the_maximum_are_a_warning(top: int, tmp_path: Path) -> None:
    image = np.full((HEIGHT, WIDTH, 3), 120 if top == 100 else 1100, np.uint8 if top == 100 else ">u2")
    ran = both_ways(tmp_path, raw(image, top=top))
    assert ran.warnings == (f"samples are above the maximum of {top}",)
    assert set(ran.data[-image.nbytes :]) == {255}


def test_missing_rows_are_refused_or_salvaged(tmp_path: Path) -> None:
    data = raw()[: -10 * WIDTH * 3]
    with pytest.raises(Refused, match=r"CorruptImage: .*10 of 31 rows.*--damage salvage"):
        both_ways(tmp_path / "warn", data)
    ran = both_ways(tmp_path / "salvage", data, SALVAGE)
    np.testing.assert_array_equal(np.asarray(opened(ran.data))[:21], scene(3)[:21])
    assert ran.warnings == ("pixels are missing: it is cut off: 10 of 31 rows are missing",)


def tifffile_read(data: bytes) -> Any:
    return tifffile.imread(io.BytesIO(data))


def pam(pixels: Any, kind: str, top: int, comment: bool = False) -> bytes:
    height, width, channels = pixels.shape
    sizes = f"WIDTH {width}\nHEIGHT {height}\nDEPTH {channels}\nMAXVAL {top}\n"
    of_type = f"TUPLTYPE {kind}\n" if kind else ""
    words = f"P7\n{'# a comment' if comment else ''}\n{sizes}{of_type}ENDHDR\n"
    samples: bytes = pixels.astype(">u2" if top > 255 else "u1").tobytes()
    return words.encode() + samples


@pytest.mark.parametrize(
    ("kind", "channels"),
    [("GRAYSCALE", 1), ("GRAYSCALE_ALPHA", 2), ("RGB", 3), ("RGB_ALPHA", 4), ("", 3)],
)
@pytest.mark.parametrize("top", [255, 65_535, 1023])
def test_pam(kind: str, channels: int, top: int, tmp_path: Path) -> None:
    drawn = scene(channels, "uint16").astype(np.uint32).reshape(HEIGHT, WIDTH, channels)
    values = (drawn * top + 32_767) // 65_535
    ran = both_ways(tmp_path, pam(values, kind, top, comment=True), name="a.pam", format="tiff")
    full = 255 if top == 255 else 65_535
    wanted = (values * full + top // 2) // top
    np.testing.assert_array_equal(tifffile_read(ran.data).reshape(wanted.shape), wanted)
    again = both_ways(tmp_path / "again", pam(values, kind, top), name="a.pam", format="pnm").data
    if channels in (2, 4):
        assert again.startswith(b"P7\n")
    elif top == 255:
        np.testing.assert_array_equal(np.asarray(opened(again)).reshape(wanted.shape), wanted)


def test_pam_of_bits_and_of_other_types(tmp_path: Path) -> None:
    bits = (scene(1) > 100).astype(np.uint8)[:, :, None]
    found = both_ways(tmp_path / "bits", pam(bits, "BLACKANDWHITE", 1), name="a.pam", format="png").data
    np.testing.assert_array_equal(np.asarray(opened(found)), 255 * bits[:, :, 0])
    with pytest.raises(Refused, match="PAM of 4 channels of the type CMYK"):
        both_ways(tmp_path / "cmyk", pam(np.zeros((9, 9, 4)), "CMYK", 255), name="a.pam")
    several = pam(bits, "BLACKANDWHITE", 1) + pam(bits, "BLACKANDWHITE", 1)
    assert both_ways(tmp_path / "pages", several, name="a.pam").dropped == ("pages",)


@pytest.mark.parametrize("size", [b"-9", b"+9", b"9_0", b"9" * 5000, b""])
def test_a_size_of_a_pam_that_is_no_number(size: bytes) -> None:
    head = b"P7\nWIDTH %b\nHEIGHT %b\nDEPTH 1\nMAXVAL 255\nENDHDR\n" % (size, size)
    with pytest.raises(CorruptImage, match="header"):
        codecs.header_of(head + bytes(81))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm(channels: int, order: str, tmp_path: Path) -> None:
    values = scene(channels, "float32").reshape(HEIGHT, WIDTH, channels) * 5 - 2
    head = f"{'PF' if channels == 3 else 'Pf'}\n{WIDTH} {HEIGHT}\n{'-' if order == '<' else ''}1.0\n".encode()
    data = head + values[::-1].astype(f"{order}f4").tobytes()
    ran = both_ways(tmp_path, data, name="a.pfm", format="tiff")
    np.testing.assert_array_equal(tifffile_read(ran.data).reshape(values.shape), values)
    written = both_ways(tmp_path / "again", data, name="a.pfm", format="pnm").data
    found = cv2.imdecode(np.frombuffer(written, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    found = found[:, :, ::-1] if channels == 3 else found[:, :, None]
    np.testing.assert_array_equal(found, values)
    with pytest.raises(Refused, match="cut off"):
        both_ways(tmp_path / "cut", data[:-5], name="a.pfm")
