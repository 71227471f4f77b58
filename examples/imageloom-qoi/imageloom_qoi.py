"""QOI, the Quite OK Image Format: lossless, 8-bit RGB and RGBA. The specification is at https://qoiformat.org."""

from __future__ import annotations

import struct

import numpy as np

from imageloom.codecs.bits import Data, MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.errors import CorruptImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_HEAD = struct.Struct(">4sIIBB")  # "qoif", width, height, channels, colour space
_END = bytes(7) + b"\1"
_MOST_RUN = 62
"""The most pixels that one byte stands for."""
_INDEX, _DIFF, _LUMA, _RUN, _RGB, _RGBA = 0x00, 0x40, 0x80, 0xC0, 0xFE, 0xFF


class Qoi:
    """The codec. Gray pixels are written as RGB."""

    format: Format = "qoi"
    written: Format = "qoi"
    magic = b"qoif"
    suffixes = ("qoi",)
    quality = 0
    encoder_bytes = 5
    in_process = False
    carries: tuple[Thing, ...] = ()

    def header(self, head: Data) -> Header:
        if len(head) < _HEAD.size:
            raise MoreNeeded
        _, width, height, channels, space = _HEAD.unpack(head[: _HEAD.size])
        if channels not in (3, 4) or space > 1:
            raise CorruptImage(f"its header says {channels} channels in colour space {space}")
        return Header("qoi", Frame(width, height, channels))

    def cannot_hold(self, frame: Frame) -> str | None:
        return None if frame.dtype == "uint8" else "QOI holds 8-bit pixels only"

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        frame = header.frame
        if frame.pixels > _MOST_RUN * len(data):
            raise CorruptImage(f"{len(data):,} bytes cannot hold {frame.pixels:,} pixels")
        pixels = _decoded(data, 4 * frame.pixels)
        image = np.frombuffer(pixels, np.uint8).reshape(frame.height, frame.width, 4)
        return np.ascontiguousarray(image[:, :, : frame.channels])

    def metadata(self, data: bytes) -> Metadata:
        return NO_METADATA

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        height, width = image.shape[:2]
        planes = image.reshape(height, width, -1)
        has_alpha = planes.shape[2] in (2, 4)
        rgba = np.full((height, width, 4), 255, np.uint8)
        rgba[:, :, :3] = planes[:, :, :-1] if has_alpha else planes
        if has_alpha:
            rgba[:, :, 3] = planes[:, :, -1]
        head = _HEAD.pack(b"qoif", width, height, 3 + has_alpha, 0)
        return head + _encoded(rgba.tobytes()) + _END


def _place(pixel: bytes) -> int:
    """The place of a pixel among the 64 that both sides remember."""
    return (pixel[0] * 3 + pixel[1] * 5 + pixel[2] * 7 + pixel[3] * 11) % 64


def _decoded(data: bytes, size: int) -> bytearray:
    """The pixels as RGBA, in as many bytes as `size`."""
    pixels, seen, pixel, at = bytearray(), [bytes(4)] * 64, b"\0\0\0\xff", _HEAD.size
    try:
        while len(pixels) < size:
            code = data[at]
            at += 1
            count = 1
            if code >= _RGB:
                length = 4 if code == _RGBA else 3
                pixel = data[at : at + length] + pixel[length:]
                at += length
            elif code >= _RUN:
                count = code - _RUN + 1
            elif code >= _LUMA:
                green, both = code - _LUMA - 32, data[at]
                at += 1
                pixel = _changed(pixel, green + (both >> 4) - 8, green, green + (both & 15) - 8)
            elif code >= _DIFF:
                pixel = _changed(pixel, (code >> 4 & 3) - 2, (code >> 2 & 3) - 2, (code & 3) - 2)
            else:
                pixel = seen[code]
            seen[_place(pixel)] = pixel
            pixels += pixel * count
    except IndexError:
        raise CorruptImage(f"it is cut off after {len(pixels) // 4:,} of {size // 4:,} pixels") from None
    if len(pixels) > size:
        raise CorruptImage("it has more pixels than its header says")
    return pixels


def _changed(pixel: bytes, red: int, green: int, blue: int) -> bytes:
    return bytes(((pixel[0] + red) & 255, (pixel[1] + green) & 255, (pixel[2] + blue) & 255, pixel[3]))


def _encoded(rgba: bytes) -> bytes:
    codes, seen, last, run = bytearray(), [bytes(4)] * 64, b"\0\0\0\xff", 0
    for at in range(0, len(rgba), 4):
        pixel = rgba[at : at + 4]
        if pixel == last:
            run += 1
            if run == _MOST_RUN:
                codes.append(_RUN + run - 1)
                run = 0
            continue
        if run:
            codes.append(_RUN + run - 1)
            run = 0
        place = _place(pixel)
        if seen[place] == pixel:
            codes.append(_INDEX + place)
        else:
            codes += _code(pixel, last)
            seen[place] = pixel
        last = pixel
    if run:
        codes.append(_RUN + run - 1)
    return bytes(codes)


def _code(pixel: bytes, last: bytes) -> bytes:
    """The shortest code of a pixel that is not remembered."""
    if pixel[3] != last[3]:
        return bytes((_RGBA, *pixel))
    red, green, blue = ((new - old + 128) % 256 - 128 for new, old in zip(pixel[:3], last, strict=False))
    if all(-2 <= change <= 1 for change in (red, green, blue)):
        return bytes((_DIFF | red + 2 << 4 | green + 2 << 2 | blue + 2,))
    if -32 <= green <= 31 and -8 <= red - green <= 7 and -8 <= blue - green <= 7:
        return bytes((_LUMA | green + 32, red - green + 8 << 4 | blue - green + 8))
    return bytes((_RGB, *pixel[:3]))
