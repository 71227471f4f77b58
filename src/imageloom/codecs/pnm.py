"""PNM: the plain and the raw forms of bitmaps, graymaps and pixmaps (netpbm's pbm, pgm and ppm pages)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from imageloom.codecs.bits import Data, MoreNeeded
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata, Text
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_REFUSED = {b"P7": "PAM", b"PF": "PFM", b"Pf": "PFM"}
_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})(?=[\s#])")
_COMMENT = re.compile(rb"#([^\r\n]*)")
_ANOTHER = re.compile(rb"\s*P[1-7Ff]\s")
_SPACE = re.compile(rb"\s")
_PIECE = 1 << 20
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
        if head[:2] in _REFUSED:
            raise UnsupportedImage(f"{_REFUSED[head[:2]]} is not supported")
        width, height, top, _ = _numbers(head[:_MOST_HEAD])
        channels = 3 if head[1:2] in (b"3", b"6") else 1
        return Header("pnm", Frame(width, height, channels, "uint8" if top < 256 else "uint16"))

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.channels in (2, 4):
            return "PNM does not support alpha: choose --format png"
        return f"PNM supports 8 or 16 bits, not {frame.dtype}" if frame.dtype == "float32" else None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        """Decode, and scale the samples to the full range of the dtype."""
        _, _, top, at = _numbers(data)
        frame = header.frame
        kind, shape = (
            data[1:2],
            (frame.height, frame.width, frame.channels)[: 2 if frame.channels == 1 else 3],
        )
        samples = (
            _plain(data[at:], kind, frame) if kind in b"123" else _raw(data, at, kind, frame, top, damage)
        )
        if samples.size and int(samples.max()) > top:
            damage.repaired(f"samples are above the maximum of {top}")
            samples = np.minimum(samples, top)
        full = 255 if frame.dtype == "uint8" else 65_535
        if top != full:
            samples = (samples.astype(np.uint32) * full + top // 2) // top
        image: Pixels = samples.astype(frame.dtype).reshape(shape)
        return 255 - image if kind in b"14" else image

    def metadata(self, data: bytes) -> Metadata:
        """The comments of the header, and whether other images follow."""
        *_, at = _numbers(data)
        lines = [line.strip() for line in _COMMENT.findall(data, 2, at)]
        comment = "\n".join(line.decode(errors="replace") for line in lines if line)
        several = _is_another(data, at) if data[1:2] in b"456" else False
        return Metadata(
            texts=(Text("Comment", comment),) if comment else (),
            found=("pages",) if several else (),
        )

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        deep = image.dtype == np.uint16
        kind, top = "P5" if image.ndim == 2 else "P6", 65_535 if deep else 255
        comments = "".join(f"# {line}\n" for text in metadata.texts for line in _lines(text))
        head = f"{kind}\n{comments}{image.shape[1]} {image.shape[0]}\n{top}\n".encode(errors="replace")
        return head + (image.astype(">u2") if deep else image).tobytes()


def _numbers(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, the maximum sample value, and the position of the first sample."""
    found, at = [], 2
    for _ in range(2 if data[1:2] in b"14" else 3):
        number = _NUMBER.match(data, at, _MOST_HEAD)
        if number is None:
            if len(data) < _MOST_HEAD:
                raise MoreNeeded
            raise CorruptImage("the PNM's header is damaged")
        found.append(int(number[1]))
        at = number.end()
    width, height, top = (*found, 1)[:3]
    if not 0 < top < 65_536:
        raise CorruptImage(f"the PNM's maximum sample value is {top}; it must be 1 to 65535")
    if data[at : at + 1] == b"#":
        end = data.find(b"\n", at, at + _MOST_HEAD)
        if end < 0:
            raise MoreNeeded
        at = end
    return width, height, top, at + 1


def _lines(text: Text) -> list[str]:
    """The lines of a comment in a header. A text other than a comment begins with its keyword."""
    words = text.text if text.keyword == "Comment" else f"{text.keyword}: {text.text}"
    return [line for line in words.replace("\0", " ").splitlines() if line.strip()]


def _is_another(data: bytes, at: int) -> bool:
    """Whether a raw file has another image after the first one."""
    width, height, top, _ = _numbers(data)
    frame = Frame(width, height, 3 if data[1:2] == b"6" else 1)
    end = at + _per_row(data[1:2], frame, top) * height
    return bool(_ANOTHER.match(data, end))


def _per_row(kind: bytes, frame: Frame, top: int) -> int:
    """The size of a row of a raw file in bytes."""
    return -(-frame.width // 8) if kind == b"4" else frame.width * frame.channels * (2 if top > 255 else 1)


def _raw(data: bytes, at: int, kind: bytes, frame: Frame, top: int, damage: DamageLog) -> Pixels:
    """The samples of a raw file. Rows of a bitmap are padded to whole bytes."""
    per_row = _per_row(kind, frame, top)
    size = per_row * frame.height
    if len(data) - at < size:
        rows = (len(data) - at) // per_row
        damage.missing(f"it is cut off: {frame.height - rows} of {frame.height} rows are missing")
        data, at = data[at:].ljust(size, b"\0"), 0
    if kind != b"4":
        count = frame.pixels * frame.channels
        return np.frombuffer(data, ">u2" if top > 255 else np.uint8, count, at)
    packed = np.frombuffer(data, np.uint8, per_row * frame.height, at).reshape(frame.height, per_row)
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
