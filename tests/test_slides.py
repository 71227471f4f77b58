"""Slides of Aperio (SVS), read at the level that suffices, and compared with OpenSlide."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from faithful import both_ways, opened, scene
from imageloom import codecs
from imageloom.codecs.tiffpages import pages
from imageloom.errors import CorruptImage
from imageloom.model import Pixels

WIDTH, HEIGHT = 701, 503
NAME = "Aperio Image Library v11.2.1 \r\n"


def slide(levels: tuple[int, ...] = (4, 8)) -> bytes:
    """A slide with levels whose sides are rounded down, a thumbnail, a label and a macro picture."""
    image = scene(3, width=WIDTH, height=HEIGHT)
    tiled: dict[str, Any] = {"tile": (128, 128), "compression": "jpeg"}
    striped: dict[str, Any] = {"rowsperstrip": 16, "compression": "jpeg"}
    how: dict[str, Any] = {"photometric": "rgb", "metadata": None, "software": False}
    size = f"{WIDTH}x{HEIGHT} [0,0 {WIDTH}x{HEIGHT}] (128x128)"
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=True) as made:
        made.write(image, description=f"{NAME}{size} JPEG/RGB Q=90|AppMag = 20|MPP = 0.5", **tiled, **how)
        made.write(image[::4, ::4], description=f"{NAME} thumbnail", **striped, **how)
        for scale in levels:
            level = image[: HEIGHT // scale * scale : scale, : WIDTH // scale * scale : scale]
            text = f"{NAME}{size} -> {level.shape[1]}x{level.shape[0]} JPEG/RGB Q=90"
            made.write(level, description=text, **tiled, **how)
        for name, kind in (("label", 1), ("macro", 9)):
            text = f"{NAME}{name} 80x60"
            made.write(image[:60, :80], description=text, subfiletype=kind, **striped, **how)
    return file.getvalue()


def by_openslide(tmp_path: Path, data: bytes, level: int) -> Pixels:
    openslide = pytest.importorskip("openslide")
    (tmp_path / "a.svs").write_bytes(data)
    with openslide.OpenSlide(tmp_path / "a.svs") as found:
        assert set(found.associated_images) == {"thumbnail", "label", "macro"}
        region = found.read_region((0, 0), level, found.level_dimensions[level])
    pixels: Pixels = np.asarray(region.convert("RGB"))
    return pixels


def test_a_slide_as_openslide_reads_it(tmp_path: Path) -> None:
    data = slide()
    ran = both_ways(tmp_path, data, name="a.svs", format="png")
    assert set(ran.dropped) >= {"auxiliary images", "thumbnail"}
    assert "pages" not in ran.dropped
    found = np.asarray(opened(ran.data)).astype(int)
    assert np.abs(found - by_openslide(tmp_path, data, 0)).max() <= 1


@pytest.mark.parametrize(("scale", "level"), [(4, 1), (8, 2)])
def test_a_level_of_a_slide(tmp_path: Path, scale: int, level: int) -> None:
    data = slide()
    header = codecs.header_of(data)
    assert (header.pages, header.scales) == (1, (4, 8))
    found = codecs.decode(data, header, scale=scale).astype(int)
    assert found.shape == (-(-HEIGHT // scale), -(-WIDTH // scale), 3)
    wanted = by_openslide(tmp_path, data, level)
    assert np.abs(found[: wanted.shape[0], : wanted.shape[1]] - wanted).max() <= 1


def test_a_slide_is_read_at_the_level_that_suffices(tmp_path: Path) -> None:
    data = slide()
    ran = both_ways(tmp_path, data, "resize 80x", name="a.svs", format="png")
    image = np.asarray(opened(ran.data)).astype(int)
    exact = both_ways(tmp_path / "exact", data, "resize 80x", name="a.svs", format="png", decode="exact")
    smooth = np.asarray(opened(exact.data))
    assert np.abs(image - smooth).mean() < 4
    assert "text" in ran.dropped  # the size and the magnification in the description are those of the slide


@pytest.mark.parametrize("levels", [(), (3,)])
def test_slides_with_other_levels(tmp_path: Path, levels: tuple[int, ...]) -> None:
    header = codecs.header_of(slide(levels))
    assert (header.pages, header.scales) == (1, levels)


def test_directories_that_overlap_are_refused() -> None:
    tags, count = 60_000, 200
    length = 2 + 12 * tags
    data = bytearray(b"\xfe" * (8 + 14 * count + length + 4))
    data[:8] = b"II*\0" + (8).to_bytes(4, "little")
    for number in range(count):
        at = 8 + 14 * number
        data[at : at + 2] = tags.to_bytes(2, "little")
        data[at + length : at + length + 4] = (at + 14).to_bytes(4, "little")
    with pytest.raises(CorruptImage, match="overlap"):
        pages(bytes(data))


def test_the_levels_of_a_picture_may_be_larger_than_itself() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as made:
        made.write(scene(3, width=20, height=10), photometric="rgb", subifds=1)
        made.write(scene(3, width=200, height=100), photometric="rgb", subfiletype=1)
    header = codecs.header_of(file.getvalue())
    assert (header.frame.width, header.scales) == (20, ())
