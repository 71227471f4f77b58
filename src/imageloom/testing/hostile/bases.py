"""Valid files, a few of each format, for mutations."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from msgspec.structs import replace
from PIL import Image, ImageCms

from imageloom import codecs
from imageloom.bench.samples import draw_photo
from imageloom.codecs.metadata import Metadata
from imageloom.codecs.piecewise import jpeg, tiff
from imageloom.model import Encoding, Format, Frame, Pixels
from imageloom.testing.raw import bmp, gif, picture, png, scans

_WIDTH, _HEIGHT = 48, 32
_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_SRGB = _PROFILE[:24] + bytes(12) + _PROFILE[36:]
"""A profile without the time of its creation, so that the files are the same each time."""


def bases() -> Iterator[tuple[str, Format, bytes]]:
    """Name, format and bytes of each file, alternating between the formats."""
    colour = draw_photo(5, _WIDTH, _HEIGHT)
    gray, alpha = colour[:, :, 1].copy(), np.dstack((colour, colour[:, :, :1]))
    made = [
        [("png", name, data) for name, data in _pngs(colour, gray, alpha)],
        [("jpeg", name, data) for name, data in _jpegs(colour, gray)],
        [("tiff", name, data) for name, data in _tiffs(colour, gray, alpha)],
        [("webp", name, data) for name, data in _webps(colour, alpha)],
        [("gif", name, data) for name, data in _gifs(colour)],
        [("bmp", name, data) for name, data in _bmps(colour, gray, alpha)],
        [("pnm", name, data) for name, data in _pnms(colour, gray)],
        [("avif", name, data) for name, data in _avifs(colour, alpha)],
        [("jxl", name, data) for name, data in _with_boxes("jxl", colour, alpha)],
        [("jp2", name, data) for name, data in _with_boxes("jp2", colour, alpha)],
    ]
    if importlib.util.find_spec("pillow_heif") is not None:
        made.append([("heif", name, data) for name, data in _with_boxes("heif", colour, alpha)])
    for turn in range(max(map(len, made))):
        for of_format in made:
            if turn < len(of_format):
                format, name, data = of_format[turn]
                yield f"{format}-{name}", format, data


def _metadata() -> Metadata:
    """EXIF with an orientation and a sub-directory, XMP, and an invalid profile."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x010F, 2, 5, 0x32)
    entries += struct.pack("<HHII", 0x8769, 4, 1, 0x3A)
    below = struct.pack("<H", 1) + struct.pack("<HHII", 0xA002, 3, 1, _WIDTH) + bytes(4)
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + entries + bytes(4) + b"maker\0\0\0" + below
    icc = (128).to_bytes(4) + bytes(12) + b"RGB XYZ " + bytes(104)
    return Metadata(exif, b"<x:xmpmeta tiff:Orientation='6'/>", b"", icc)


def _saved(image: Pixels | Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def _pngs(colour: Pixels, gray: Pixels, alpha: Pixels) -> Iterator[tuple[str, bytes]]:
    encode = codecs.get("png").encode
    yield "colour", encode(colour, Encoding(0), _metadata())
    yield "palette", _saved(Image.fromarray(colour).quantize(16), "PNG", transparency=3)
    yield "interlaced", png(8, 8, zlib.compress(bytes(79)), interlaced=1)
    yield "deep", encode(gray.astype(np.uint16) * 257, Encoding(0))
    yield "alpha", encode(alpha, Encoding(0))


def _jpegs(colour: Pixels, gray: Pixels) -> Iterator[tuple[str, bytes]]:
    yield "metadata", codecs.get("jpeg").encode(colour, Encoding(85), _metadata())
    yield "progressive", _saved(colour, "JPEG", progressive=True, quality=70)
    yield "strips", jpeg.Encoder(Frame(_WIDTH, _HEIGHT, 3)).encode(colour)
    yield "gray", _saved(gray, "JPEG", optimize=True)
    yield "scans", scans(1024, 8)


def _tiffs(colour: Pixels, gray: Pixels, alpha: Pixels) -> Iterator[tuple[str, bytes]]:
    frame = Frame(_WIDTH, _HEIGHT, 3)
    yield "strips", codecs.get("tiff").encode(colour, Encoding(0), _metadata())
    yield "jpeg-tiles", tiff.Encoder(frame, compression="jpeg", tile=16).encode(colour)
    for compression in ("tiff_lzw", "packbits", "tiff_jpeg"):
        yield compression, _saved(colour, "TIFF", compression=compression)
    yield "palette", _saved(Image.fromarray(colour).quantize(16), "TIFF")
    yield "bits", _saved(Image.fromarray(gray).convert("1"), "TIFF")
    yield "zstd-tiles", tiff.Encoder(frame, compression="zstd", tile=16).encode(colour)
    yield "float", codecs.get("tiff").encode(gray.astype(np.float32), Encoding(0))
    yield "alpha-tiles", tiff.Encoder(Frame(_WIDTH, _HEIGHT, 4), compression="none", tile=16).encode(alpha)
    yield "big", _saved(gray, "TIFF", big_tiff=True)


def _webps(colour: Pixels, alpha: Pixels) -> Iterator[tuple[str, bytes]]:
    yield "metadata", codecs.get("webp").encode(colour, Encoding(80), _metadata())
    yield "lossless", cv2.imencode(".webp", colour, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    yield "alpha", codecs.get("webp").encode(alpha, Encoding(80))


def _gifs(colour: Pixels) -> Iterator[tuple[str, bytes]]:
    yield "palette", _saved(Image.fromarray(colour).quantize(16), "GIF", comment=b"a comment", transparency=2)
    yield "raw", gif(picture(16, 16), comment=b"said")
    yield "in-part", gif(picture(8, 8, at=4))


def _bmps(colour: Pixels, gray: Pixels, alpha: Pixels) -> Iterator[tuple[str, bytes]]:
    for name, image in (("colour", colour), ("gray", gray), ("alpha", alpha)):
        yield name, codecs.get("bmp").encode(image, Encoding(0))
    yield "runs", bmp(16, 4, 8, 1, (b"\x10\1\0\0" * 4) + b"\0\1")
    yield "bits", _saved(Image.fromarray(gray).convert("1"), "BMP")


def _pnms(colour: Pixels, gray: Pixels) -> Iterator[tuple[str, bytes]]:
    yield "colour", codecs.get("pnm").encode(colour, Encoding(0))
    yield "gray", codecs.get("pnm").encode(gray, Encoding(0))
    yield "plain", b"P2 # plain\n4 3\n200\n" + b" ".join(b"%d" % n for n in range(12))
    yield "bits", b"P4\n16 4\n" + bytes(range(8))


def _avifs(colour: Pixels, alpha: Pixels) -> Iterator[tuple[str, bytes]]:
    yield "metadata", codecs.get("avif").encode(colour, Encoding(50), _metadata())
    yield "alpha", codecs.get("avif").encode(alpha, Encoding(50))


def _with_boxes(format: Format, colour: Pixels, alpha: Pixels) -> Iterator[tuple[str, bytes]]:
    metadata = replace(_metadata(), icc=_SRGB) if format == "jxl" else _metadata()  # libjxl refuses another
    yield "metadata", codecs.get(format).encode(colour, Encoding(80), metadata)
    yield "alpha", codecs.get(format).encode(alpha, Encoding(80, lossless=True))
