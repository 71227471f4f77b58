"""Icons and cursors: files of Pillow, and BMPs in icons written by hand, read by Pillow."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from cell_files import TOKEN, exif
from faithful import Refused, both_ways, opened, saved, scene
from imageloom import codecs
from imageloom.errors import UsageError
from imageloom.model import Pixels

SIDE = 24


def icon(*pictures: tuple[int, int, bytes], kind: int = 1) -> bytes:
    """An icon of pictures: their side, their bits, and their bytes."""
    at, entries = 6 + 16 * len(pictures), []
    for side, bits, data in pictures:
        entries.append(struct.pack("<BBBBHHII", side % 256, side % 256, 0, 0, 1, bits, len(data), at))
        at += len(data)
    return struct.pack("<HHH", 0, kind, len(pictures)) + b"".join(entries + [data for *_, data in pictures])


def bmp(bits: int, side: int = SIDE, is_clear: bool = False) -> bytes:
    """A BMP without its file header: some colours, and a mask of the left columns.

    Args:
        is_clear: all alpha is 0, as in files of programs that know no alpha.
    """
    head = struct.pack("<IiiHHIIiiII", 40, side, 2 * side, 1, bits, 0, 0, 0, 0, 0, 0)
    random = np.random.default_rng(bits)
    rows = random.integers(0, 256, (side, -(-side * bits // 32) * 4), np.uint8)
    if is_clear:
        rows[:, 3::4] = 0
    palette = random.integers(0, 256, (1 << bits, 4), np.uint8).tobytes() if bits <= 8 else b""
    mask = np.zeros((side, -(-side // 32) * 4), np.uint8)
    mask[:, 0] = 0xE0
    return head + palette + rows.tobytes() + mask.tobytes()


def same(found: Pixels, data: bytes) -> None:
    """The pixels are those of Pillow, where they can be seen."""
    wanted = np.asarray(opened(data).convert("RGBA"))
    np.testing.assert_array_equal(found[:, :, 3], wanted[:, :, 3])
    np.testing.assert_array_equal(found[wanted[:, :, 3] > 0], wanted[wanted[:, :, 3] > 0])


@pytest.mark.parametrize("bits", [1, 4, 8, 24, 32])
def test_bmps_in_icons(bits: int, tmp_path: Path) -> None:
    data = icon((SIDE, bits, bmp(bits)))
    ran = both_ways(tmp_path, data, name="a.ico")
    assert ran.dropped == ()
    same(np.asarray(opened(ran.data)), data)


def test_the_mask_counts_if_all_alpha_is_zero(tmp_path: Path) -> None:
    found = np.asarray(
        opened(both_ways(tmp_path, icon((SIDE, 32, bmp(32, is_clear=True))), name="a.ico").data)
    )
    assert (found[:, :3, 3] == 0).all()
    assert (found[:, 3:, 3] == 255).all()


def test_the_largest_picture_of_several(tmp_path: Path) -> None:
    small, large = (saved(opened(saved_scene(side)), "PNG") for side in (16, 256))
    data = icon((16, 32, small), (256, 32, large), (SIDE, 24, bmp(24)))
    ran = both_ways(tmp_path, data, name="a.ico")
    assert ran.dropped == ("pages",)
    np.testing.assert_array_equal(np.asarray(opened(ran.data)), scene(3, width=256, height=256))


def saved_scene(side: int) -> bytes:
    from PIL import Image

    return saved(Image.fromarray(scene(3, width=side, height=side)), "PNG", exif=exif())


def test_a_png_in_an_icon_keeps_its_metadata(tmp_path: Path) -> None:
    ran = both_ways(tmp_path, icon((64, 32, saved_scene(64))), name="a.ico")
    assert TOKEN in str(dict(opened(ran.data).getexif()))


def test_cursors(tmp_path: Path) -> None:
    cursor = icon((SIDE, 24, bmp(24)), kind=2)
    assert codecs.header_of(cursor).format == "ico"
    same(np.asarray(opened(both_ways(tmp_path, cursor, name="a.cur").data)), icon((SIDE, 24, bmp(24))))


def test_icons_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ico files can be read but not written"):
        both_ways(tmp_path, icon((SIDE, 24, bmp(24))), name="a.ico", format="ico")


def test_damaged_icons(tmp_path: Path) -> None:
    huge = bytearray(bmp(24))
    huge[4:8] = struct.pack("<I", 60_000)
    for name, data in (
        ("cut", icon((SIDE, 24, bmp(24)))[:-40]),
        ("huge", icon((SIDE, 24, bytes(huge)))),
        ("palette", icon((SIDE, 8, bmp(8)[:32] + struct.pack("<I", 1 << 30) + bmp(8)[36:]))),
    ):
        with pytest.raises(Refused, match="CorruptImage"):
            both_ways(tmp_path / name, data, name="a.ico")
