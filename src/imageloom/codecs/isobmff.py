"""Boxes of files that are built as ISO/IEC 14496-12 says, and the items of image files (ISO/IEC 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, number
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage

_MOST_META = 1 << 20
"""Maximum size of the box that describes a file's items, in bytes."""
_MOST_BOXES = 4096
_MOST_ITEMS = 4096

Property = tuple[bytes, bytes]
"""Name and body of a property of an item."""


class Reference(NamedTuple):
    """A reference between items: a thumbnail (thmb), an auxiliary image (auxl), a part (dimg), metadata (cdsc)."""

    kind: bytes
    source: int
    targets: tuple[int, ...]


class Items(NamedTuple):
    """The items of a file."""

    primary: int
    kinds: dict[int, bytes]
    """The type of each item, and the content type of items of the type mime, as b"mime:application/xml"."""
    hidden: frozenset[int]
    properties: dict[int, list[Property]]
    """The properties of each item, in their order."""
    references: tuple[Reference, ...]
    boxes: dict[bytes, bytes]
    """The bodies of the boxes that describe the items."""

    def find(self, item: int, name: bytes) -> bytes | None:
        """The first property of an item with this name."""
        return next((body for found, body in self.properties.get(item, ()) if found == name), None)

    def targets(self, kind: bytes, item: int) -> Iterator[int]:
        """The items that an item refers to."""
        for reference in self.references:
            if reference.kind == kind and reference.source == item:
                yield from reference.targets

    def sources(self, kind: bytes, item: int) -> Iterator[int]:
        """The items that refer to an item."""
        for reference in self.references:
            if reference.kind == kind and item in reference.targets:
                yield reference.source


def top_level(head: Data) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the body and end of each box of a file. The end may be behind the end of the data.

    Raises:
        MoreNeeded: the data ends within the start of a box, and not between two boxes of a file.
        CorruptImage: a box is shorter than its own start.
        UnsupportedImage: there are too many boxes.
    """
    at = 0
    for _ in range(_MOST_BOXES):
        if at == len(head):
            return
        length, name, start = number(head, at, 4), bytes(head[at + 4 : at + 8]), at + 8
        if len(name) < 4:
            raise MoreNeeded
        if length == 1:
            length, start = number(head, at + 8, 8), at + 16
        end = at + length if length else max(len(head), start)
        if end < start:
            raise CorruptImage(f"the box at byte {at} is shorter than its own header")
        yield name, start, end
        at = end
        if at > len(head):
            raise MoreNeeded
    raise UnsupportedImage(f"files with more than {_MOST_BOXES:,} boxes are not supported")


def boxes(data: bytes, at: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each box in a complete body."""
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if length < 8 or at + length > len(data):
            raise CorruptImage("the file's boxes are not nested correctly")
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def items_of(head: Data) -> Items:
    """The items of an image file.

    Raises:
        MoreNeeded: the description of the items is behind the end of the data, or missing.
        CorruptImage, UnsupportedImage, LimitExceeded: it is damaged or too large.
    """
    for name, start, end in top_level(head):
        if name != b"meta":
            continue
        if end - start > _MOST_META:
            raise LimitExceeded(f"its header takes {end - start:,} bytes, over the limit of {_MOST_META:,}")
        if end > len(head):
            raise MoreNeeded
        return _items(dict(boxes(head[start:end], 4)))
    raise MoreNeeded


def _items(found: dict[bytes, bytes]) -> Items:
    try:
        kinds, hidden = _kinds(found.get(b"iinf", b""))
        pitm = found.get(b"pitm", b"")
        primary = number(pitm, 4, 4 if number(pitm, 0, 1) else 2)
        properties = _properties(found.get(b"iprp", b""))
        return Items(primary, kinds, hidden, properties, _references(found.get(b"iref", b"")), found)
    except MoreNeeded:
        raise CorruptImage("the description of the file's images is cut off") from None


def _kinds(iinf: bytes) -> tuple[dict[int, bytes], frozenset[int]]:
    kinds, hidden = {}, set()
    for name, body in boxes(iinf, 8 if number(iinf, 0, 1) else 6):
        if name == b"infe" and number(body, 0, 1) >= 2:
            wide = 4 if body[0] > 2 else 2
            item, kind = number(body, 4, wide), body[6 + wide : 10 + wide]
            if kind == b"mime":
                kind += b":" + body[10 + wide :].split(b"\0")[1] if body[10 + wide :].count(b"\0") else b""
            kinds[item] = kind
            if body[3] & 1:
                hidden.add(item)
    if len(kinds) > _MOST_ITEMS:
        raise UnsupportedImage(f"files with more than {_MOST_ITEMS:,} items are not supported")
    return kinds, frozenset(hidden)


def _properties(iprp: bytes) -> dict[int, list[Property]]:
    groups = list(boxes(iprp))
    all_properties = list(boxes(dict(groups).get(b"ipco", b"")))
    found: dict[int, list[Property]] = {}
    for name, ipma in groups:
        if name != b"ipma":
            continue
        wide, step = 4 if number(ipma, 0, 1) else 2, 2 if number(ipma, 3, 1) & 1 else 1
        at = 8
        for _ in range(_few(number(ipma, 4, 4))):
            item, count = number(ipma, at, wide), number(ipma, at + wide, 1)
            at += wide + 1
            own = found.setdefault(item, [])
            for i in range(count):
                place = number(ipma, at + step * i, step) & (0x7FFF if step == 2 else 0x7F)
                if 0 < place <= len(all_properties):
                    own.append(all_properties[place - 1])
            at += step * count
    return found


def _references(iref: bytes) -> tuple[Reference, ...]:
    if not iref:
        return ()
    wide = 4 if number(iref, 0, 1) else 2
    found = []
    for kind, body in boxes(iref, 4):
        count = _few(number(body, wide, 2))
        targets = tuple(number(body, wide + 2 + wide * i, wide) for i in range(count))
        found.append(Reference(kind, number(body, 0, wide), targets))
    return tuple(found)


def _few(count: int) -> int:
    if count > _MOST_ITEMS:
        raise UnsupportedImage(f"files with more than {_MOST_ITEMS:,} items are not supported")
    return count


def item_bytes(data: bytes, items: Items, wanted: int) -> bytes:
    """The bytes of an item (ISO/IEC 14496-12, 8.11.3); empty if the file does not contain all of it.

    Raises:
        LimitExceeded: it is over the limit for one block of metadata.
    """
    iloc = items.boxes.get(b"iloc", b"")
    version, sizes = number(iloc, 0, 1), number(iloc, 4, 2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    at = 6 + wide
    for _ in range(_few(number(iloc, 6, wide))):
        item, source = number(iloc, at, wide), data
        at += wide
        if version:
            source = items.boxes.get(b"idat", b"") if number(iloc, at, 2) & 15 else data
            at += 2
        base = number(iloc, at + 2, base_size)
        at += 2 + base_size
        parts, total = [], 0
        for _ in range(_few(number(iloc, at, 2))):
            at += index_size if version else 0
            offset = base + number(iloc, at + 2, offset_size)
            length = number(iloc, at + 2 + offset_size, length_size) or len(source)
            at += offset_size + length_size
            total += length
            if item == wanted and total <= MOST_AT_ONCE:
                parts.append(source[offset : offset + length])
        at += 2
        if item == wanted:
            if MOST_AT_ONCE < total <= len(data):
                raise LimitExceeded(
                    f"its metadata takes {total:,} bytes, over the limit of {MOST_AT_ONCE:,} (--metadata strip)"
                )
            whole = b"".join(parts)
            return whole if len(whole) == total else b""
    return b""
