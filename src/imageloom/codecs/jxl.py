"""JPEG XL through libjxl (imagecodecs). Images have 8 or 16 bits or floating point; of animations the first frame.

Colours that are not one of the common kinds are described by a profile, which pillow-jxl-plugin reads. Images with
a profile or stated colours are written with their own numbers: without loss, or if they have 8 bits with a lossy
encoding that takes about twice the bytes of that for sRGB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from imageloom import colours
from imageloom.codecs import jxlcolours
from imageloom.codecs.adapt import MOST_INFLATED
from imageloom.codecs.bits import Data, MoreNeeded, View, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.isobmff import complete_boxes, exif_of, top_level
from imageloom.codecs.jxlheader import MOST_BYTES, CodestreamHeader, Colours, codestream_header
from imageloom.codecs.libraries import library
from imageloom.codecs.metadata import NO_METADATA, Metadata, Primaries
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import DType, Encoding, Format, Frame, Header, Limits, Pixels, Thing

_CODESTREAM = b"\xff\x0a"
_LAST = 1 << 31
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_START = _CONTAINER + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
_TRANSFERS = frozenset((1, 8, 13, 16, 17, 18))
_EFFORT = 5
_PIECE = 1 << 20
_USUAL = Limits()
_UNSUSPECTED = 64 << 20
"""Any file may decode to this number of bytes."""


class Jxl:
    format: Format = "jxl"
    quality = 90
    encoder_bytes = 60
    written: Format = "jxl"
    settings = ("effort", "lossless")
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "colour profile", "colours")
    only_codes = True
    always_drops: tuple[Thing, ...] = (
        "animation",
        "content credentials",
        "damaged metadata",
        "gain map",
        "private metadata",
    )
    most_read = 1 << 30

    def header(self, head: Data) -> Header:
        found, transcoded = _header(head)
        channels = (1 if found.colours.is_gray else 3) + found.has_alpha
        dtype: DType = "float32" if found.is_float else "uint16" if found.bits > 8 else "uint8"
        if not found.is_float and found.bits > 16:
            raise UnsupportedImage(f"JPEG XL of {found.bits} bits is not supported")
        frame = Frame(found.width, found.height, channels, dtype)
        lossless = not (found.is_xyb or transcoded)
        meant = colours_of(Metadata(colours=_stated(found.colours)), channels)
        if _needs_profile(found.colours):
            _check_size(frame, head)
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
        if _header(data)[0].is_premultiplied:
            from imageloom.codecs.tifflayout import divided_by_alpha  # imported late: it is seldom needed

            pixels = divided_by_alpha(pixels)
        return pixels

    def metadata(self, data: bytes) -> Metadata:
        exif, xmp, found = b"", b"", set[Thing]()
        for name, body in _blocks(data):
            if name == b"Exif":
                exif = exif or exif_of(body)
            elif name == b"xml ":
                xmp = xmp or body
            elif name == b"jhgm":
                found.add("gain map")
            elif name == b"jumb":
                found.add("content credentials" if b"c2pa" in body else "private metadata")
            else:
                found.add("private metadata")
            if name in (b"Exif", b"xml ") and not body:
                found.add("damaged metadata")
        header = _header(data)[0]
        if header.is_animated:
            found.add("animation")
        try:
            icc = _profile(data) if _needs_profile(header.colours) else b""
        except MoreNeeded:
            raise CorruptImage("the JPEG XL's colour profile cannot be read") from None
        return Metadata(exif, xmp, icc=icc, colours=_stated(header.colours), found=tuple(sorted(found)))

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with libjxl, at effort 5 if no other one is asked for, in the calling thread only."""
        is_gray = image.ndim == 2 or image.shape[2] == 2
        states, icc, codes = _to_write(metadata, is_gray, encoding.lossless)
        lossless = encoding.lossless or (states and image.dtype != np.uint8)
        if states and not lossless:
            made = _in_own_colours(image, encoding)
        else:
            distance = 0.0 if lossless else _distance(encoding.quality)
            made = _library().jpegxl_encode(
                np.ascontiguousarray(image),
                effort=encoding.effort or _EFFORT,
                distance=distance,
                lossless=lossless,
                numthreads=1,
            )
        data = bytes(made)
        is_deep = data[:2] != _CODESTREAM
        data = (
            next(data[start:end] for name, _, start, end in top_level(data) if name == b"jxlc")
            if is_deep
            else data
        )
        if states:
            data = jxlcolours.with_colours(data, is_gray, icc, codes)
        return _with_boxes(data, is_deep, metadata)


def _library() -> Any:
    return library("imagecodecs", "JPEG XL", "jxl")


def _in_own_colours(image: Pixels, encoding: Encoding) -> bytes:
    """A lossy codestream of pixels that are not converted from sRGB to the colours of the compression."""
    plugin = library("pillow_jxl", "JPEG XL with a colour profile", "jxl")
    height, width = image.shape[:2]
    encoder = plugin.Encoder(
        mode="L" if image.ndim == 2 else {2: "LA", 3: "RGB", 4: "RGBA"}[image.shape[2]],
        quality=encoding.quality,
        effort=encoding.effort or _EFFORT,
        use_original_profile=True,
        num_threads=0,
    )
    return bytes(encoder(image.tobytes(), width, height, jpeg_encode=False))


def _to_write(
    metadata: Metadata, is_gray: bool, lossless: bool
) -> tuple[bool, bytes, tuple[int, int] | None]:
    """Whether the file states its colours, and their profile or codes. A lossy file of sRGB does not."""
    icc = metadata.icc if lossless or not colours.is_srgb(metadata.icc) else b""
    if icc or not metadata.colours or not metadata.colours.cicp or metadata.icc:
        return bool(icc), icc, None
    codes = metadata.colours.cicp[:2]
    if codes in jxlcolours.SRGB:
        return False, b"", None
    if jxlcolours.can_state(codes):
        return True, b"", codes
    text = colours.of_codes(*codes)
    icc = colours.built(text, is_gray) if text else b""
    if text and not icc:
        raise UnsupportedImage(f"JPEG XL cannot state these colours: {text}")
    return bool(icc), icc, None


def _header(data: Data) -> tuple[CodestreamHeader, bool]:
    """The header of the codestream, and whether the file is a recompressed JPEG."""
    head, transcoded = _beginning(data)
    return codestream_header(head), transcoded


def _beginning(data: Data) -> tuple[bytes, bool]:
    """The first bytes of the codestream, which may be in several boxes, and whether it is a recompressed JPEG."""
    if data[:2] == _CODESTREAM:
        return bytes(data[:MOST_BYTES]), False
    head, transcoded, parts = b"", False, 0
    with suppress(MoreNeeded):
        for name, _, start, end in top_level(data):
            transcoded = transcoded or name == b"jbrd"
            if name == b"jxlc":
                return bytes(data[start : min(end, start + MOST_BYTES)]), transcoded
            if name == b"jxlp":
                number_of_part = number(data, start, 4)
                if number_of_part & ~_LAST != parts:
                    raise CorruptImage(f"part {parts + 1} of the JPEG XL is missing")
                head, parts = head + data[start + 4 : min(end, start + MOST_BYTES)], parts + 1
                if number_of_part & _LAST or len(head) >= MOST_BYTES:
                    return head[:MOST_BYTES], transcoded
    if not head:
        raise MoreNeeded
    return head, transcoded


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of the boxes of metadata, decompressed."""
    if data[: len(_CONTAINER)] != _CONTAINER:
        return
    for name, _, start, end in complete_boxes(data):
        if name in (b"Exif", b"xml ", b"jhgm", b"jumb", b"uuid"):
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


def _check_size(frame: Frame, head: Data) -> None:
    """Refuse an image that is over the usual limits: for its profile, the library decodes all of it, before the
    limits of the job are checked.

    Raises:
        MoreNeeded: the size of the file is not known yet.
        LimitExceeded: it is over a limit.
    """
    size = len(head)
    if frame.pixels <= _USUAL.max_pixels and frame.bytes <= max(_UNSUSPECTED, size * _USUAL.max_expansion):
        return
    if not isinstance(head, View):
        raise MoreNeeded
    raise LimitExceeded(
        f"its size is {frame.width}x{frame.height} pixels, too many for a JPEG XL of {size:,} bytes that has a "
        "colour profile"
    )


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


def _with_boxes(codestream: bytes, is_deep: bool, metadata: Metadata) -> bytes:
    """The file: boxes of metadata in front of the codestream. Deep pixels need a box that says the level."""
    boxes = (
        (b"jxll", b"\n" if is_deep else b""),
        (b"Exif", metadata.exif and bytes(4) + metadata.exif),
        (b"xml ", metadata.xmp),
    )
    described = b"".join(_box(name, body) for name, body in boxes if body)
    return _START + described + _box(b"jxlc", codestream) if described else codestream


def _box(name: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4) + name + body
