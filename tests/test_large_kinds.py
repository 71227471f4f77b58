"""Whatever the kind of a file, its tiles are made of the pixels that its codec gives of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from imageloom.bench.samples import draw_photo
from imageloom.codecs import get
from imageloom.model import Encoding
from program import Run, contents

RGB = draw_photo(3, 300, 200)
GRAY = np.ascontiguousarray(RGB[:, :, 0])
RGBA = np.dstack((RGB, RGB[:, :, 1]))
DEEP = RGB.astype(np.uint16) * 257


def photo(mode: str, **options: Any) -> Callable[[Path], object]:
    image = Image.fromarray(RGBA if mode == "RGBA" else RGB).convert(mode)
    return lambda path: image.save(path, **options)


def tiff(data: Any, **options: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, data, **options)


def ours(format: Any) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(get(format).encode(RGB, Encoding(80)))


def interlaced(image: Any) -> Callable[[Path], object]:
    return lambda path: pyvips.Image.new_from_array(image).pngsave(str(path), interlace=True)


KINDS: dict[str, Callable[[Path], object]] = {
    "palette.tif": photo("P"),
    "bits.tif": photo("1"),
    "jpeg.tif": photo("RGB", compression="jpeg"),
    "white-is-zero.tif": tiff(GRAY, photometric="miniswhite"),
    "deep-white-is-zero.tif": tiff(DEEP[:, :, 0], photometric="miniswhite"),
    "multiplied.tif": tiff(RGBA, photometric="rgb", extrasamples=["assocalpha"]),
    "multiplied-planes.tif": tiff(
        np.moveaxis(RGBA, 2, 0).copy(),
        photometric="rgb",
        extrasamples=["assocalpha"],
        planarconfig="separate",
    ),
    "alpha.tif": tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]),
    "planes.tif": tiff(np.moveaxis(RGB, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
    "deep-planes.tif": tiff(np.moveaxis(DEEP, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
    "444.jpg": photo("RGB", quality=85, subsampling=0),
    "422.jpg": photo("RGB", quality=85, subsampling=1),
    "420.jpg": photo("RGB", quality=85, subsampling=2),
    "progressive.jpg": photo("RGB", quality=85, progressive=True),
    "rgb.jpg": photo("RGB", keep_rgb=True),
    "gray.jpg": photo("L"),
    "palette.png": photo("P"),
    "palette-alpha.png": photo("P", transparency=3),
    "bits.png": photo("1"),
    "gray-key.png": photo("L", transparency=77),
    "gray-alpha.png": photo("LA"),
    "interlaced.png": interlaced(RGB),
    "interlaced-alpha.png": interlaced(RGBA),
    "a.bmp": ours("bmp"),
    "a.ppm": ours("pnm"),
    "a.webp": ours("webp"),
    "a.avif": ours("avif"),
    "a.gif": photo("P"),
}


@pytest.mark.parametrize("name", KINDS)
def test_tiled_equals_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageloom.tiling.assemble.PART_PIXELS", 300 * 32)
    photos = tmp_path / "photos"
    photos.mkdir()
    KINDS[name](photos / name)
    made = []
    for tile in ("never", "always"):
        run = Run("flip", photos, tmp_path / tile, format="png", tile=tile, engine="serial")
        assert run.numbers == (1, 0, 0), run.failed
        made.append(contents(tmp_path / tile))
    assert made[0] == made[1]
