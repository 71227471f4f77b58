"""JPEG with libjpeg-turbo, through simplejpeg. It reports damaged files, and can decode at a smaller size."""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from imageloom.codecs import segments
from imageloom.codecs.bits import Data, number
from imageloom.codecs.metadata import orientation
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import NO_METADATA, Format, Frame, Header, Metadata, Pixels, is_large

if TYPE_CHECKING:
    from imageloom.codecs.piecewise.ordered import FileEncoder

_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)
_REFUSED = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded",
    0xCB: "arithmetic-coded lossless",
    0xCD: "hierarchical",
    0xCE: "hierarchical",
    0xCF: "hierarchical",
}


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    return importlib.import_module("simplejpeg")


class Jpeg:
    format: Format = "jpeg"
    quality = 85
    encoder_bytes = 0
    written: Format = "jpeg"
    in_process = True
    carries: tuple[str, ...] = ("EXIF", "XMP", "ICC")

    def header(self, head: Data) -> Header:
        """Parse the segments up to the first scan, which says whether more scans follow."""
        turned, adobe, frame, progressive = 1, False, None, False
        for marker, start, end in segments.walk(head):
            if marker in _FRAMES:
                frame, progressive = _frame(head, start, adobe), marker == _PROGRESSIVE
            elif marker in _REFUSED:
                raise UnsupportedImage(f"{_REFUSED[marker]} JPEG is not supported")
            elif marker == 0xE1 and head[start : start + 6] == b"Exif\0\0":
                turned = orientation(head[start + 6 : end])
            elif marker == 0xEE and head[start : start + 5] == b"Adobe":
                adobe = True
            elif marker == segments.SOS and frame is not None:
                # The coefficients of the whole image are kept until the last scan.
                several = progressive or number(head, start, 1) < frame.channels
                held = 2 * frame.bytes if several else 0
                return Header("jpeg", frame, orientation=turned, scalable=True, buffered=held)
        raise CorruptImage("the JPEG has no frame header before its first scan")

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"JPEG supports 8 bits, not {frame.dtype}: choose --format png"
        if frame.channels in (2, 4):
            return "JPEG does not support alpha: choose --format png"
        if max(frame.width, frame.height) > 65_500:
            return f"JPEG supports at most 65500 pixels per side, not {frame.width}x{frame.height}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int) -> Pixels:
        if header.buffered:
            segments.check_scans(data)
        width, height = -(-header.frame.width // scale), -(-header.frame.height // scale)
        gray = luma or header.frame.channels == 1
        try:
            size = _library().decode_jpeg_header(data)[:2]
            if size != (header.frame.height, header.frame.width):
                raise CorruptImage(f"the JPEG has {size[1]}x{size[0]} pixels, but its header says otherwise")
            image: Pixels = _library().decode_jpeg(
                data,
                colorspace="GRAY" if gray else "RGB",
                min_width=width if scale > 1 else 0,
                min_height=height if scale > 1 else 0,
                min_factor=1,
            )
        except ValueError as error:
            raise CorruptImage(f"the JPEG cannot be decoded: {error}") from None
        if image.shape[:2] != (height, width):
            raise CorruptImage(f"the JPEG decodes to {image.shape[1]}x{image.shape[0]}, not {width}x{height}")
        return image.reshape(height, width) if gray else image

    def metadata(self, data: bytes) -> Metadata:
        return segments.read(data)

    def encode(self, image: Pixels, quality: int, metadata: Metadata = NO_METADATA) -> bytes:
        if is_large(image):
            return self.in_pieces(Frame.of(image), quality, metadata).encode(image)
        gray = image.ndim == 2
        data: bytes = _library().encode_jpeg(
            np.ascontiguousarray(image[:, :, None] if gray else image),
            quality,
            colorspace="GRAY" if gray else "RGB",
            colorsubsampling="Gray" if gray else "420",
        )
        return segments.insert(data, metadata)

    def in_pieces(self, frame: Frame, quality: int, metadata: Metadata = NO_METADATA) -> FileEncoder:
        """An encoder that encodes a large image strip by strip, to the same bytes as `encode`."""
        from imageloom.codecs.piecewise import jpeg  # small images must not wait for the import

        return jpeg.Encoder(frame, quality, b"".join(segments.written(metadata)))


def _frame(head: Data, at: int, adobe: bool) -> Frame:
    """Parse a frame header (ITU-T T.81, B.2.2)."""
    bits, height, width, components = (
        number(head, at, 1),
        number(head, at + 1, 2),
        number(head, at + 3, 2),
        number(head, at + 5, 1),
    )
    if bits != 8:
        raise UnsupportedImage(f"JPEG with {bits} bits is not supported")
    if components not in (1, 3):
        kind = "CMYK" if components == 4 or adobe else f"{components}-component"
        raise UnsupportedImage(f"{kind} JPEG is not supported")
    return Frame(width, height, components)
