"""TIFF directories: an EXIF block is one TIFF structure and a TIFF file is another (TIFF 6.0, section 2)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, number
from imageloom.errors import CorruptImage

Order = Literal["big", "little"]

SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Size of one value in bytes, by its type."""
TEXT, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7

_MOST_TAGS = 1 << 16
"""Maximum number of tags in a directory: a tag's number has 16 bits."""

EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965
"""Tags whose value is the offset of a sub-directory."""
_BELOW = {EXIF: {INTEROPERABILITY}, GPS: set[int](), INTEROPERABILITY: set[int]()}


class Entry(NamedTuple):
    """One tag of a directory."""

    kind: int
    length: int
    """Number of values."""
    at: int
    """Offset of its values in bytes."""

    @property
    def size(self) -> int:
        return SIZES.get(self.kind, 0) * self.length


class Directory(NamedTuple):
    entries: dict[int, Entry]
    next: int
    """Offset of the next directory; 0 if there is none."""
    next_at: int
    """Offset of the field `next` itself."""


class Value(NamedTuple):
    """The bytes of a tag's values, in the byte order of their file."""

    kind: int
    length: int
    data: bytes


Tree = dict[int, "Value | Tree"]
"""A directory with its sub-directories, by tag."""


def order_of(data: Data) -> Order:
    return "little" if data[:2] == b"II" else "big"


def first_directory(exif: bytes) -> Directory:
    """The first directory of an EXIF block.

    Raises:
        MoreNeeded: it is outside the block.
    """
    order = order_of(exif)
    return directory(exif, number(exif, 4, 4, order), order)


def directory(data: Data, at: int, order: Order, big: bool = False) -> Directory:
    """The directory at `at`.

    Args:
        big: whether it is in a BigTIFF file, with offsets of 8 bytes.

    Raises:
        MoreNeeded: the data ends too early.
        CorruptImage: it has an impossible number of tags.
    """
    wide = 8 if big else 4
    step = 4 + 2 * wide
    at, end = _extent(data, at, order, big)
    count = (end - at) // step
    if end + wide > len(data):
        raise MoreNeeded
    found: dict[int, Entry] = {}
    layout = struct.Struct(("<" if order == "little" else ">") + ("HHQ8s" if big else "HHI4s"))
    for place, (tag, kind, values, field) in zip(
        range(at + 4 + wide, len(data), step), layout.iter_unpack(data[at : at + step * count]), strict=False
    ):
        fits = SIZES.get(kind, 0) * values <= wide
        if tag not in found:
            found[tag] = Entry(kind, values, place if fits else int.from_bytes(field, order))
    return Directory(found, number(data, end, wide, order), end)


def some_tags(data: Data, at: int, order: Order, big: bool, wanted: frozenset[int]) -> Directory:
    """The directory at `at` with the wanted tags only, which is faster for long chains of directories.

    Raises:
        MoreNeeded, CorruptImage: see `directory`.
    """
    start, end = _extent(data, at, order, big)
    wide, step = (8, 20) if big else (4, 12)
    body = data[start : end + wide]
    if len(body) < end + wide - start:
        raise MoreNeeded
    count = end - start
    first = (body[:count:step], body[1:count:step])
    low, high = first if order == "little" else first[::-1]
    found: dict[int, Entry] = {}
    for tag in wanted:
        index = low.find(tag & 0xFF)
        while index >= 0 and high[index] != tag >> 8:
            index = low.find(tag & 0xFF, index + 1)
        if index >= 0:
            place = step * index
            kind = int.from_bytes(body[place + 2 : place + 4], order)
            length = int.from_bytes(body[place + 4 : place + 4 + wide], order)
            field = place + 4 + wide
            fits = SIZES.get(kind, 0) * length <= wide
            at = start + field if fits else int.from_bytes(body[field : field + wide], order)
            found[tag] = Entry(kind, length, at)
    return Directory(found, int.from_bytes(body[count:], order), end)


def next_directory(data: Data, at: int, order: Order, big: bool = False) -> int:
    """The offset of the directory after the one at `at`, without reading its tags; 0 if there is none."""
    return number(data, _extent(data, at, order, big)[1], 8 if big else 4, order)


def _extent(data: Data, at: int, order: Order, big: bool) -> tuple[int, int]:
    """The start and the end of the entries of the directory at `at`."""
    count = number(data, at, 8 if big else 2, order)
    if count > _MOST_TAGS:
        raise CorruptImage(f"the TIFF has a directory of {count:,} tags")
    at += 8 if big else 2
    return at, at + (20 if big else 12) * count


def numbers(data: Data, entry: Entry, order: Order) -> tuple[int, ...]:
    """The values of a tag with whole numbers.

    Raises:
        MoreNeeded: the data ends too early.
    """
    if entry.at + entry.size > len(data):
        raise MoreNeeded
    size = SIZES.get(entry.kind, 0)
    values = data[entry.at : entry.at + entry.size]
    return tuple(int.from_bytes(values[at : at + size], order) for at in range(0, len(values), size or 1))


def remove(block: bytearray, of: Directory, start: int, order: Order, tags: Collection[int]) -> None:
    """Remove tags from a directory whose entries begin at `start`. It becomes the last directory."""
    entries = [bytes(block[at : at + 12]) for at in range(start, of.next_at, 12)]
    left = [entry for entry in entries if int.from_bytes(entry[:2], order) not in tags]
    block[start - 2 : start] = len(left).to_bytes(2, order)
    block[start : of.next_at + 4] = b"".join(left).ljust(of.next_at + 4 - start, b"\0")


def tree(
    data: bytes,
    at: int,
    order: Order,
    keep: Callable[[int], bool],
    big: bool = False,
    damaged: list[int] | None = None,
) -> Tree:
    """The directory at `at` with its sub-directories, without values that are outside the data.

    Args:
        keep: whether to keep a tag of the first directory.
        damaged: gets the tags that should be kept and are outside the data or of no known type.
    """
    lost = [] if damaged is None else damaged
    budget = min(len(data), MOST_AT_ONCE)

    def read(at: int, below: set[int], wanted: Callable[[int], bool]) -> Tree:
        nonlocal budget
        branch: Tree = {}
        try:
            entries = directory(data, at, order, big).entries
        except (MoreNeeded, CorruptImage):
            lost.append(0)
            return branch
        for tag, entry in entries.items():
            if not wanted(tag):
                continue
            if entry.at + entry.size > len(data):
                lost.append(tag)
            elif tag in below:
                places = numbers(data, entry, order)
                if places:
                    branch[tag] = read(places[0], _BELOW[tag], lambda _: True)
            elif entry.kind in SIZES and entry.size <= budget:
                budget -= entry.size  # overlapping values must not expand a file
                branch[tag] = Value(entry.kind, entry.length, data[entry.at : entry.at + entry.size])
            else:
                lost.append(tag)
        return branch

    return read(at, {EXIF, GPS}, keep)


_WORDS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Size of a number in bytes, by type. A rational has two numbers."""


def in_order(branch: Tree, before: Order, after: Order) -> Tree:
    """A tree with its values in another byte order. Untyped values, such as maker notes, are not changed."""
    if before == after:
        return branch
    turned: Tree = {}
    for tag, value in branch.items():
        if isinstance(value, dict):
            turned[tag] = in_order(value, before, after)
            continue
        word = _WORDS.get(value.kind, 1)
        words = (value.data[at : at + word][::-1] for at in range(0, len(value.data), word))
        turned[tag] = value if word == 1 else value._replace(data=b"".join(words))
    return turned


def laid_out(branch: Tree, at: int, order: Order) -> bytes:
    """The bytes of a directory and its sub-directories, for the even offset `at`.

    The values must already be in this byte order. The link to the next directory is 0.
    """
    tail_at = at + 2 + 12 * len(branch) + 4
    fields, tail = [len(branch).to_bytes(2, order)], bytearray()
    for tag, value in sorted(branch.items()):
        here = (tail_at + len(tail)).to_bytes(4, order)
        if isinstance(value, dict):
            kind, length, field, more = LONG, 1, here, laid_out(value, tail_at + len(tail), order)
        elif len(value.data) > 4:
            kind, length, field, more = value.kind, value.length, here, value.data
        else:
            kind, length, field, more = value.kind, value.length, value.data.ljust(4, b"\0"), b""
        fields += [tag.to_bytes(2, order), kind.to_bytes(2, order), length.to_bytes(4, order), field]
        tail += more + bytes(len(more) % 2)
    return b"".join(fields) + bytes(4) + bytes(tail)


def shorts(order: Order, *values: int) -> Value:
    return Value(SHORT, len(values), b"".join(v.to_bytes(2, order) for v in values))


def longs(order: Order, *values: int) -> Value:
    return Value(LONG, len(values), b"".join(v.to_bytes(4, order) for v in values))
