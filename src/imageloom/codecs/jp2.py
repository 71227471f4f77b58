"""JPEG 2000 through OpenJPEG (imagecodecs): files of boxes (JP2) and bare codestreams. It is written without loss.

The headers are checked before the library reads the file (ISO/IEC 15444-1, annexes A and I).
"""

from __future__ import annotations

import struct
from contextlib import suppress
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from imageloom.codecs.bits import Data, MoreNeeded, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.isobmff import boxes, complete_boxes, top_level
from imageloom.codecs.libraries import library
from imageloom.codecs.metadata import COMMENT, NO_METADATA, Density, Metadata, Text
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import DType, Encoding, Format, Frame, Header, Pixels, Thing

_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_START = _SIGNATURE + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
_EXIF = b"JpgTiffExif->JP2"
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_SRGB, _GRAY, _SYCC = 16, 17, 18
_OPACITY, _PREMULTIPLIED = 1, 2
_COMMENT, _TILE = 0xFF64, 0xFF90
_ENCODERS = (
    "Created by OpenJPEG",
    "Kakadu-",
    "JasPer Version",
    "Creator: JasPer",
    "LEAD Technologies",
    "FFmpeg",
)
_MOST_COMMENTS, _MOST_MARKERS = 100, 10_000
_LONGEST = 65_000
_MOST_TILES = 65_535
_MOST_HEADER = 1 << 20


class _Picture(NamedTuple):
    """The image, from the headers."""

    frame: Frame
    depths: tuple[int, ...]
    """Bits of each channel."""
    is_premultiplied: bool = False
    extra: int = 0
    icc: bytes = b""


class Jp2:
    format: Format = "jp2"
    quality = 0
    encoder_bytes = 24
    written: Format = "jp2"
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "IPTC", "colour profile", "comment", "density")
    always_drops: tuple[Thing, ...] = ("damaged metadata", "layers", "pages", "private metadata")

    def header(self, head: Data) -> Header:
        picture = _picture(head)
        meant = colours_of(Metadata(icc=picture.icc), picture.frame.channels) if picture.icc else ""
        return Header("jp2", replace(picture.frame, extra=picture.extra), colours=meant)

    def can_state(self, density: Density) -> bool:
        return all(0.01 <= value <= 6_553_500 for value in density.per_metre)

    def cannot_hold(self, frame: Frame) -> str | None:
        return "JPEG 2000 is written with 8 or 16 bits, not float32" if frame.dtype == "float32" else None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        library_ = _library()
        try:
            pixels: Pixels = library_.jpeg2k_decode(_without_profile(data), numthreads=1)
        except (library_.Jpeg2kError, ValueError, RuntimeError) as error:
            raise CorruptImage(f"the JPEG 2000 cannot be decoded: {error}") from None
        picture = _picture(data)
        if Frame.of(pixels) != picture.frame:
            raise CorruptImage(f"the JPEG 2000 decodes to {Frame.of(pixels)}, not {picture.frame}")
        pixels = _full_range(pixels, picture.depths)
        if picture.is_premultiplied:
            from imageloom.codecs.tifflayout import divided_by_alpha  # imported late: it is seldom needed

            pixels = divided_by_alpha(pixels)
        return pixels

    def metadata(self, data: bytes) -> Metadata:
        held: dict[bytes, bytes] = {}
        icc, density, found = b"", None, set[Thing]()
        if data[: len(_SIGNATURE)] != _SIGNATURE:
            return Metadata(texts=_comments(data, 0))
        texts: tuple[Text, ...] | None = None
        for name, _, start, end in complete_boxes(data):
            if name == b"uuid":
                kind = data[start : start + 16]
                held.setdefault(kind, block(data, start + 16, end - start - 16, "metadata"))
            elif name == b"jp2c":
                if texts is not None:
                    found.add("pages")
                texts = texts or _comments(data, start)
            elif name == b"jp2h" and end - start <= _MOST_HEADER:
                icc, density = _described(data[start:end])
            elif name in (b"xml ", b"asoc", b"lbl ", b"jp2i"):
                found.add("private metadata")
            elif name == b"jpch":
                found.add("layers")
        if held.keys() - {_EXIF, _XMP, _IPTC}:
            found.add("private metadata")
        return Metadata(
            held.get(_EXIF, b"").removeprefix(b"Exif\0\0"),
            held.get(_XMP, b""),
            icc=icc,
            iptc=held.get(_IPTC, b""),
            density=density,
            texts=texts or (),
            found=tuple(sorted(found)),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with the reversible wavelet in the calling thread only."""
        height, width = image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        levels = max(1, min(6, min(width, height).bit_length()))
        codestream = _library().jpeg2k_encode(
            np.ascontiguousarray(image), codecformat="j2k", reversible=True, resolutions=levels, numthreads=1
        )
        depth = 8 * image.itemsize - 1
        inside = [_box(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, depth, 7, 0, 0))]
        if metadata.icc:
            inside.append(_box(b"colr", b"\2\0\0" + metadata.icc))
        else:
            inside.append(_box(b"colr", struct.pack(">BBBI", 1, 0, 0, _SRGB if channels > 2 else _GRAY)))
        if channels in (2, 4):
            kinds = [(channel, 0, channel + 1) for channel in range(channels - 1)] + [(channels - 1, 1, 0)]
            inside.append(
                _box(b"cdef", struct.pack(">H", channels) + b"".join(struct.pack(">HHH", *k) for k in kinds))
            )
        if metadata.density and (metadata.density.unit != "none" or metadata.density.x != metadata.density.y):
            inside.append(_box(b"res ", _box(b"resc", _resolution(metadata.density))))
        parts = [_START, _box(b"jp2h", b"".join(inside))]
        for kind, body in ((_EXIF, metadata.exif), (_XMP, metadata.xmp), (_IPTC, metadata.iptc)):
            if body:
                parts.append(_box(b"uuid", kind + body))
        return b"".join((*parts, _box(b"jp2c", _commented(bytes(codestream), metadata))))


def _library() -> Any:
    return library("imagecodecs", "JPEG 2000", "jp2")


def _picture(head: Data) -> _Picture:
    """The image, from the boxes and the codestream's header.

    Raises:
        MoreNeeded: the data ends within the headers.
        UnsupportedImage: its colours or channels are not supported.
    """
    if head[: len(_SIGNATURE)] != _SIGNATURE:
        return _coded(head, 0)
    described: bytes | None = None
    for name, _, start, end in top_level(head):
        if name == b"jp2h" and described is None:
            if end - start > _MOST_HEADER:
                raise LimitExceeded(
                    f"its header takes {end - start:,} bytes, over the limit of {_MOST_HEADER:,}"
                )
            if end > len(head):
                raise MoreNeeded
            described = bytes(head[start:end])
        elif name == b"jp2c":
            if described is None:
                raise CorruptImage("the JPEG 2000 has no header")
            try:
                return _in_colours(_coded(head, start), described)
            except struct.error:
                raise CorruptImage("the JPEG 2000's header is damaged") from None
    raise MoreNeeded


def _coded(head: Data, at: int) -> _Picture:
    """The image of a codestream, from its size marker."""
    if number(head, at, 4) != 0xFF4FFF51:
        raise CorruptImage("the JPEG 2000 does not begin with its codestream")
    x1, y1, x0, y0, wide, high, left, top = (number(head, at + 8 + 4 * i, 4) for i in range(8))
    count = number(head, at + 40, 2)
    if x1 <= x0 or y1 <= y0 or not wide or not high:
        raise CorruptImage("the JPEG 2000 has no size")
    if not 1 <= count <= 4:
        raise UnsupportedImage(f"JPEG 2000 of {count:,} channels is not supported")
    if -(-(x1 - left) // wide) * -(-(y1 - top) // high) > _MOST_TILES:
        raise CorruptImage("the JPEG 2000 has too many tiles")
    channels = [head[at + 42 + 3 * i : at + 45 + 3 * i] for i in range(count)]
    if len(channels[-1]) < 3:
        raise MoreNeeded
    if any(channel[0] & 0x80 for channel in channels):
        raise UnsupportedImage("JPEG 2000 of signed numbers is not supported")
    if any(channel[1:] != b"\1\1" for channel in channels):
        raise UnsupportedImage("JPEG 2000 with subsampled channels is not supported")
    depths = tuple((channel[0] & 0x7F) + 1 for channel in channels)
    extra = 1 if count in (2, 4) else 0
    return _Picture(Frame(x1 - x0, y1 - y0, count, _dtype(depths)), depths, extra=extra)


def _comments(data: bytes, at: int) -> tuple[Text, ...]:
    """The comments in the header of a codestream (annex A.9.2), without the names of encoders."""
    found = []
    at += 2
    with suppress(MoreNeeded):
        for _ in range(_MOST_MARKERS):
            marker, length = number(data, at, 2), number(data, at + 2, 2)
            if marker == _TILE:
                break
            if marker == _COMMENT and number(data, at + 4, 2) == 1:
                words = _decoded(data[at + 6 : at + 2 + length]).strip("\0 ")
                if words and not words.startswith(_ENCODERS):
                    found.append(Text(COMMENT, words))
            at += 2 + max(2, length)
    return tuple(found[:_MOST_COMMENTS])


def _decoded(words: bytes) -> str:
    """A comment: Latin letters, or UTF-8, which others write."""
    try:
        return words.decode()
    except UnicodeDecodeError:
        return words.decode("latin-1")


def _commented(codestream: bytes, metadata: Metadata) -> bytes:
    """The codestream with the comments behind its first two markers."""
    words = [text.text.encode(errors="replace") for text in metadata.texts]
    parts = [word[at : at + _LONGEST] for word in words for at in range(0, len(word), _LONGEST)]
    segments = (struct.pack(">HHH", _COMMENT, 4 + len(part), 1) + part for part in parts)
    end = 4 + number(codestream, 4, 2)
    return codestream[:end] + b"".join(segments) + codestream[end:]


def _without_profile(data: bytes) -> bytes:
    """The file with its profile in an unknown box: the library would convert the pixels to sRGB."""
    if data[: len(_SIGNATURE)] != _SIGNATURE:
        return data
    start, end = next((start, end) for name, _, start, end in top_level(data) if name == b"jp2h")
    return data[:start] + data[start:end].replace(b"colr\2", b"skip\2") + data[end:]


def _dtype(depths: tuple[int, ...]) -> DType:
    if max(depths) > 16:
        raise UnsupportedImage(f"JPEG 2000 of {max(depths)} bits is not supported")
    return "uint16" if max(depths) > 8 else "uint8"


def _in_colours(coded: _Picture, described: bytes) -> _Picture:
    """The image with its palette, colours and alpha, from the header's boxes."""
    frame, depths = coded.frame, coded.depths
    premultiplied, alpha = False, False
    for name, body in boxes(described):
        if name == b"pclr":
            count = number(body, 2, 1)
            depths = tuple((number(body, 3 + i, 1) & 0x7F) + 1 for i in range(count))
            if count not in (1, 3, 4) or frame.channels != 1:
                raise UnsupportedImage(f"JPEG 2000 with a palette of {count} columns is not supported")
            frame = Frame(frame.width, frame.height, count, _dtype(depths))
        elif name == b"colr" and number(body, 0, 1) == 1:
            space = number(body, 3, 4)
            if space not in (_SRGB, _GRAY, _SYCC):
                raise UnsupportedImage(f"JPEG 2000 of colour space {space} is not supported")
        elif name == b"cdef":
            for index in range(number(body, 0, 2)):
                channel, kind, _ = struct.unpack_from(">HHH", body, 2 + 6 * index)
                if kind in (_OPACITY, _PREMULTIPLIED):
                    if channel != frame.channels - 1:
                        raise UnsupportedImage(
                            "JPEG 2000 whose alpha is not the last channel is not supported"
                        )
                    alpha, premultiplied = True, kind == _PREMULTIPLIED
    extra = 1 if frame.channels in (2, 4) and not alpha else 0
    return _Picture(frame, depths, premultiplied, extra, _described(described)[0])


def _full_range(pixels: Pixels, depths: tuple[int, ...]) -> Pixels:
    """Values scaled to the full range of their type."""
    top = int(np.iinfo(pixels.dtype).max)
    if all((1 << depth) - 1 == top for depth in depths):
        return pixels
    planes = pixels if pixels.ndim == 3 else pixels[:, :, None]
    scaled = []
    for channel, depth in enumerate(depths):
        most = (1 << depth) - 1
        table = (np.arange(top + 1, dtype=np.uint32).clip(max=most) * top + most // 2) // most
        scaled.append(table.astype(pixels.dtype)[planes[:, :, channel]])
    return scaled[0] if pixels.ndim == 2 else np.dstack(scaled)


def _described(header: bytes) -> tuple[bytes, Density | None]:
    """The profile and the density, from the header's boxes."""
    icc, density = b"", None
    for name, body in boxes(header):
        if name == b"colr" and body[:1] == b"\2":
            icc = icc or body[3:]
        elif name == b"res ":
            for kind, values in boxes(body):
                if len(values) >= 10 and (kind == b"resc" or density is None):
                    vertical, under_v, horizontal, under_h, exponent_v, exponent_h = struct.unpack_from(
                        ">HHHHbb", values
                    )
                    if under_v and under_h and abs(exponent_v) < 9 and abs(exponent_h) < 9:
                        x = horizontal / under_h * 10.0**exponent_h / 100
                        y = vertical / under_v * 10.0**exponent_v / 100
                        density = Density(round(x, 6), round(y, 6), "cm")
    return icc, density


def _resolution(density: Density) -> bytes:
    """Pixels per metre, as fractions of 16-bit numbers with a decimal exponent."""
    x, y = density.per_metre
    return struct.pack(">HHHH", *_fraction(y), *_fraction(x)) + b"\2\2"


def _fraction(value: float) -> tuple[int, int]:
    """A fraction of two 16-bit numbers that is a hundredth of the value."""
    found = Fraction(min(65535.0, max(1e-4, value / 100))).limit_denominator(
        max(1, min(65535, int(65535 / max(1.0, value / 100))))
    )
    return found.numerator, found.denominator


def _box(name: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4) + name + body
