"""Each codec passes the conformance suite."""

from __future__ import annotations

import io
from collections.abc import Iterator

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
