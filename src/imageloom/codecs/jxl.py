"""JPEG XL through libjxl (imagecodecs). Images have 8 or 16 bits or floating point; of animations the first frame.

Colours that are not one of the common kinds are described by a profile, which pillow-jxl-plugin reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from imageloom.codecs.adapt import MOST_INFLATED
from imageloom.codecs.bits import Data, MoreNeeded, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.isobmff import complete_boxes, top_level
from imageloom.codecs.jxlheader import Colours, codestream_header
from imageloom.codecs.libraries import library
from imageloom.codecs.metadata import NO_METADATA, Metadata, Primaries
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import DType, Encoding, Format, Frame, Header, Pixels, Thing

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_START = _CONTAINER + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
_TRANSFERS = frozenset((1, 8, 13, 16, 17, 18))
_EFFORT = 5
_PIECE = 1 << 20


class Jxl:
    format: Format = "jxl"
    quality = 90
    encoder_bytes = 60
    written: Format = "jxl"
    carries: tuple[Thing, ...] = ("EXIF", "XMP")
    also_reads: tuple[Thing, ...] = ("colour profile", "colours")
    always_drops: tuple[Thing, ...] = ("animation", "gain map", "private metadata")
    most_read = 1 << 30

    def header(self, head: Data) -> Header:
        start, transcoded = _codestream(head)
        found = codestream_header(head, start)
        channels = (1 if found.colours.is_gray else 3) + found.has_alpha
        dtype: DType = "float32" if found.is_float else "uint16" if found.bits > 8 else "uint8"
        if not found.is_float and found.bits > 16:
            raise UnsupportedImage(f"JPEG XL of {found.bits} bits is not supported")
        frame = Frame(found.width, found.height, channels, dtype)
        lossless = not (found.is_xyb or transcoded)
        meant = colours_of(Metadata(colours=_stated(found.colours)), channels)
        if _needs_profile(found.colours):
            meant = colours_of(Metadata(icc=_profile(head)), channels)
        return Header("jxl", frame, orientation=found.orientation, lossless=lossless, colours=meant)

    def cannot_hold(self, frame: Frame) -> str | None:
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        jxl = _library()
        try:
            pixels: Pixels = jxl.jpegxl_decode(data, 0, keeporientation=True, numthreads=1)
        except (jxl.JpegxlError, ValueError, RuntimeError) as error:
            raise CorruptImage(f"the JPEG XL cannot be decoded: {error}") from None
        frame = header.frame
        if pixels.dtype == np.float16:
            pixels = pixels.astype(np.float32)
        shape = (frame.height, frame.width) + ((frame.channels,) if frame.channels > 1 else ())
        if pixels.shape != shape:
            pixels = pixels.reshape(pixels.shape[-len(shape) :])
        if pixels.shape != shape:
            raise CorruptImage(f"the JPEG XL decodes to {pixels.shape}, but its header says {frame}")
        if codestream_header(data, _codestream(data)[0]).is_premultiplied:
            from imageloom.codecs.tifflayout import divided_by_alpha  # imported late: it is seldom needed

            pixels = divided_by_alpha(pixels)
        return pixels

    def metadata(self, data: bytes) -> Metadata:
        exif, xmp, found = b"", b"", set[Thing]()
        for name, body in _blocks(data):
            if name == b"Exif" and body and not exif:
                exif = body[4 + number(body, 0, 4) :].removeprefix(b"Exif\0\0")
            elif name == b"xml ":
                xmp = xmp or body
            elif name == b"jhgm":
                found.add("gain map")
            elif name == b"jumb":
                found.add("private metadata")
        header = codestream_header(data, _codestream(data)[0])
        if header.is_animated:
            found.add("animation")
        try:
            icc = _profile(data) if _needs_profile(header.colours) else b""
        except MoreNeeded:
            raise CorruptImage("the JPEG XL's colour profile cannot be read") from None
        return Metadata(exif, xmp, icc=icc, colours=_stated(header.colours), found=tuple(sorted(found)))

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with libjxl at effort 5, in the calling thread only."""
        lossless = encoding.lossless
        distance = 0.0 if lossless else _distance(encoding.quality)
        made = _library().jpegxl_encode(
            np.ascontiguousarray(image), effort=_EFFORT, distance=distance, lossless=lossless, numthreads=1
        )
        return _with_metadata(bytes(made), metadata)


def _library() -> Any:
    return library("imagecodecs", "JPEG XL", "jxl")


def _codestream(data: Data) -> tuple[int, bool]:
    """Where the codestream begins, and whether the file is a recompressed JPEG."""
    if data[:2] == b"\xff\x0a":
        return 0, False
    transcoded = False
    for name, _, start, end in top_level(data):
        transcoded = transcoded or name == b"jbrd"
        if name == b"jxlc":
            return start, transcoded
        if name == b"jxlp":
            if number(data, start, 4) & 0x7FFFFFFF:
                raise CorruptImage("the JPEG XL's first part is missing")
            if end - start < 68 and end < len(data):
                raise UnsupportedImage("JPEG XL with a header in several parts is not supported")
            return start + 4, transcoded
    raise MoreNeeded


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of the boxes of metadata, decompressed."""
    if data[: len(_CONTAINER)] != _CONTAINER:
        return
    for name, _, start, end in complete_boxes(data):
        if name in (b"Exif", b"xml ", b"jhgm", b"jumb"):
            yield name, block(data, start, end - start, name.decode().strip())
        elif name == b"brob":
            body = block(data, start, end - start, "metadata")
            yield body[:4], _unpacked(body[4:]) if body[:4] in (b"Exif", b"xml ") else b""


def _unpacked(data: bytes) -> bytes:
    """Metadata that was compressed with Brotli; empty if it is damaged."""
    codecs = _library()
    room = bytearray(min(MOST_INFLATED, 1 << 16))
    while True:
        try:
            return bytes(codecs.brotli_decode(data, out=room))
        except codecs.BrotliError:
            if len(room) >= MOST_INFLATED:
                return b""
            room = bytearray(min(MOST_INFLATED, 16 * len(room)))


def _needs_profile(found: Colours) -> bool:
    """Whether the colours are not one of the common kinds."""
    return found.has_profile or not found.primaries or found.transfer not in _TRANSFERS


def _stated(found: Colours) -> Primaries | None:
    """The stated colours; None for sRGB, and if only a profile says them."""
    primaries = 12 if found.primaries == 11 else found.primaries
    if _needs_profile(found) or (primaries, found.transfer) == (1, 13):
        return None
    return Primaries((primaries, found.transfer, 0, 1))


def _profile(data: Data) -> bytes:
    """The profile of the decoded pixels. A decoder converts lossy images with a profile to linear light.

    Raises:
        MoreNeeded: the library cannot read it: the file is damaged, or not complete.
        LimitExceeded: it is too large.
    """
    plugin = library("pillow_jxl", "JPEG XL with a colour profile", "jxl")
    whole = b"".join(data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
    try:
        icc = bytes(plugin.Decoder(num_threads=0)(whole)[3])
    except Exception:
        raise MoreNeeded from None
    if len(icc) > MOST_INFLATED:
        raise LimitExceeded(
            f"its colour profile takes {len(icc):,} bytes, over the limit of {MOST_INFLATED:,}"
        )
    return icc


def _distance(quality: int) -> float:
    """The distance of libjxl for a quality, as its command-line encoder computes it."""
    if quality >= 100:
        return 0.01
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def _with_metadata(data: bytes, metadata: Metadata) -> bytes:
    """The file with boxes of metadata in front of the codestream."""
    described = b"".join(
        _box(name, body)
        for name, body in ((b"Exif", metadata.exif and bytes(4) + metadata.exif), (b"xml ", metadata.xmp))
        if body
    )
    if not described:
        return data
    if data[:2] == b"\xff\x0a":
        return _START + described + _box(b"jxlc", data)
    at = data.index(b"ftyp") + 16
    if data[at + 4 : at + 8] == b"jxll":
        at += int.from_bytes(data[at : at + 4])
    return data[:at] + described + data[at:]


def _box(name: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4) + name + body
