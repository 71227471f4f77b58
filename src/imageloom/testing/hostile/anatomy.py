"""Finds the structures of a file: its fields and parts. The files are valid; these parsers do not check them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from imageloom.model import Format

Order = Literal["big", "little"]


class Field(NamedTuple):
    """A number in a file."""

    at: int
    length: int
    order: Order = "big"


class Anatomy(NamedTuple):
    fields: list[Field]
    parts: list[tuple[int, int]]
    """Start and end of each chunk, segment, box, block or tag."""


def anatomy(data: bytes, format: Format) -> Anatomy:
    """The structures of a complete file."""
    return _FINDERS[format](data)


def _row(at: int, order: Order, *lengths: int) -> Iterator[Field]:
    """Consecutive fields."""
    for length in lengths:
        yield Field(at, length, order)
        at += length


def _png(data: bytes) -> Anatomy:
    fields: list[Field] = []
    parts, at = [], 8
    while at < len(data):
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 12 + length
        fields += _row(at, "big", 4, 4)
        inner = (4, 4, 1, 1, 1, 1, 1) if name == b"IHDR" else (1,) * min(length, 8)
        fields += _row(at + 8, "big", *inner)
        if name == b"eXIf":
            fields += _tags(data, at + 8)
        fields.append(Field(end - 4, 4))
        parts.append((at, end))
        at = end
    return Anatomy(fields, parts)


def _jpeg(data: bytes) -> Anatomy:
    fields, parts, at = [Field(0, 2)], [(0, 2)], 2
    while data[at + 1] != 0xD9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        end = at + 2 + length
        fields += _row(at + 1, "big", 1, 2)
        if 0xC0 <= marker <= 0xC2:
            fields += _row(at + 4, "big", 1, 2, 2, *(1,) * (length - 7))
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            fields += _tags(data, at + 10)
        else:
            fields += _row(at + 4, "big", *(1,) * min(length - 2, 18))
        if marker == 0xDA:
            behind = re.compile(rb"\xff[^\x00\xd0-\xd7]").search(data, end)
            end = behind.start() if behind else len(data) - 2
        parts.append((at, end))
        at = end
    return Anatomy(fields, [*parts, (at, len(data))])


def _tags(data: bytes, start: int) -> Iterator[Field]:
    """The fields of a TIFF structure's first directory."""
    order: Order = "little" if data[start : start + 2] == b"II" else "big"
    big = b"+" in data[start + 2 : start + 4]
    wide = 8 if big else 4
    yield from _row(start, order, 2, 2, *((2, 2, 8) if big else (4,)))
    at = start + int.from_bytes(data[start + wide : start + 2 * wide], order)
    count = int.from_bytes(data[at : at + (8 if big else 2)], order)
    yield Field(at, 8 if big else 2, order)
    at += 8 if big else 2
    for entry in range(count):
        yield from _row(at + (4 + 2 * wide) * entry, order, 2, 2, wide, wide)
    yield Field(at + (4 + 2 * wide) * count, wide, order)


def _tiff(data: bytes) -> Anatomy:
    fields = list(_tags(data, 0))
    tags = [field for field in fields[4 if b"+" not in data[2:4] else 6 : -1] if field.length == 2][::2]
    step = 20 if b"+" in data[2:4] else 12
    values = [
        Field(at, 4, fields[0].order) for at in range(tags[-1].at + step + 4, min(len(data) - 4, 4000), 4)
    ]
    return Anatomy(fields + values[:40], [(tag.at, tag.at + step) for tag in tags])


def _webp(data: bytes) -> Anatomy:
    fields, parts, at = [*_row(0, "little", 4, 4, 4)], [], 12
    while at < len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        fields += _row(at, "little", 4, 4)
        inner = {b"VP8X": (4, 3, 3), b"VP8 ": (3, 3, 2, 2, 1, 1), b"VP8L": (1, 4, 1, 1)}.get(
            name, (1,) * min(length, 8)
        )
        fields += _row(at + 8, "little", *inner)
        if name == b"EXIF":
            fields += _tags(data, at + 8)
        parts.append((at, at + 8 + length + length % 2))
        at = parts[-1][1]
    return Anatomy(fields, parts)


def _gif(data: bytes) -> Anatomy:
    fields = [*_row(0, "little", 3, 3, 2, 2, 1, 1, 1)]
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    parts = [(13, at)]
    while data[at] != 0x3B:
        start = at
        fields += _row(at, "little", 1, 1)
        if data[at] == 0x2C:
            fields += _row(at + 1, "little", 2, 2, 2, 2, 1, 1)
            at += 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
        else:
            at += 2
        while data[at]:
            fields += _row(at, "little", 1, 1, 1)
            at += 1 + data[at]
        at += 1
        parts.append((start, at))
    return Anatomy(fields, [*parts, (at, at + 1)])


def _bmp(data: bytes) -> Anatomy:
    length = int.from_bytes(data[14:18], "little")
    rest = (4,) * ((length - 40) // 4)
    fields = [*_row(0, "little", 2, 4, 2, 2, 4, 4, 4, 4, 2, 2, 4, 4, 4, 4, 4, 4, *rest)]
    start = int.from_bytes(data[10:14], "little")
    body = _row(start, "little", *(1,) * min(24, len(data) - start))
    return Anatomy([*fields, *body], [(0, 14), (14, 14 + length), (14 + length, start), (start, len(data))])


def _pnm(data: bytes) -> Anatomy:
    words = [match.span() for match in re.finditer(rb"\S+", data[:40])][:6]
    fields = [Field(at, 1) for start, end in words for at in range(start, end)]
    return Anatomy(fields, [*words, (words[-1][1], len(data))])


_WITH_BOXES = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6, b"iref": 4, b"jp2h": 0}
"""Boxes that contain other boxes, and the number of bytes before these."""


def _boxes(data: bytes) -> Anatomy:
    fields: list[Field] = []
    parts: list[tuple[int, int]] = []

    def find(at: int, end: int) -> None:
        while at + 8 <= end:
            length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
            parts.append((at, at + length))
            fields.extend(_row(at, "big", 4, 4))
            if name in _WITH_BOXES:
                fields.extend(_row(at + 8, "big", *(1,) * _WITH_BOXES[name]))
                find(at + 8 + _WITH_BOXES[name], at + length)
            else:
                inner = min(length - 8, 32)
                fields.extend(_row(at + 8, "big", *(1,) * inner))
                fields.extend(Field(place, 4) for place in range(at + 8, at + 8 + inner - 3, 2))
            at += length

    find(0, len(data))
    return Anatomy(fields, parts)


_FINDERS: dict[Format, Callable[[bytes], Anatomy]] = {
    "png": _png,
    "jpeg": _jpeg,
    "tiff": _tiff,
    "webp": _webp,
    "gif": _gif,
    "bmp": _bmp,
    "pnm": _pnm,
    "avif": _boxes,
    "heif": _boxes,
    "jxl": _boxes,
    "jp2": _boxes,
}
