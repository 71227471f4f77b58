"""PNG, through OpenCV: as fast as libpng, and with 16 bits for all colour types.

Only the chunks that determine the pixels are passed to the library, and only if their checksums are correct.
The others are read by `chunks`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from imageloom.codecs import chunks
from imageloom.codecs.bits import HEAD, Data, MoreNeeded, number
from imageloom.codecs.chunks import SIGNATURE, chunk
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Density, Metadata
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import DType, Encoding, Format, Frame, Header, Pixels, Thing, is_large

if TYPE_CHECKING:
    from imageloom.codecs.piecewise.ordered import FileEncoder

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_KINDS = {
    _GRAY: (1, (1, 2, 4, 8, 16)),
    _RGB: (3, (8, 16)),
    _PALETTE: (3, (1, 2, 4, 8)),
    _GRAY_ALPHA: (2, (8, 16)),
    _RGBA: (4, (8, 16)),
}
"""Channels and depths by colour type (PNG specification, 11.2.1); a palette is expanded."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of the passes of an interlaced image (PNG specification, 8.2)."""
_PIECE = 256
"""Damaged pixels are decompressed in pieces of this size, in bytes: those before the damage are kept."""


class Png:
    format: Format = "png"
    quality = 0
    encoder_bytes = 0
    written: Format = "png"
    in_process = True
    settings = ("effort",)
    carries: tuple[Thing, ...] = (
        "EXIF",
        "HDR",
        "IPTC",
        "XMP",
        "colour profile",
        "colours",
        "comment",
        "density",
        "private metadata",
        "text",
    )
    always_drops: tuple[Thing, ...] = ("animation", "damaged metadata", "display hints", "thumbnail")

    def header(self, head: Data) -> Header:
        """Parse the chunks before the pixels, and the end of the file for an orientation."""
        if head[12:16] == b"CgBI":
            raise UnsupportedImage("PNG in Apple's own form for apps (CgBI) is not supported")
        if number(head, 8, 4) != 13 or head[12:16] != b"IHDR":
            raise CorruptImage("the PNG does not begin with its header")
        width, height, bits, kind = (
            number(head, 16, 4),
            number(head, 20, 4),
            number(head, 24, 1),
            number(head, 25, 1),
        )
        if kind not in _KINDS or bits not in _KINDS[kind][1]:
            raise CorruptImage(f"the PNG has colour type {kind} with {bits} bits")
        if max(width, height) >= 1 << 31:
            raise CorruptImage(f"its header says {width}x{height} pixels")
        if isinstance(head, bytes) and len(head) >= HEAD:
            raise MoreNeeded  # the end of the file is read too
        before: list[tuple[bytes, int, int]] = []
        for place in chunks.walk(head):
            if place[0] in (b"IDAT", b"IEND"):
                break
            before.append(place)
        turned = chunks.orientation(head, before, place[1])
        clear = any(_counts(head, kind, *each) for each in before)
        dtype: DType = "uint16" if bits == 16 else "uint8"
        frame = Frame(width, height, _KINDS[kind][0] + clear, dtype)
        stated = chunks.colours(head, before, frame.channels)
        return Header("png", frame, orientation=turned, colours=stated)

    def can_state(self, density: Density) -> bool:
        return density.unit == "none" or all(0.5 <= value < 1 << 31 for value in density.per_metre)

    def cannot_hold(self, frame: Frame) -> str | None:
        return f"PNG supports 8 or 16 bits, not {frame.dtype}" if frame.dtype == "float32" else None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        found = coded(data, header, damage)
        try:
            image = cv2.imdecode(np.frombuffer(found.file(data), np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise CorruptImage(f"the PNG cannot be decoded: {error.err}") from None
        if image is None:
            raise CorruptImage("the PNG cannot be decoded: its pixels are damaged")
        return _as_declared(image, header.frame, found.key)

    def metadata(self, data: bytes) -> Metadata:
        return chunks.read(data)

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with OpenCV's default: zlib level 1 with run lengths only: half the time, 10% larger files. With
        an effort: with zlib's level of that number, and its usual strategy."""
        if is_large(image) and not encoding.effort:
            return self.in_pieces(Frame.of(image), encoding, metadata).encode(image)
        if image.ndim == 3 and image.shape[2] == 2:
            data = _encode_gray_alpha(image, encoding.effort)
        else:
            if image.ndim == 3:
                order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
                image = cv2.cvtColor(image, order)
            data = cv2.imencode(".png", image, _options(encoding.effort))[1].tobytes()
        if metadata == NO_METADATA:
            return data
        return b"".join((data[:33], chunks.written(metadata), data[33:]))

    def in_pieces(self, frame: Frame, encoding: Encoding, metadata: Metadata = NO_METADATA) -> FileEncoder:
        """An encoder that encodes a large image strip by strip, to the same bytes as `encode`."""
        from imageloom.codecs.piecewise import png  # small images must not wait for the import

        return png.Encoder(frame, chunks.written(metadata))


def _counts(data: Data, kind: int, name: bytes, start: int, end: int) -> bool:
    """Whether a chunk makes pixels transparent. As in libpng, a damaged one does not."""
    if name != b"tRNS" or kind not in (_GRAY, _RGB, _PALETTE) or not chunks.is_intact(data, start, end):
        return False
    return end > start if kind == _PALETTE else end - start == 2 * _KINDS[kind][0]


class Coded(NamedTuple):
    """What determines the pixels of a file."""

    head: bytes
    """The file up to the pixels: signature, header, palette and its transparency."""
    pixels: tuple[slice, ...]
    """The chunks of pixels: ranges of the file."""
    key: bytes
    """The transparent colour, two bytes per sample, scaled to the range of the decoded pixels."""
    rebuilt: bytes = b""
    """The chunk of pixels in place of damaged ones."""

    def file(self, data: bytes) -> bytes:
        """A file with only this."""
        view = memoryview(data)
        return b"".join((self.head, *(view[part] for part in self.pixels), self.rebuilt, END))


END = chunk(b"IEND", b"")


def coded(data: bytes, header: Header, damage: DamageLog) -> Coded:
    """Find what determines the pixels of a file.

    Raises:
        CorruptImage: the file is damaged, and `damage` does not accept it.
        UnsupportedImage: it has an orientation that its header does not say.
    """
    small: dict[bytes, bytes] = {}
    pixels: list[slice] = []
    problem = ""
    kind, bits = data[25], data[24]
    at = len(SIGNATURE)
    try:
        for name, start, end in chunks.walk(data):
            at = start - 8
            if end + 4 > len(data):
                raise MoreNeeded
            at = end + 4
            if name == b"IDAT":
                if not chunks.is_intact(data, start, end):
                    problem = problem or "a checksum is wrong (IDAT)"
                if pixels and pixels[-1].stop == start - 8:
                    pixels[-1] = slice(pixels[-1].start, end + 4)
                else:
                    pixels.append(slice(start - 8, end + 4))
            elif not chunks.is_intact(data, start, end):
                if name in (b"IHDR", b"PLTE"):
                    raise CorruptImage(f"the PNG is damaged: a checksum is wrong ({name.decode()})")
                damage.repaired(f"a checksum is wrong: the chunk {name.decode()} is left out")
            elif name in (b"IHDR", b"PLTE") or _counts(data, kind, name, start, end):
                small.setdefault(name, data[start:end])
    except MoreNeeded:
        problem = "it is cut off"
        if data[at + 4 : at + 8] == b"IDAT":
            pixels.append(slice(at, len(data)))
    except CorruptImage:
        if not pixels:
            raise
        problem = f"it is damaged at byte {at}"
    if not pixels:
        raise CorruptImage("the PNG is cut off" if problem else "the PNG has no pixels")
    if header.orientation != chunks.orientation_of(data):
        raise UnsupportedImage("PNG with its orientation stored far behind the pixels is not supported")
    key = b""
    if kind in (_GRAY, _RGB):
        key = _scaled(small.pop(b"tRNS", b""), bits)
    elif b"tRNS" in small:
        small[b"tRNS"] = small[b"tRNS"][: len(small.get(b"PLTE", b"")) // 3]
    ordered = (name for name in (b"IHDR", b"PLTE", b"tRNS") if name in small)
    head = SIGNATURE + b"".join(chunk(name, small[name]) for name in ordered)
    if not problem:
        return Coded(head, tuple(pixels), key)
    return Coded(head, (), key, _rebuilt(data, pixels, problem, damage))


def _rebuilt(data: bytes, pixels: list[slice], problem: str, damage: DamageLog) -> bytes:
    """The pixels of a damaged file as one valid chunk, with zeros in place of those that are missing.

    Raises:
        CorruptImage: `damage` does not accept it.
    """
    stream, raw, size = zlib.decompressobj(), bytearray(), _raw_size(data)
    packed = b"".join(_bodies(data, pixels))
    try:
        for at in range(0, len(packed), _PIECE):
            raw += stream.decompress(packed[at : at + _PIECE], size - len(raw) + 1)
            if stream.eof or len(raw) >= size:
                break
    except zlib.error:
        pass  # what was decompressed before is kept
    if stream.eof and len(raw) >= size:  # zlib has compared its own checksum
        damage.repaired(f"{problem}, but its pixels are whole")
    else:
        share = min(len(raw), size) / size
        damage.missing(f"{problem}: {100 * (1 - share):.0f}% of its pixels are missing, others may be wrong")
    return chunk(b"IDAT", zlib.compress(bytes(raw[:size]).ljust(size, b"\0"), 1))


def _bodies(data: bytes, pixels: list[slice]) -> Iterator[bytes]:
    for part in pixels:
        at = part.start
        while at < part.stop:
            end = at + 8 + int.from_bytes(data[at : at + 4])
            yield data[at + 8 : min(end, part.stop)]
            at = end + 4


def _raw_size(data: bytes) -> int:
    """The size of the decompressed pixels in bytes: rows with their filters."""
    width, height, bits, kind = number(data, 16, 4), number(data, 20, 4), data[24], data[25]
    samples = bits * (1 if kind == _PALETTE else _KINDS[kind][0])
    total = 0
    for x, y, across, down in _PASSES if data[28] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * samples // 8))
    return total


def _scaled(key: bytes, bits: int) -> bytes:
    """The transparent colour, scaled to the range of the decoded pixels. Only its low bits count (11.3.1.1)."""
    samples = np.frombuffer(key, ">u2") & ((1 << bits) - 1)
    if bits < 8:
        samples = samples * (255 // ((1 << bits) - 1))
    return samples.astype(">u2").tobytes()


def _as_declared(image: Pixels, frame: Frame, key: bytes) -> Pixels:
    """Convert OpenCV's channels to those of the frame: BGR to RGB, gray RGBA to gray and alpha."""
    have = 1 if image.ndim == 2 else image.shape[2]
    if image.shape[:2] != (frame.height, frame.width) or image.dtype != frame.dtype:
        raise CorruptImage("the PNG's decoded size or depth differs from its header")
    if key and frame.channels == have + 1:
        return with_key(image if have == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB), key)
    if frame.channels == 1 and have == 1:
        return image
    if frame.channels == 2 and have == 4:
        return np.ascontiguousarray(image[:, :, 2:])
    if frame.channels == 3 and have == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if frame.channels == 4 and have == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    raise CorruptImage(f"the PNG decodes to {have} channels, but its header says {frame.channels}")


def with_key(colours: Pixels, key: bytes) -> Pixels:
    """The pixels with an alpha channel: transparent at pixels with exactly the key's colour, opaque elsewhere."""
    top = np.iinfo(colours.dtype).max
    clear = colours == np.frombuffer(key, ">u2").astype(colours.dtype)
    alpha: Pixels = np.where(clear if clear.ndim == 2 else clear.all(axis=2), 0, top).astype(colours.dtype)
    return np.dstack((colours, alpha))


def _options(effort: int) -> list[int]:
    if not effort:
        return []
    return [
        *(cv2.IMWRITE_PNG_COMPRESSION, effort),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    ]


def _encode_gray_alpha(image: Pixels, effort: int = 0) -> bytes:
    """Encode gray with alpha, which OpenCV cannot write. Each row uses the filter Sub."""
    height, width = image.shape[:2]
    deep = image.dtype == np.uint16
    samples = image.astype(">u2") if deep else image
    rows = np.ascontiguousarray(samples).view(np.uint8).reshape(height, -1)
    step = 4 if deep else 2
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 1
    filtered[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
    stream = zlib.compressobj(
        effort or 1, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY if effort else zlib.Z_RLE
    )
    head = width.to_bytes(4) + height.to_bytes(4) + bytes((16 if deep else 8, _GRAY_ALPHA, 0, 0, 0))
    pixels = stream.compress(filtered.data) + stream.flush()
    step = 1 << 20
    parts = [chunk(b"IDAT", pixels[i : i + step]) for i in range(0, len(pixels), step)]
    return b"".join((SIGNATURE, chunk(b"IHDR", head), *parts, END))
