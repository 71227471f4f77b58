"""Each codec passes the conformance suite."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import tifffile
from PIL import Image

from imageloom.testing.codecs import FRAMES, CodecTests, scene


class TestJpeg(CodecTests):
    format = "jpeg"
    tolerance = 3.0


class TestPng(CodecTests):
    format = "png"


class TestWebP(CodecTests):
    format = "webp"
    tolerance = 3.0


class TestTiff(CodecTests):
    format = "tiff"


class TestBmp(CodecTests):
    format = "bmp"


class TestPnm(CodecTests):
    format = "pnm"


class TestAvif(CodecTests):
    format = "avif"
    tolerance = 3.0


class TestGif(CodecTests):
    format = "gif"

    def files(self) -> Iterator[tuple[str, bytes]]:
        file = io.BytesIO()
        Image.fromarray(scene(FRAMES[2])).quantize(16).save(file, "GIF", comment=b"a comment")
        yield "palette", file.getvalue()


class TestIco(CodecTests):
    format = "ico"

    def files(self) -> Iterator[tuple[str, bytes]]:
        file = io.BytesIO()
        Image.fromarray(scene(FRAMES[3])).save(file, "ICO", sizes=[(16, 16), (31, 31)], bitmap_format="bmp")
        yield "bmp", file.getvalue()
        file = io.BytesIO()
        Image.fromarray(scene(FRAMES[3])).save(file, "ICO", sizes=[(31, 31)])
        yield "png", file.getvalue()


class TestHeif(CodecTests):
    format = "heif"
    tolerance = 3.0


class TestJxl(CodecTests):
    format = "jxl"
    tolerance = 3.0
    lossless = True


class TestJp2(CodecTests):
    format = "jp2"


class TestPdf(CodecTests):
    format = "pdf"
    cuts = 3
    flips = 8

    def files(self) -> Iterator[tuple[str, bytes]]:
        file = io.BytesIO()
        Image.fromarray(scene(FRAMES[2])).save(file, "PDF", resolution=72)
        yield "page", file.getvalue()


class TestSvg(CodecTests):
    format = "svg"
    cuts = 4
    flips = 24

    def files(self) -> Iterator[tuple[str, bytes]]:
        yield "drawing", SVG.encode()


SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30" viewBox="0 0 20 15">'
    '<rect width="10" height="15" fill="#f00"/><circle cx="15" cy="8" r="4" fill="#00f" opacity="0.5"/></svg>'
)


class TestRaw(CodecTests):
    format = "raw"
    cuts = 3
    flips = 4

    def files(self) -> Iterator[tuple[str, bytes]]:
        yield "dng", dng()


def dng(orientation: int = 1) -> bytes:
    """A DNG of a smooth gray scene, without compression."""
    file = io.BytesIO()
    tags: list[tuple[int, int, int, object, bool]] = [
        (274, 3, 1, orientation, False),
        (271, 2, 5, "Loom", False),
        (33421, 3, 2, (2, 2), False),
        (33422, 1, 4, bytes((0, 1, 1, 2)), False),
        (50706, 1, 4, bytes((1, 4, 0, 0)), False),
        (50708, 2, 9, "Loom Test", False),
        (50721, 10, 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), False),
        (50728, 5, 3, (1, 1, 1, 1, 1, 1), False),
        (50778, 3, 1, 21, False),
    ]
    y, x = np.mgrid[0:48, 0:64]
    sensor = (x * 500 + y * 300).astype(np.uint16)
    tifffile.imwrite(file, sensor, photometric=32803, extratags=tags, metadata=None)
    return file.getvalue()
