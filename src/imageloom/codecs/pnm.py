"""PNM: plain and raw forms of bitmaps, graymaps and pixmaps (netpbm's pbm, pgm and ppm pages), PAM, and PFM
of floating point. Pixels with alpha are written as PAM, and floating point as PFM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from imageloom.codecs.bits import Data, MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata, Text
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_SIZES = (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL")
_TYPES = {
    1: ("BLACKANDWHITE", "GRAYSCALE"),
    2: ("BLACKANDWHITE_ALPHA", "GRAYSCALE_ALPHA"),
    3: ("RGB",),
    4: ("RGB_ALPHA",),
}
"""The types of PAM by the number of channels, the most general one last."""
_FLOATS = re.compile(
    rb"P[Ff]\s+(\d{1,10})\s+(\d{1,10})\s+([+-]?[\d.]{1,20}(?:e[+-]?\d{1,3})?)[ \t\r]?[\n\s]", re.IGNORECASE
)
_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})(?=[\s#])")
_COMMENT = re.compile(rb"#([^\r\n]*)")
_ANOTHER = re.compile(rb"\s*P[1-7Ff]\s")
_SPACE = re.compile(rb"\s")
_PIECE = 1 << 20
_MOST_DIGITS = 10
_MOST_HEAD = 64 << 10
"""Maximum size of a header with its comments, in bytes."""


class Pnm:
    format: Format = "pnm"
    quality = 0
    encoder_bytes = 0
    written: Format = "pnm"
    in_process = True
    carries: tuple[Thing, ...] = ("comment", "text")
    always_drops: tuple[Thing, ...] = ("pages",)

    def header(self, head: Data) -> Header:
        return Header("pnm", _head(head[:_MOST_HEAD]).frame)

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype == "float32" and frame.channels in (2, 4):
            return "PNM does not support alpha in floating point: choose --format tiff"
        return None

    def lacks(self, frame: Frame) -> frozenset[Thing]:
        """PFM has no comments."""
        return frozenset(self.carries) if frame.dtype == "float32" else frozenset()

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        """Decode, and scale the samples to the full range of the dtype."""
        head, kind = _head(data), data[1:2]
        frame = head.frame
        shape = (frame.height, frame.width, frame.channels)[: 2 if frame.channels == 1 else 3]
        is_plain = kind in b"123"
        samples = _plain(data[head.at :], kind, frame) if is_plain else _raw(data, head, kind, damage)
        if kind in b"Ff":
            return np.ascontiguousarray(samples.reshape(shape)[::-1], np.float32)
        if samples.size and int(samples.max()) > head.top:
            damage.repaired(f"samples are above the maximum of {head.top}")
            samples = np.minimum(samples, head.top)
        full = 255 if frame.dtype == "uint8" else 65_535
        if head.top != full:
            samples = (samples.astype(np.uint32) * full + head.top // 2) // head.top
        image: Pixels = samples.astype(frame.dtype).reshape(shape)
        return 255 - image if kind in b"14" else image

    def metadata(self, data: bytes) -> Metadata:
        """The comments of the header, and whether other images follow."""
        head, kind = _head(data), data[1:2]
        lines = [line.strip() for line in _COMMENT.findall(data, 2, head.at)] if kind not in b"Ff" else []
        comment = "\n".join(line.decode(errors="replace") for line in lines if line)
        end = head.at + head.per_row(kind) * head.frame.height
        several = kind not in b"123" and _ANOTHER.match(data, end) is not None
        return Metadata(
            texts=(Text("Comment", comment),) if comment else (),
            found=("pages",) if several else (),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        height, width = image.shape[:2]
        channels = 1 if image.ndim == 2 else image.shape[2]
        if image.dtype == np.float32:
            head = f"{'PF' if channels == 3 else 'Pf'}\n{width} {height}\n-1.0\n"
            return head.encode() + image[::-1].astype("<f4").tobytes()
        deep = image.dtype == np.uint16
        top = 65_535 if deep else 255
        comments = "".join(f"# {line}\n" for text in metadata.texts for line in _lines(text))
        if channels in (2, 4):
            sizes = f"WIDTH {width}\nHEIGHT {height}\nDEPTH {channels}\nMAXVAL {top}\n"
            head = f"P7\n{comments}{sizes}TUPLTYPE {_TYPES[channels][-1]}\nENDHDR\n"
        else:
            head = f"{'P5' if channels == 1 else 'P6'}\n{comments}{width} {height}\n{top}\n"
        return head.encode(errors="replace") + (image.astype(">u2") if deep else image).tobytes()


class _Head(NamedTuple):
    """The header of a file."""

    frame: Frame
    top: int
    """The maximum sample value."""
    at: int
    """The position of the first sample."""
    order: str = ">"

    def per_row(self, kind: bytes) -> int:
        """The size of a row of a raw file in bytes. Rows of a bitmap are padded to whole bytes."""
        if kind == b"4":
            return -(-self.frame.width // 8)
        return self.frame.bytes // self.frame.height if self.frame.height else 0


def _head(data: bytes) -> _Head:
    if data[1:2] == b"7":
        return _head_of_pam(data)
    if data[1:2] in b"Ff":
        return _head_of_pfm(data)
    found, at = [], 2
    for _ in range(2 if data[1:2] in b"14" else 3):
        number = _NUMBER.match(data, at, _MOST_HEAD)
        if number is None:
            raise _damaged(data)
        found.append(int(number[1]))
        at = number.end()
    width, height, top = (*found, 1)[:3]
    if data[at : at + 1] == b"#":
        end = data.find(b"\n", at, at + _MOST_HEAD)
        if end < 0:
            raise MoreNeeded
        at = end
    channels = 3 if data[1:2] in (b"3", b"6") else 1
    return _Head(_frame(width, height, channels, top), top, at + 1)


def _head_of_pam(data: bytes) -> _Head:
    """The header of a PAM: lines of a word and its value."""
    values: dict[bytes, bytes] = {}
    at = data.find(b"\n", 0, _MOST_HEAD) + 1
    while at:
        end = data.find(b"\n", at, _MOST_HEAD)
        if end < 0:
            break
        word, _, value = data[at:end].strip().partition(b" ")
        at = end + 1
        if word == b"ENDHDR":
            try:
                sizes = [values[name] for name in _SIZES]
            except KeyError:
                raise CorruptImage("the PAM's header is damaged") from None
            if not all(size.isdigit() and len(size) <= _MOST_DIGITS for size in sizes):
                raise CorruptImage("the PAM's header is damaged")
            width, height, channels, top = map(int, sizes)
            kind = values.get(b"TUPLTYPE", b"").decode(errors="replace")
            if kind not in ("", *_TYPES.get(channels, ())):
                raise UnsupportedImage(
                    f"PAM of {channels} channels of the type {kind or 'unknown'} is not supported"
                )
            return _Head(_frame(width, height, channels, top), top, at)
        if word and not word.startswith(b"#"):
            values[word] = value.strip()
    raise _damaged(data)


def _head_of_pfm(data: bytes) -> _Head:
    """The header of a PFM. The sign of its last number is the order of bytes. Its value is not used."""
    found = _FLOATS.match(data, 0, _MOST_HEAD)
    if found is None:
        raise _damaged(data, 200)
    frame = Frame(int(found[1]), int(found[2]), 3 if data[1:2] == b"F" else 1, "float32")
    return _Head(frame, 1, found.end(), "<" if found[3].startswith(b"-") else ">")


def _damaged(data: bytes, most: int = _MOST_HEAD) -> Exception:
    """The error for a header without an end."""
    return MoreNeeded() if len(data) < most else CorruptImage("the PNM's header is damaged")


def _frame(width: int, height: int, channels: int, top: int) -> Frame:
    if not 0 < top < 65_536:
        raise CorruptImage(f"the PNM's maximum sample value is {top}; it must be 1 to 65535")
    if not 1 <= channels <= 4:
        raise UnsupportedImage(f"PAM of {channels:,} channels is not supported")
    return Frame(width, height, channels, "uint8" if top < 256 else "uint16")


def _lines(text: Text) -> list[str]:
    """The lines of a comment in a header. A text other than a comment begins with its keyword."""
    words = text.text if text.keyword == "Comment" else f"{text.keyword}: {text.text}"
    return [line for line in words.replace("\0", " ").splitlines() if line.strip()]


def _raw(data: bytes, head: _Head, kind: bytes, damage: DamageLog) -> Pixels:
    """The samples of a raw file."""
    frame, at, per_row = head.frame, head.at, head.per_row(kind)
    size = per_row * frame.height
    if len(data) - at < size:
        rows = (len(data) - at) // per_row
        damage.missing(f"it is cut off: {frame.height - rows} of {frame.height} rows are missing")
        data, at = data[at:].ljust(size, b"\0"), 0
    if kind != b"4":
        types = {"uint8": "u1", "uint16": f"{head.order}u2", "float32": f"{head.order}f4"}
        return np.frombuffer(data, types[frame.dtype], frame.pixels * frame.channels, at)
    packed = np.frombuffer(data, np.uint8, size, at).reshape(frame.height, per_row)
    return np.unpackbits(packed, axis=1, count=frame.width)


def _plain(text: bytes, kind: bytes, frame: Frame) -> Pixels:
    """The samples of a plain file: decimal numbers. The digits of a bitmap need no spaces between them."""
    count = frame.pixels * frame.channels
    if b"#" in text:
        text = _COMMENT.sub(b" ", text)
    try:
        if kind == b"1":
            samples = np.frombuffer(text.translate(None, b" \t\r\n\v\f"), np.uint8) - np.uint8(ord("0"))
        else:
            samples = np.concatenate([np.zeros(0, np.uint32), *_decimals(text, count)])
    except (ValueError, OverflowError):
        raise CorruptImage("the PNM has samples that are not numbers") from None
    if samples.size < count:
        raise CorruptImage("the PNM is cut off")
    return samples[:count]


def _decimals(text: bytes, count: int) -> Iterator[Pixels]:
    """The first `count` numbers of a text, in pieces: as Python objects they would need ten times the memory."""
    at = 0
    while at < len(text) and count > 0:
        space = _SPACE.search(text, at + _PIECE)
        end = space.start() if space else len(text)
        numbers = np.array([int(word) for word in text[at:end].split()], np.uint32)
        yield numbers
        count -= numbers.size
        at = end
