"""AVIF with one image of 8 bits, through Pillow. It is always written in colour: gray becomes RGB."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator

from imageloom import colours
from imageloom.codecs import av1, pillow
from imageloom.codecs.bits import Data, MoreNeeded, block, number
from imageloom.codecs.damage import DamageLog
from imageloom.codecs.metadata import NO_METADATA, Metadata
from imageloom.codecs.stated import colours_of
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Encoding, Format, Frame, Header, Pixels, Thing

_TURNS = {
    (0, None): 1, (0, 0): 4, (0, 1): 2,
    (1, None): 8, (1, 0): 5, (1, 1): 7,
    (2, None): 3, (2, 0): 2, (2, 1): 4,
    (3, None): 6, (3, 0): 7, (3, 1): 5,
}  # fmt: skip
"""The EXIF orientation for a number of counter-clockwise quarter turns (irot) followed by a mirror (imir: 0 top to
bottom, 1 left to right), see ISO/IEC 23008-12, 6.5.10 and 6.5.12. The orientation in the EXIF block is ignored."""


_MOST_META = 1 << 20
"""Maximum size of the box that describes a file's items, in bytes."""
_MOST_BOXES = 4096
_MOST_ITEMS = 4096


class Avif:
    format: Format = "avif"
    quality = 60
    encoder_bytes = 40
    written: Format = "avif"
    carries: tuple[Thing, ...] = ("EXIF", "XMP", "colour profile")

    def header(self, head: Data) -> Header:
        """The properties of the primary item (ISO/IEC 23008-12, 6.4 and 9.3)."""
        if b"avis" in _brands(head):
            raise UnsupportedImage("AVIF sequences are not supported")
        meta = _meta(head)
        boxes = dict(_boxes(meta, 4, len(meta)))
        properties, associated = _properties(boxes)
        for name, body in properties:
            if name == b"av1C" and number(body, 2, 1) & 0x40:
                raise UnsupportedImage("AVIF with more than 8 bits is not supported")
        own = associated.get(_primary(boxes))
        if own is None:
            raise CorruptImage("the AVIF has no primary item")
        if b"clap" in own:
            raise UnsupportedImage("AVIF with a clean aperture is not supported")
        width, height = _size(own)
        alpha = any(name == b"auxC" and b":alpha" in body for name, body in properties)
        turns = number(own[b"irot"], 0, 1) & 3 if b"irot" in own else 0
        mirror = number(own[b"imir"], 0, 1) & 1 if b"imir" in own else None
        return Header(
            "avif",
            Frame(width, height, 4 if alpha else 3),
            orientation=_TURNS[turns, mirror],
            colours=_colours([body for name, body in properties if name == b"colr"]),
        )

    def cannot_hold(self, frame: Frame) -> str | None:
        if frame.dtype != "uint8":
            return f"AVIF is written with 8 bits, not {frame.dtype}: choose --format png"
        if max(frame.width, frame.height) > 16_384:
            return f"AVIF is written with at most 16384 pixels per side, not {frame.width}x{frame.height}"
        return None

    def decode(self, data: bytes, header: Header, *, luma: bool, scale: int, damage: DamageLog) -> Pixels:
        _check_pictures(data, header.frame)
        return pillow.decoded(pillow.opened(data, "Avif"), header.frame)

    def metadata(self, data: bytes) -> Metadata:
        info = pillow.opened(data, "Avif").info
        exif, xmp, icc = (info.get(kind) or b"" for kind in ("exif", "xmp", "icc_profile"))
        exif, xmp, icc = (block(part, 0, len(part), "metadata") for part in (exif, xmp, icc))
        return Metadata(exif.removeprefix(b"Exif\0\0"), xmp, b"", icc)

    def encode(self, image: Pixels, encoding: Encoding, metadata: Metadata = NO_METADATA) -> bytes:
        """Encode with libaom at speed 6, with 4:2:0 subsampling, in the calling thread only."""
        picture = importlib.import_module("PIL.Image").fromarray(image)
        gray = picture.mode in ("L", "LA")
        file = io.BytesIO()
        picture.convert({"L": "RGB", "LA": "RGBA"}.get(picture.mode, picture.mode)).save(
            file,
            "AVIF",
            quality=encoding.quality,
            speed=6,
            subsampling="4:2:0",
            max_threads=1,
            exif=metadata.exif or None,
            xmp=metadata.xmp or None,
            icc_profile=None if gray else metadata.icc or None,
        )
        return file.getvalue()


def _brands(head: Data) -> set[bytes]:
    """The brands of the file, without the version after the first brand."""
    end = min(int.from_bytes(head[:4]), len(head), 1024)
    return {head[i : i + 4] for i in (8, *range(16, end, 4))}


def _meta(head: Data) -> bytes:
    """The body of the file's meta box."""
    at = 0
    for _ in range(_MOST_BOXES):
        length, name = number(head, at, 4), head[at + 4 : at + 8]
        start = at + 8
        if length == 1:
            length, start = number(head, at + 8, 8), at + 16
        if len(name) < 4:
            raise MoreNeeded
        if length < start - at:
            raise CorruptImage(f"the AVIF is damaged at byte {at}")
        if name == b"meta":
            if length > _MOST_META:
                raise LimitExceeded(f"its header takes {length:,} bytes, over the limit of {_MOST_META:,}")
            if at + length > len(head):
                raise MoreNeeded
            return head[start : at + length]
        at += length
    raise UnsupportedImage(f"AVIF with more than {_MOST_BOXES:,} boxes is not supported")


def _boxes(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each box in a complete body."""
    end = len(data) if end is None else end
    while at + 8 <= end:
        length = int.from_bytes(data[at : at + 4])
        if length < 8 or at + length > end:
            raise CorruptImage("the AVIF's boxes are not nested correctly")
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _primary(boxes: dict[bytes, bytes]) -> int:
    pitm = boxes.get(b"pitm", b"")
    return number(pitm, 4, 4 if number(pitm, 0, 1) else 2)


def _properties(boxes: dict[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], dict[int, dict[bytes, bytes]]]:
    """All properties, and those of each item by name."""
    groups = dict(_boxes(boxes.get(b"iprp", b"")))
    properties, ipma = list(_boxes(groups.get(b"ipco", b""))), groups.get(b"ipma", b"")
    wide, step = 4 if number(ipma, 0, 1) else 2, 2 if number(ipma, 3, 1) & 1 else 1
    found: dict[int, dict[bytes, bytes]] = {}
    at = 8
    for _ in range(_few(number(ipma, 4, 4))):
        item, count = number(ipma, at, wide), number(ipma, at + wide, 1)
        at += wide + 1
        own = found.setdefault(item, {})
        for i in range(count):
            place = number(ipma, at + step * i, step) & (0x7FFF if step == 2 else 0x7F)
            if 0 < place <= len(properties):
                own.update(properties[place - 1 : place])
        at += step * count
    return properties, found


def _few(count: int) -> int:
    if count > _MOST_ITEMS:
        raise UnsupportedImage(f"AVIF with more than {_MOST_ITEMS:,} items is not supported")
    return count


def _size(own: dict[bytes, bytes]) -> tuple[int, int]:
    if b"ispe" not in own:
        raise CorruptImage("the AVIF has no image size")
    return number(own[b"ispe"], 4, 4), number(own[b"ispe"], 8, 4)


def _colours(boxes: list[bytes]) -> str:
    """What the boxes `colr` state, as a text of `colours`: a profile before codes (ISO/IEC 14496-12, 12.1.5)."""
    for body in boxes:
        if body[:4] in (b"prof", b"rICC"):
            return colours_of(Metadata(icc=body[4:]), 3)
    for body in boxes:
        if body[:4] == b"nclx":
            return colours.of_codes(number(body, 4, 2), number(body, 6, 2))
    return ""


def _check_pictures(data: bytes, frame: Frame) -> None:
    """Check that the coded images have the size in the file's header, because the decoder uses their own size.

    Raises:
        CorruptImage: they have another size, or more pixels than the tiles of the image and of its alpha need.
    """
    meta = _meta(data)
    boxes = dict(_boxes(meta, 4, len(meta)))
    _, associated = _properties(boxes)
    coded, total = _coded(boxes.get(b"iinf", b"")), 0
    for item, picture in _located(data, boxes):
        if item not in coded:
            continue
        size, said = av1.frame_size(picture), _size(associated.get(item, {}))
        if size != said:
            raise CorruptImage(
                f"the AVIF's image is {size[0]}x{size[1]}, but its header says {said[0]}x{said[1]}"
            )
        total += size[0] * size[1]
    if total > 4 * frame.pixels + (1 << 22):
        raise CorruptImage(f"the AVIF has {total:,} pixels for a size of {frame.width}x{frame.height}")


def _coded(iinf: bytes) -> set[int]:
    """The numbers of the items that are AV1 images."""
    found = set()
    for name, body in _boxes(iinf, 8 if number(iinf, 0, 1) else 6):
        if name == b"infe" and number(body, 0, 1) >= 2:
            wide = 4 if body[0] > 2 else 2
            if body[6 + wide : 10 + wide] == b"av01":
                found.add(number(body, 4, wide))
    return found


def _located(data: bytes, boxes: dict[bytes, bytes]) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each item (ISO/IEC 14496-12, 8.11.3)."""
    iloc = boxes.get(b"iloc", b"")
    version, sizes = number(iloc, 0, 1), number(iloc, 4, 2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    at = 6 + wide
    left = 4 * len(data)
    for _ in range(_few(number(iloc, 6, wide))):
        item = number(iloc, at, wide)
        at += wide
        source = data
        if version:
            if number(iloc, at, 2) & 15:
                source = boxes.get(b"idat", b"")
            at += 2
        base = number(iloc, at + 2, base_size)
        at += 2 + base_size
        parts = []
        for _ in range(_few(number(iloc, at, 2))):
            at += index_size if version else 0
            offset = base + number(iloc, at + 2, offset_size)
            length = number(iloc, at + 2 + offset_size, length_size) or len(source)
            at += offset_size + length_size
            part = source[offset : offset + length]
            left -= len(part)
            if left < 0:
                raise CorruptImage("the AVIF's items overlap")
            parts.append(part)
        at += 2
        yield item, b"".join(parts)
