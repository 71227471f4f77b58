"""WebP, through OpenCV. It is always written in colour: gray becomes RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import cv2
import numpy as np

from imageloom.codecs.adapt import orientation
from imageloom.codecs.bits import Data, MoreNeeded, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_BLOCKS = {b"EXIF": "EXIF", b"XMP ": "XMP", b"ICCP": "colour profile"}
_MOST_CHUNKS = 1 << 16
_ICC, _ALPHA, _EXIF, _XMP, _ANIMATION = 0x20, 0x10, 0x08, 0x04, 0x02
"""Flags of an extended file (RFC 9649, 2.7.1)."""


class WebP:
    format: Format = "webp"
    quality = 80
    encoder_bytes = 12
    written: Format = "webp"
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "colour profile")

    def header(self, head: Data) -> Header:
        """Parse the chunks up to the pixels, or up to the EXIF chunk if an extended file has one."""
        flags, turned, size, alpha = 0, 1, (0, 0), False
        icc = block = b""
        for name, body, end in _chunks(head):
            if name == b"VP8X":
                flags = number(head, body, 1)
                size = (1 + number(head, body + 4, 3, "little"), 1 + number(head, body + 7, 3, "little"))
                if flags & _ANIMATION:
                    raise UnsupportedImage("animated WebP is not supported")
            elif name == b"ICCP" and not icc:
                if end > len(head):
                    raise MoreNeeded
                icc = head[body:end]
            elif name == b"ALPH":
                alpha = True
            elif name in (b"VP8 ", b"VP8L"):
                found, clear = _lossy(head, body) if name == b"VP8 " else _lossless(head, body)
                if size != (0, 0) and size != found:
                    raise CorruptImage(
                        f"its pixels are {found[0]}x{found[1]}, but its header says {size[0]}x{size[1]}"
                    )
                size, alpha = found, alpha or clear
                if not flags & _EXIF:
                    break
            elif name == b"EXIF":
                if end > len(head):
                    raise MoreNeeded
                block = _bare(head[body:end])
                turned = orientation(block)
                break
        channels = 4 if alpha or flags & _ALPHA else 3
        stated = colours_of(Metadata(block, icc=icc), channels)
        return Header("webp", Frame(*size, channels), orientation=turned, colours=stated)

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"WebP supports 8 bits, not {frame.dtype}: choose --format png"
        if max(frame.width, frame.height) > 16_383:
            return f"WebP supports at most 16383 pixels per side, not {frame.width}x{frame.height}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        flags = cv2.IMREAD_UNCHANGED
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise CorruptImage(f"the WebP cannot be decoded: {error.err}") from None
        frame = header.frame
        if image is None or image.shape[:2] != (frame.height, frame.width):
            raise CorruptImage("the WebP cannot be decoded: it is cut off or damaged")
        if frame.channels == 3:
            return cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2RGB)
        if image.shape[2] == 3:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGBA)
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)

    def metadata(self, data: bytes) -> Metadata:
        found: dict[bytes, bytes] = {}
        with suppress(MoreNeeded):
            for name, start, end in _chunks(data):
                if name in _BLOCKS and name not in found:
                    found[name] = block(data, start, end - start, _BLOCKS[name])
        return Metadata(_bare(found.get(b"EXIF", b"")), found.get(b"XMP ", b""), b"", found.get(b"ICCP", b""))

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with libwebp's lossy encoder and its default method, 4."""
        gray = image.ndim == 2 or image.shape[2] == 2
        if gray:
            planes = [image] * 3 if image.ndim == 2 else [image[:, :, 0]] * 3 + [image[:, :, 1]]
            image = np.dstack(planes)
        else:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
        data: bytes = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, encoding.quality])[1].tobytes()
        return _with_metadata(data, metadata, image, gray)


def _chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the body of each chunk.

    Raises:
        MoreNeeded: the data ends too early.
        UnsupportedImage: there are too many chunks.
    """
    at = 12
    for _ in range(_MOST_CHUNKS):
        length = number(data, at + 4, 4, "little")
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + length % 2
    raise UnsupportedImage(f"WebP with more than {_MOST_CHUNKS:,} chunks is not supported")


def _lossy(head: Data, at: int) -> tuple[tuple[int, int], bool]:
    """Width and height of a VP8 key frame (RFC 6386, 9.1)."""
    if number(head, at, 1) & 1 or head[at + 3 : at + 6] != b"\x9d\x01\x2a"[: len(head) - at - 3]:
        raise CorruptImage("the WebP does not begin with a key frame")
    return (number(head, at + 6, 2, "little") & 0x3FFF, number(head, at + 8, 2, "little") & 0x3FFF), False


def _lossless(head: Data, at: int) -> tuple[tuple[int, int], bool]:
    """Width and height of a VP8L image, and whether it uses its alpha (RFC 9649, 3.4)."""
    if number(head, at, 1) != 0x2F:
        raise CorruptImage("the WebP's lossless header is damaged")
    bits = number(head, at + 1, 4, "little")
    return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28 & 1)


def _bare(exif: bytes) -> bytes:
    """The EXIF block without the JPEG prefix that some programs write."""
    return exif.removeprefix(b"Exif\0\0")


def _with_metadata(data: bytes, metadata: Metadata, image: Pixels, gray: bool) -> bytes:
    """The file in extended form: the profile before the pixels, other metadata after them (RFC 9649, 2.7)."""
    icc = b"" if gray else metadata.icc
    if not (metadata.exif or metadata.xmp or icc):
        return data
    height, width, channels = image.shape
    pixels = data[12:]
    if pixels.startswith(b"VP8X"):
        pixels = pixels[18:]
    flags = (
        _ALPHA * (channels == 4) | _ICC * bool(icc) | _EXIF * bool(metadata.exif) | _XMP * bool(metadata.xmp)
    )
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"".join(
        (
            b"WEBP",
            _chunk(b"VP8X", bytes((flags, 0, 0, 0)) + canvas),
            _chunk(b"ICCP", icc),
            pixels,
            _chunk(b"EXIF", metadata.exif),
            _chunk(b"XMP ", metadata.xmp),
        )
    )
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _chunk(name: bytes, body: bytes) -> bytes:
    if not body:
        return b""
    return name + len(body).to_bytes(4, "little") + body + bytes(len(body) % 2)
