"""AVIF of one picture and 8 bits, through Pillow. It holds colour: gray becomes RGB of equal channels."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator

from imageloom.codecs import pillow
from imageloom.codecs.bits import MoreNeeded, number
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import NO_METADATA, Format, Frame, Header, Metadata, Pixels

_TURNS = {
    (0, None): 1, (0, 0): 4, (0, 1): 2,
    (1, None): 8, (1, 0): 5, (1, 1): 7,
    (2, None): 3, (2, 0): 2, (2, 1): 4,
    (3, None): 6, (3, 0): 7, (3, 1): 5,
}  # fmt: skip
"""EXIF's Orientation for quarter turns against the clock (irot) and a mirror after them (imir: 0 top to
bottom, 1 left to right), by ISO/IEC 23008-12, 6.5.10 and 6.5.12. AVIF's own EXIF has no say."""


class Avif:
    format: Format = "avif"
    quality = 60
    encoder_bytes = 40
    written: Format = "avif"
    carries: tuple[str, ...] = ("EXIF", "XMP", "ICC")

    def header(self, head: bytes) -> Header:
        """The properties of the primary item (ISO/IEC 23008-12, 6.4 and 9.3)."""
        if b"avis" in _brands(head):
            raise UnsupportedImage("AVIF sequences are not supported")
        meta = _meta(head)
        boxes = dict(_boxes(meta, 4, len(meta)))
        groups = dict(_boxes(boxes.get(b"iprp", b"")))
        properties = list(_boxes(groups.get(b"ipco", b"")))
        for name, body in properties:
            if name == b"av1C" and number(body, 2, 1) & 0x40:
                raise UnsupportedImage("AVIF of more than 8 bits is not supported")
        own = dict(properties[i - 1] for i in _associated(boxes, groups) if 0 < i <= len(properties))
        if b"clap" in own:
            raise UnsupportedImage("AVIF with a clean aperture is not supported")
        if b"ispe" not in own:
            raise CorruptImage("the AVIF does not say how large it is")
        width, height = number(own[b"ispe"], 4, 4), number(own[b"ispe"], 8, 4)
        alpha = any(name == b"auxC" and b":alpha" in body for name, body in properties)
        turns = number(own[b"irot"], 0, 1) & 3 if b"irot" in own else 0
        mirror = number(own[b"imir"], 0, 1) & 1 if b"imir" in own else None
        return Header("avif", Frame(width, height, 4 if alpha else 3), orientation=_TURNS[turns, mirror])

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"AVIF is written with 8 bits, not {frame.dtype}: choose --format png"
        if max(frame.width, frame.height) > 16_384:
            return f"AVIF is written with at most 16384 pixels a side, not {frame.width}x{frame.height}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int) -> Pixels:
        return pillow.decoded(pillow.opened(data, "Avif"), header.frame)

    def metadata(self, data: bytes) -> Metadata:
        info = pillow.opened(data, "Avif").info
        return Metadata(
            info.get("exif", b"").removeprefix(b"Exif\0\0"),
            info.get("xmp", b""),
            b"",
            info.get("icc_profile") or b"",
        )

    def encode(self, image: Pixels, quality: int, metadata: Metadata = NO_METADATA) -> bytes:
        """libaom at speed 6 with 4:2:0, in the calling thread alone."""
        picture = importlib.import_module("PIL.Image").fromarray(image)
        gray = picture.mode in ("L", "LA")
        file = io.BytesIO()
        picture.convert({"L": "RGB", "LA": "RGBA"}.get(picture.mode, picture.mode)).save(
            file,
            "AVIF",
            quality=quality,
            speed=6,
            subsampling="4:2:0",
            max_threads=1,
            exif=metadata.exif or None,
            xmp=metadata.xmp or None,
            icc_profile=None if gray else metadata.icc or None,
        )
        return file.getvalue()


def _brands(head: bytes) -> set[bytes]:
    """The brands of the file, without the version that stands behind the first."""
    end = min(int.from_bytes(head[:4]), len(head), 1024)
    return {head[i : i + 4] for i in (8, *range(16, end, 4))}


def _meta(head: bytes) -> bytes:
    """The body of the file's meta box."""
    at = 0
    while True:
        length, name = number(head, at, 4), head[at + 4 : at + 8]
        start = at + 8
        if length == 1:
            length, start = number(head, at + 8, 8), at + 16
        if len(name) < 4:
            raise MoreNeeded
        if length < start - at:
            raise CorruptImage(f"the AVIF is damaged at byte {at}")
        if name == b"meta":
            if at + length > len(head):
                raise MoreNeeded
            return head[start : at + length]
        at += length


def _boxes(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of the boxes side by side in a body that is there whole."""
    end = len(data) if end is None else end
    while at + 8 <= end:
        length = int.from_bytes(data[at : at + 4])
        if length < 8 or at + length > end:
            raise CorruptImage("the AVIF's boxes do not fit into each other")
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _associated(boxes: dict[bytes, bytes], groups: dict[bytes, bytes]) -> list[int]:
    """The numbers, from 1, of the primary item's properties."""
    try:
        pitm, ipma = boxes[b"pitm"], groups[b"ipma"]
        primary = number(pitm, 4, 4 if pitm[0] else 2)
        wide, large = 4 if ipma[0] else 2, ipma[3] & 1
        at = 8
        for _ in range(number(ipma, 4, 4)):
            item, count = number(ipma, at, wide), number(ipma, at + wide, 1)
            at += wide + 1
            step = 2 if large else 1
            if item == primary:
                return [number(ipma, at + step * i, step) & (0x7FFF if large else 0x7F) for i in range(count)]
            at += step * count
    except (KeyError, IndexError, MoreNeeded):
        pass
    raise CorruptImage("the AVIF has no primary item")
