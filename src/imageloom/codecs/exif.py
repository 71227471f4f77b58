"""EXIF blocks: the orientation, and what has to change when the pixels have changed (Exif 2.32).

A block is changed in place, so that offsets in maker notes remain valid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import NamedTuple

from imageloom.codecs import subjects
from imageloom.codecs.bits import MoreNeeded, number
from imageloom.codecs.placing import Placing
from imageloom.codecs.segments import FRAMES, end_of_image, walk
from imageloom.codecs.tags import (
    EXIF,
    GPS,
    INTEROPERABILITY,
    LONG,
    SIZES,
    Directory,
    Order,
    directory,
    first_directory,
    numbers,
    order_of,
    remove,
)
from imageloom.errors import CorruptImage, UnsupportedImage
from imageloom.model import Frame

_ORIENTATION = 0x0112
_SIDES = (0x011A, 0x011B)
"""Tags of the horizontal and the vertical resolution."""
_THUMBNAIL, _THUMBNAIL_LENGTH, _STRIPS, _STRIP_LENGTHS = 0x0201, 0x0202, 0x0111, 0x0117
_WIDTH, _HEIGHT, _EXIF_WIDTH, _EXIF_HEIGHT = 0x0100, 0x0101, 0xA002, 0xA003
_RELATED_WIDTH, _RELATED_HEIGHT = 0x1001, 0x1002
_WHOLE = (1, 3, 4, 6, 8, 9)
"""Types of whole numbers. The standard has SHORT and LONG; some programs write others."""
_COLOUR_SPACE, _INDEX = 0xA001, 1
_SPACE_2 = (b"\xa0\x01\0\3\0\0\0\1\0\2", b"\x01\xa0\3\0\1\0\0\0\2\0")
"""The entry of the colour space 2, in both orders of bytes."""
MAKER_NOTE = 0x927C
_SELF_CONTAINED = (b"Nikon\0\2", b"OLYMPUS\0", b"OM SYSTEM\0", b"FUJIFILM", b"Apple iOS\0", b"PENTAX \0")
"""Beginnings of maker notes whose offsets count from the note itself."""
_NOTE_HEADS, _MOST_NOTES = (0, 6, 8, 10, 12, 18), 256
"""Lengths of what stands before the directory of a maker note, and its maximum number of tags."""
_PREVIEW = re.compile(rb"\xff\xd8\xff")
_MOST_DIRECTORIES = 16
"""Maximum number of directories in a row. A block has two."""
_INVALID = (MoreNeeded, CorruptImage, IndexError, KeyError)


def stated_orientation(exif: bytes) -> int | None:
    """The orientation, 1 to 8, in an EXIF block; None if it is missing or invalid (Exif 2.32, 4.6.4)."""
    try:
        entry = first_directory(exif).entries[_ORIENTATION]
        value = numbers(exif, entry, order_of(exif))[0]
    except _INVALID:
        return None
    return value if entry.kind in _WHOLE and 1 <= value <= 8 else None


def states_density(exif: bytes, x: float, y: float) -> bool:
    """Whether the block says this resolution, in pixels per inch or per centimetre."""
    order = order_of(exif)
    try:
        entries = first_directory(exif).entries
        found = [
            number(exif, entries[tag].at, 4, order) / number(exif, entries[tag].at + 4, 4, order)
            for tag in _SIDES
        ]
    except (*_INVALID, ZeroDivisionError):
        return False
    return all(abs(one - other) <= 0.01 * other for one, other in zip(found, (x, y), strict=True))


def is_adobe_rgb(exif: bytes) -> bool:
    """Whether the colours are Adobe RGB: by the index R03 (DCF 2.0, 3.2), or by the colour space 2, which some
    cameras write. A search comes first, because few files have either."""
    if b"R03" not in exif and not any(mark in exif for mark in _SPACE_2):
        return False
    order = order_of(exif)
    try:
        entry = first_directory(exif).entries[EXIF]
        below = directory(exif, numbers(exif, entry, order)[0], order)
        if _COLOUR_SPACE in below.entries and numbers(exif, below.entries[_COLOUR_SPACE], order)[0] == 2:
            return True
        entry = below.entries[INTEROPERABILITY]
        at = directory(exif, numbers(exif, entry, order)[0], order).entries[_INDEX].at
    except _INVALID:
        return False
    return exif[at : at + 3] == b"R03"


def has_fixed_note(exif: bytes) -> bool:
    """Whether a block has a maker note that is damaged when the block is laid out anew."""
    with suppress(*_INVALID):
        order = order_of(exif)
        below = directory(exif, numbers(exif, first_directory(exif).entries[EXIF], order)[0], order)
        note = below.entries[MAKER_NOTE]
        return is_fixed(exif[note.at : note.at + note.size])
    return False


def is_fixed(note: bytes) -> bool:
    """Whether a maker note has values at offsets from the beginning of the block in which it is."""
    if note.startswith(_SELF_CONTAINED):
        return False
    orders: tuple[Order, ...] = ("little", "big")
    for start, order in product(_NOTE_HEADS, orders):
        count = int.from_bytes(note[start : start + 2], order)
        at, end = start + 2, start + 2 + 12 * count
        if not 0 < count <= _MOST_NOTES or end > len(note):
            continue
        sizes = [
            SIZES.get(int.from_bytes(note[i + 2 : i + 4], order), -1)
            * int.from_bytes(note[i + 4 : i + 8], order)
            for i in range(at, end, 12)
        ]
        if min(sizes) >= 0:
            return max(sizes) > 4
    return False


class Adapted(NamedTuple):
    exif: bytes
    has_lost_thumbnail: bool
    has_lost_subject: bool = False
    """Whether a position was removed, because it is not in the output."""


def adapted(
    exif: bytes, frame: Frame, converted: bool = False, placing: Callable[[], Placing] | None = None
) -> Adapted:
    """The EXIF block for an output: upright, with its size, and without pictures of the old pixels.

    Args:
        frame: the frame of the output.
        converted: whether the colours were converted to sRGB.
        placing: where the input's pixels are in the output; None if they are where they were.
    """
    if not exif:
        return Adapted(exif, False)
    has_lost_subject = False
    block, order = bytearray(exif), order_of(exif)
    try:
        first = first_directory(exif)
        _put(block, first, _ORIENTATION, 1, order)
        _put(block, first, _WIDTH, frame.width, order)
        _put(block, first, _HEIGHT, frame.height, order)
        if EXIF in first.entries:
            below = directory(exif, numbers(exif, first.entries[EXIF], order)[0], order)
            _put(block, below, _EXIF_WIDTH, frame.width, order)
            _put(block, below, _EXIF_HEIGHT, frame.height, order)
            if placing and not subjects.TAGS.isdisjoint(below.entries):
                at = numbers(exif, first.entries[EXIF], order)[0]
                has_lost_subject = subjects.place(block, at, order, placing())
            related = directory(exif, numbers(exif, below.entries[INTEROPERABILITY], order)[0], order)
            _put(block, related, _RELATED_WIDTH, frame.width, order)
            _put(block, related, _RELATED_HEIGHT, frame.height, order)
    except _INVALID:
        pass  # readers stop at the same place: the rest needs no change
    if converted:
        _say_srgb(block, exif, order)
    lost = _wipe_thumbnails(block, exif, order)
    return Adapted(bytes(block), lost, has_lost_subject)


def _say_srgb(block: bytearray, exif: bytes, order: Order) -> None:
    """Set the colour space to sRGB, and the index of interoperability to that of sRGB, where they exist."""
    with suppress(*_INVALID):
        entry = first_directory(exif).entries[EXIF]
        below = directory(exif, numbers(exif, entry, order)[0], order)
        _put(block, below, _COLOUR_SPACE, 1, order)
        entry = below.entries[INTEROPERABILITY]
        at = directory(exif, numbers(exif, entry, order)[0], order).entries[_INDEX].at
        if exif[at : at + 3] == b"R03":
            block[at : at + 3] = b"R98"


def _put(exif: bytearray, of: Directory, tag: int, value: int, order: Order) -> None:
    """Set the first number of an existing tag; as LONG if its type is too small."""
    entry = of.entries.get(tag)
    if not entry or not entry.length or entry.kind not in _WHOLE:
        return
    size = SIZES[entry.kind]
    if value >= 1 << 8 * size - (entry.kind > LONG) and entry.length == 1:
        exif[entry.at - 6 : entry.at - 4], size = LONG.to_bytes(2, order), SIZES[LONG]
    if value < 1 << 8 * size:
        exif[entry.at : entry.at + size] = value.to_bytes(size, order)


def _wipe_thumbnails(block: bytearray, exif: bytes, order: Order) -> bool:
    """Overwrite pictures of the old pixels: they may show what a crop was meant to hide. Whether there was one."""
    tables, end_of_values = _kept(exif, order)
    wiped = False
    for start, end in (*_thumbnails(exif, order, end_of_values), *_previews(exif)):
        wiped = True
        if start >= end_of_values and end >= len(block):
            del block[start:]
            continue
        saved = [(at, block[at:to]) for at, to in tables]
        block[start:end] = bytes(len(block[start:end]))
        for at, table in saved:
            block[at : at + len(table)] = table
    with suppress(*_INVALID):
        first = first_directory(exif)
        if first.next:
            block[first.next_at : first.next_at + 4] = bytes(4)
            wiped = True
        if _THUMBNAIL in first.entries:
            tags = {_THUMBNAIL, _THUMBNAIL_LENGTH}
            remove(block, first, number(exif, 4, 4, order) + 2, order, tags)
            wiped = True
    return wiped


def _chain(exif: bytes, order: Order) -> Iterator[Directory]:
    """The first directory, and the directories of thumbnails that follow it."""
    at = number(exif, 4, 4, order)
    for _ in range(_MOST_DIRECTORIES):
        if not at:
            return
        found = directory(exif, at, order)
        yield found
        at = found.next


def _kept(exif: bytes, order: Order) -> tuple[list[tuple[int, int]], int]:
    """The places of the header and of the directories that are kept, and the end of all their values."""
    tables, end = [(0, 8)], 8
    with suppress(*_INVALID):
        waiting = [number(exif, 4, 4, order)]
        while waiting and len(tables) < _MOST_DIRECTORIES:
            at = waiting.pop()
            found = directory(exif, at, order)
            tables.append((at, found.next_at + 4))
            end = max(end, found.next_at + 4, *(e.at + e.size for e in found.entries.values()))
            waiting += [
                numbers(exif, found.entries[tag], order)[0]
                for tag in (EXIF, GPS, INTEROPERABILITY)
                if tag in found.entries
            ]
    return tables, end


def _thumbnails(exif: bytes, order: Order, end_of_values: int) -> Iterator[tuple[int, int]]:
    """The places of thumbnails that directories name. What is no JPEG must be alone in its place."""
    with suppress(*_INVALID):
        for place, found in enumerate(_chain(exif, order)):
            entries = found.entries
            if _THUMBNAIL in entries and _THUMBNAIL_LENGTH in entries:
                at = numbers(exif, entries[_THUMBNAIL], order)[0]
                if at >= end_of_values or exif[at : at + 2] == b"\xff\xd8":
                    yield at, at + numbers(exif, entries[_THUMBNAIL_LENGTH], order)[0]
            if place and _STRIPS in entries and _STRIP_LENGTHS in entries:
                starts, sizes = (numbers(exif, entries[tag], order) for tag in (_STRIPS, _STRIP_LENGTHS))
                yield from ((at, at + size) for at, size in zip(starts, sizes, strict=False) if at >= 8)


def _previews(exif: bytes) -> Iterator[tuple[int, int]]:
    """The places of JPEGs anywhere in the block, such as the previews in maker notes."""
    at = 0
    for _ in range(_MOST_DIRECTORIES):
        found = _PREVIEW.search(exif, at)
        if found is None:
            return
        at, picture = found.end(), exif[found.start() :]
        is_picture, scan = False, 0
        with suppress(*_INVALID, UnsupportedImage):
            for marker, start, _ in walk(picture):
                is_picture, scan = is_picture or marker in FRAMES, start
        if is_picture:
            end = found.start() + end_of_image(picture, scan)
            yield found.start(), end
            at = max(at, end)
