"""WebP, through OpenCV. It is always written in colour: gray becomes RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np
from msgspec.structs import replace

from imageloom.codecs import frames
from imageloom.codecs.adapt import orientation
from imageloom.codecs.bits import HEAD, MOST_AT_ONCE, Data, MoreNeeded, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_NAMES = {b"EXIF": "EXIF", b"XMP ": "XMP", b"ICCP": "colour profile"}
_MOST_CHUNKS = 1 << 16
_ICC, _ALPHA, _EXIF, _XMP, _ANIMATION = 0x20, 0x10, 0x08, 0x04, 0x02
"""Flags of an extended file (RFC 9649, 2.7.1)."""
_FLAGS = {b"EXIF": _EXIF, b"XMP ": _XMP, b"ICCP": _ICC}
"""Blocks of metadata: without its flag, a block is ignored."""
_PIXELS = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM"}


class WebP:
    format: Format = "webp"
    quality = 80
    encoder_bytes = 36
    written: Format = "webp"
    settings = ("effort", "lossless")
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "colour profile")
    always_drops: tuple[Thing, ...] = ("animation", "damaged metadata", "private metadata")
    gray_in_colour = (1, 2)

    def header(self, head: Data) -> Header:
        """Parse the chunks up to the pixels, or up to EXIF and XMP if an extended file has them."""
        flags, blocks, size = 0, dict[bytes, bytes](), (0, 0)
        picture: _Picture | None = None
        for name, body, end in _chunks(head):
            if name == b"VP8X":
                flags = number(head, body, 1)
                size = (1 + number(head, body + 4, 3, "little"), 1 + number(head, body + 7, 3, "little"))
            elif name in (b"ALPH", b"VP8 ", b"VP8L", b"ANMF") and not (picture and picture.is_complete):
                picture = _Picture.of(head, name, body, end, picture)
            elif name in _FLAGS and _FLAGS[name] & flags and name not in blocks:
                if end > len(head):
                    raise MoreNeeded
                blocks[name] = head[body:end] if end - body <= MOST_AT_ONCE else b""
            wanted = {block for block in (b"EXIF", b"XMP ") if _FLAGS[block] & flags}
            if picture and picture.is_complete and wanted <= blocks.keys():
                break
        if picture is None or not picture.is_complete:
            raise MoreNeeded
        if size == (0, 0):
            size = picture.size
        elif not flags & _ANIMATION and size != picture.size:
            found = picture.size
            raise CorruptImage(
                f"its pixels are {found[0]}x{found[1]}, but its header says {size[0]}x{size[1]}"
            )
        is_clear = picture.is_clear or picture.box != (0, 0, *size) or bool(flags & _ALPHA)
        channels = 4 if is_clear else 3
        exif = _bare(blocks.get(b"EXIF", b""))
        return Header(
            "webp",
            Frame(*size, channels),
            orientation=orientation(exif, blocks.get(b"XMP ", b"")),
            lossless=picture.is_lossless,
            colours=colours_of(Metadata(exif, icc=blocks.get(b"ICCP", b"")), channels),
        )

    def page_header(self, head: Data, page: int, density: int) -> Header:
        """The header of a frame of an animation."""
        count = frames.count_in_webp(head)
        if page and count > 1:
            return frames.header(head, "webp", page, count)
        return replace(self.header(head), pages=count)

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"WebP supports 8 bits, not {frame.dtype}: choose --format png"
        if max(frame.width, frame.height) > 16_383:
            return f"WebP supports at most 16383 pixels per side, not {frame.width}x{frame.height}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        if header.page:
            return frames.decoded(data, header)
        frame = header.frame
        picture = _animated(data)
        if picture is None:
            return _decoded(data, frame)
        x0, y0, x1, y1 = picture.box
        if x1 > frame.width or y1 > frame.height:
            raise CorruptImage("the WebP's first frame extends beyond its canvas")
        pixels = _decoded(picture.file(data), replace(frame, width=x1 - x0, height=y1 - y0))
        if pixels.shape[:2] == (frame.height, frame.width):
            return pixels
        framed: Pixels = np.zeros((frame.height, frame.width, 4), np.uint8)
        framed[y0:y1, x0:x1] = pixels
        return framed

    def metadata(self, data: bytes) -> Metadata:
        found: dict[bytes, bytes] = {}
        others: set[Thing] = set()
        flags = 0
        with suppress(MoreNeeded):
            for name, start, end in _chunks(data):
                if name == b"VP8X":
                    flags = number(data, start, 1)
                elif name == b"ANMF":
                    others.add("animation")
                elif name in _FLAGS:
                    body = block(data, start, end - start, _NAMES[name])
                    if name in found or not body or not _FLAGS[name] & flags:
                        others.add("damaged metadata")
                    else:
                        found[name] = body
                elif name not in _PIXELS:
                    others.add("private metadata")
        return Metadata(
            exif=_bare(found.get(b"EXIF", b"")),
            xmp=found.get(b"XMP ", b""),
            icc=found.get(b"ICCP", b""),
            found=tuple(sorted(others)),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with libwebp, with its default method, 4, or that of the effort. Lossless keeps the colours of
        transparent pixels too."""
        gray = image.ndim == 2 or image.shape[2] == 2
        if gray:
            planes = [image] * 3 if image.ndim == 2 else [image[:, :, 0]] * 3 + [image[:, :, 1]]
            image = np.dstack(planes)
        elif not encoding.effort:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
        if encoding.effort:
            return _with_metadata(_with_effort(image, encoding), metadata, image, gray)
        options = [cv2.IMWRITE_WEBP_QUALITY, encoding.quality]
        if encoding.lossless:
            options = [cv2.IMWRITE_WEBP_LOSSLESS_MODE, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR]
        data: bytes = cv2.imencode(".webp", image, options)[1].tobytes()
        return _with_metadata(data, metadata, image, gray)


def _with_effort(image: Pixels, encoding: Encoding) -> bytes:
    """Encode RGB or RGBA with a method from 0 (effort 1) to 6 (effort 9), which OpenCV cannot choose."""
    import io

    from PIL import Image  # imported late: it takes 30 ms

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        file,
        "WEBP",
        quality=100 if encoding.lossless else encoding.quality,
        method=round((encoding.effort - 1) * 6 / 8),
        lossless=encoding.lossless,
        exact=encoding.lossless,
    )
    return file.getvalue()


def _decoded(data: bytes, frame: Frame) -> Pixels:
    """Decode a file with one image to RGB or RGBA."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise CorruptImage(f"the WebP cannot be decoded: {error.err}") from None
    if image is None or image.shape[:2] != (frame.height, frame.width):
        raise CorruptImage("the WebP cannot be decoded: it is cut off or damaged")
    if frame.channels == 3:
        return cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2RGB)
    if image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGBA)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


class _Picture(NamedTuple):
    """The image of a file, or the first frame of an animation."""

    box: tuple[int, int, int, int]
    is_clear: bool
    is_lossless: bool
    is_complete: bool
    """Whether its pixels were found, not only its alpha channel."""
    body: slice
    """Its chunks, if it is a frame."""

    @property
    def size(self) -> tuple[int, int]:
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    @classmethod
    def of(cls, head: Data, name: bytes, body: int, end: int, before: _Picture | None) -> _Picture:
        """The picture after one more chunk."""
        if name == b"ANMF":
            return cls._frame(head, body, end)
        if name == b"ALPH":
            return cls((0, 0, 0, 0), True, False, False, slice(0))
        size, clear = (_lossy if name == b"VP8 " else _lossless)(head, body)
        return cls((0, 0, *size), clear or before is not None, name == b"VP8L", True, slice(0))

    @classmethod
    def _frame(cls, head: Data, body: int, end: int) -> _Picture:
        """A frame of an animation (RFC 9649, 2.7.1.1): its place, and the chunks of a still image."""
        x, y, width, height = (number(head, body + 3 * i, 3, "little") for i in range(4))
        found: _Picture | None = None
        for name, start, stop in _chunks(head, body + 16, end):
            if name in (b"ALPH", b"VP8 ", b"VP8L"):
                found = cls.of(head, name, start, stop, found)
                if found.is_complete:
                    break
        if found is None or not found.is_complete or found.size != (width + 1, height + 1):
            raise CorruptImage("the WebP's first frame is damaged")
        place = (2 * x, 2 * y, 2 * x + width + 1, 2 * y + height + 1)
        return found._replace(box=place, body=slice(body + 16, end))

    def file(self, data: bytes) -> bytes:
        """A file with only this frame."""
        width, height = self.size
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        head = _chunk(b"VP8X", bytes((_ALPHA * self.is_clear, 0, 0, 0)) + canvas)
        body = b"WEBP" + head + data[self.body]
        return b"RIFF" + len(body).to_bytes(4, "little") + body


def _animated(data: bytes) -> _Picture | None:
    """The first frame of an animation; None for other files."""
    if data[12:16] != b"VP8X" or not number(data, 20, 1) & _ANIMATION:
        return None
    for name, body, end in _chunks(data):
        if name == b"ANMF":
            return _Picture.of(data, name, body, min(end, len(data)), None)
        if name in (b"VP8 ", b"VP8L"):
            return None
    raise CorruptImage("the WebP has no frame")


def _chunks(data: Data, at: int = 12, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the body of each chunk, up to the end of the file or of a frame.

    Raises:
        MoreNeeded: only the first bytes of the file are given.
        UnsupportedImage: there are too many chunks.
    """
    for _ in range(_MOST_CHUNKS):
        if at + 8 > (len(data) if end is None else end):
            if end is None and isinstance(data, bytes) and len(data) == HEAD:
                raise MoreNeeded
            return
        length = number(data, at + 4, 4, "little")
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + length % 2
    raise UnsupportedImage(f"WebP with more than {_MOST_CHUNKS:,} chunks is not supported")


def _lossy(head: Data, at: int) -> tuple[tuple[int, int], bool]:
    """Width and height of a VP8 key frame (RFC 6386, 9.1)."""
    start = number(head, at, 6)
    if start >> 40 & 1 or start & 0xFFFFFF != 0x9D012A:
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
