"""GIF: the first frame of animations, comments, frames of other sizes than the canvas. Whole and in tiles."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faithful import both_ways, opened, saved, scene
from imageloom.codecs import read_metadata
from imageloom.codecs.metadata import Density
from imageloom.model import Pixels


def drawn(shift: int = 0) -> Image.Image:
    return Image.fromarray(np.roll(scene(3), 5 * shift, axis=1)).quantize(64)


def plain(**options: Any) -> bytes:
    return saved(drawn(), "GIF", **options)


def rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    data = saved(drawn(), "GIF", save_all=True, append_images=[drawn(1), drawn(2)], loop=0)
    ran = both_ways(tmp_path, data)
    np.testing.assert_array_equal(rgb(opened(ran.data)), rgb(opened(data)))
    assert ran.dropped == ("animation",)


def test_a_loop_count_alone_is_no_loss(tmp_path: Path) -> None:
    assert both_ways(tmp_path, plain(loop=3)).dropped == ()


def test_a_comment_becomes_a_text(tmp_path: Path) -> None:
    data = plain(comment="Ålesund " * 100)
    ran = both_ways(tmp_path, data)
    assert opened(ran.data).info["Comment"] == "Ålesund " * 100
    assert ran.dropped == ()
    assert both_ways(tmp_path / "webp", data, format="webp").dropped == ("comment",)


def test_xmp_and_a_profile_are_kept(tmp_path: Path) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    end = bytes((1, *range(255, -1, -1), 0))
    profile = bytes(16) + b"RGB " + bytes(108)
    blocks = b"\x21\xff\x0bXMP DataXMP" + xmp + end + b"\x21\xff\x0bICCRGBG1012\x80" + profile + b"\0"
    data = plain()
    at = 13 + (3 << (data[10] & 7) + 1)
    ran = both_ways(tmp_path, data[:at] + blocks + data[at:])
    assert opened(ran.data).info["icc_profile"] == profile
    assert opened(ran.data).info["xmp"] == xmp
    assert ran.dropped == ()


@pytest.mark.parametrize("size", [(50, 40), (20, 10), (0, 0)])
def test_a_frame_of_another_size_than_the_canvas(size: tuple[int, int], tmp_path: Path) -> None:
    data = bytearray(plain())
    data[6:10] = struct.pack("<HH", *size)
    pixels = np.asarray(opened(both_ways(tmp_path, bytes(data)).data))
    assert pixels.shape[:2] == (max(31, size[1]), max(45, size[0]))
    np.testing.assert_array_equal(pixels[:31, :45, :3], rgb(drawn()))
    if size == (50, 40):
        assert pixels[:, :, 3].sum() == 255 * 31 * 45


def test_a_table_of_its_own(tmp_path: Path) -> None:
    frames = [drawn(), Image.fromarray(scene(3)[:, ::-1]).quantize(16)]
    data = saved(frames[1], "GIF", save_all=True, append_images=frames[:1])
    np.testing.assert_array_equal(rgb(opened(both_ways(tmp_path, data).data)), rgb(opened(data)))


@pytest.mark.parametrize("end", [b"", b"\0", b"\0\0\0\x3b", b"junk"])
def test_a_missing_end_is_a_warning(end: bytes, tmp_path: Path) -> None:
    ran = both_ways(tmp_path, plain()[:-1] + end)
    np.testing.assert_array_equal(rgb(opened(ran.data)), rgb(drawn()))
    assert ran.warnings == ("its end is missing or damaged",)


def test_the_shape_of_pixels(tmp_path: Path) -> None:
    data = bytearray(plain())
    data[12] = 17
    assert read_metadata(bytes(data), "gif").density == Density(64, 32, "none")
    assert opened(both_ways(tmp_path, bytes(data)).data).info["aspect"] == (64, 32)
