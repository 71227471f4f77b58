"""BMP: read with Pillow, written by this module."""

from __future__ import annotations

import struct

import numpy as np

from imageloom.codecs import pillow
from imageloom.codecs.bits import Data, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_PLAIN, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6
_CORE = 12
"""Length of the oldest header (OS/2), with 16-bit sizes and palette entries of 3 bytes."""
_V4 = 108


class Bmp:
    format: Format = "bmp"
    quality = 0
    encoder_bytes = 0
    written: Format = "bmp"
    in_process = True
    carries: tuple[Thing, ...] = ()

    def header(self, head: Data) -> Header:
        """Parse the information header. A palette with only grays means a gray image."""
        length = number(head, 14, 4, "little")
        if length == _CORE:
            width, height = number(head, 18, 2, "little"), number(head, 20, 2, "little")
            bits, packing = number(head, 24, 2, "little"), _PLAIN
        elif 40 <= length <= 124:
            width = number(head, 18, 4, "little")
            height = abs(struct.unpack("<i", number(head, 22, 4, "little").to_bytes(4, "little"))[0])
            bits, packing = number(head, 28, 2, "little"), number(head, 30, 4, "little")
        else:
            raise CorruptImage(f"the BMP has a header of {length} bytes")
        if packing not in (_PLAIN, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS):
            raise UnsupportedImage(f"BMP with compression {packing} is not supported")
        if bits not in (1, 4, 8, 16, 24, 32):
            raise UnsupportedImage(f"BMP with {bits} bits per pixel is not supported")
        if bits <= 8:
            channels = 1 if _is_gray(head, length, bits) else 3
        else:
            alpha = length >= 56 and packing in (_BITFIELDS, _ALPHA_BITFIELDS) and number(head, 66, 4)
            channels = 4 if bits == 32 and alpha else 3
        return Header("bmp", Frame(width, height, channels))

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"BMP supports 8 bits, not {frame.dtype}: choose --format png"
        return "BMP does not support gray with alpha: choose --format png" if frame.channels == 2 else None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        return pillow.decoded(pillow.opened(data, "Bmp"), header.frame)

    def metadata(self, data: bytes) -> Metadata:
        return NO_METADATA

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with bottom-up rows padded to 4 bytes, a palette for gray, and header version 4 for alpha."""
        height, width = image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        palette = b"".join(bytes((i, i, i, 0)) for i in range(256)) if channels == 1 else b""
        rows = np.zeros((height, -(-width * channels // 4) * 4), np.uint8)
        ordered = image[::-1] if channels == 1 else image[::-1, :, [2, 1, 0, 3][:channels]]
        rows[:, : width * channels] = ordered.reshape(height, -1)
        length = _V4 if channels == 4 else 40
        start = 14 + length + len(palette)
        head = struct.pack("<2sIII", b"BM", start + rows.size, 0, start)
        packing = _BITFIELDS if channels == 4 else _PLAIN
        info = struct.pack(
            "<IiiHHIIiiII", length, width, height, 1, 8 * channels, packing, rows.size, 2835, 2835, 0, 0
        )
        if channels == 4:
            info += struct.pack("<IIII4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs") + bytes(48)
        return b"".join((head, info, palette, rows.tobytes()))


def _is_gray(head: Data, length: int, bits: int) -> bool:
    entry = 3 if length == _CORE else 4
    used = 0 if length == _CORE else number(head, 46, 4, "little")
    count = min(used or 1 << bits, 1 << bits)
    number(head, 14 + length + entry * count - 1, 1)
    table = head[14 + length : 14 + length + entry * count]
    colours = np.frombuffer(table, np.uint8).reshape(count, entry)[:, :3]
    return bool((colours == colours[:, :1]).all())
