"""Boxes of files that are built as ISO/IEC 14496-12 says, and the items of image files (ISO/IEC 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from imageloom.codecs.bits import MOST_AT_ONCE, Data, MoreNeeded, number
from imageloom.codecs.metadata import Density, Luminance
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.model import Thing

_MOST_META = 1 << 20
"""Maximum size of the box that describes a file's items, in bytes."""
_MOST_BOXES = 4096
_MOST_ITEMS = 4096
_MOST_PIECES = 4 * _MOST_ITEMS
"""Maximum number of places of all items together."""
_NITS = 10_000
"""PNG's cLLI counts ten thousandths of a candela per square metre."""
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


class Box(NamedTuple):
    """A box of a file."""

    name: bytes
    at: int
    start: int
    """Where its body begins."""
    end: int


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

    def find(self, item: int, name: bytes, kind: bytes = b"") -> bytes | None:
        """The first property of an item with this name, whose body begins with `kind`."""
        own = self.properties.get(item, ())
        return next((body for found, body in own if found == name and body.startswith(kind)), None)

    def size(self, item: int) -> tuple[int, int]:
        """Width and height of an item, before its crops and turns."""
        body = self.find(item, b"ispe") or b""
        if len(body) < 12:
            raise CorruptImage("the file does not say the size of its image")
        return number(body, 4, 4), number(body, 8, 4)

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


def top_level(head: Data) -> Iterator[Box]:
    """The boxes of a file. The end of the last one may be behind the end of the data.

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
        yield Box(name, at, start, end)
        at = end
        if at > len(head):
            raise MoreNeeded
    raise UnsupportedImage(f"files with more than {_MOST_BOXES:,} boxes are not supported")


def complete_boxes(data: bytes) -> Iterator[Box]:
    """The boxes of a whole file, up to bytes that are no box: some cameras append other data."""
    with suppress(MoreNeeded, CorruptImage):
        for box in top_level(data):
            if box.end <= len(data):
                yield box


def brands(head: Data) -> set[bytes]:
    """The brands of a file, without the version after the first brand."""
    end = min(int.from_bytes(head[:4]), len(head), 1024)
    return {head[i : i + 4] for i in (8, *range(16, end, 4))}


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
    for name, _, start, end in top_level(head):
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


def _located(data: bytes, items: Items) -> Iterator[tuple[int, bytes, list[slice]]]:
    """Each item with the bytes that it is in, and its places in them (ISO/IEC 14496-12, 8.11.3)."""
    iloc = items.boxes.get(b"iloc", b"")
    version, sizes = number(iloc, 0, 1), number(iloc, 4, 2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    at = 6 + wide
    pieces = 0
    for _ in range(_few(number(iloc, 6, wide))):
        item, source = number(iloc, at, wide), data
        at += wide
        if version:
            source = items.boxes.get(b"idat", b"") if number(iloc, at, 2) & 15 else data
            at += 2
        base = number(iloc, at + 2, base_size)
        at += 2 + base_size
        places = []
        count = number(iloc, at, 2)
        pieces += count
        if pieces > _MOST_PIECES:
            raise UnsupportedImage(f"files with more than {_MOST_PIECES:,} pieces of items are not supported")
        for _ in range(count):
            at += index_size if version else 0
            offset = base + number(iloc, at + 2, offset_size)
            length = number(iloc, at + 2 + offset_size, length_size) or len(source)
            at += offset_size + length_size
            places.append(slice(offset, offset + length))
        at += 2
        yield item, source, places


def item_bytes(data: bytes, items: Items, wanted: int) -> bytes:
    """The bytes of an item of metadata; empty if the file does not contain all of it.

    Raises:
        LimitExceeded: it is over the limit for one block of metadata.
    """
    for item, source, places in _located(data, items):
        if item == wanted:
            total = sum(place.stop - place.start for place in places)
            if MOST_AT_ONCE < total <= len(data):
                raise LimitExceeded(
                    f"its metadata takes {total:,} bytes, over the limit of {MOST_AT_ONCE:,} (--metadata strip)"
                )
            whole = b"".join(source[place] for place in places) if total <= MOST_AT_ONCE else b""
            return whole if len(whole) == total else b""
    return b""


def exif_of(body: bytes) -> bytes:
    """The TIFF structure in a box or an item of EXIF, behind its offset, which some writers leave out."""
    if body[:4] in (b"II*\0", b"MM\0*"):
        return body
    return body[4 + int.from_bytes(body[:4]) :].removeprefix(b"Exif\0\0")


def luminance(items: Items) -> Luminance | None:
    """Content light level and mastering display (ISO/IEC 14496-12, 12.1.5), in the order and units of PNG."""
    content, display = (items.find(items.primary, name) or b"" for name in (b"clli", b"mdcv"))
    levels = b"".join((int.from_bytes(content[at : at + 2]) * _NITS).to_bytes(4) for at in (0, 2))
    found = Luminance(
        display[8:12] + display[:8] + display[12:24] if len(display) == 24 else b"",
        levels if len(content) == 4 else b"",
    )
    return None if found == Luminance() else found


def aspect(items: Items) -> Density | None:
    """The shape of pixels, if they are not squares."""
    pasp = items.find(items.primary, b"pasp") or b""
    across, down = int.from_bytes(pasp[:4]), int.from_bytes(pasp[4:8])
    return Density(down, across, "none") if across != down and across and down else None


def beside(data: bytes) -> set[Thing]:
    """What a file has in boxes beside those of its images."""
    found: set[Thing] = set()
    for name, _, start, _ in complete_boxes(data):
        if name == b"moov":
            found.add("animation")
        elif name == b"mpvd":
            found.add("video")
        elif name == b"uuid":
            is_c2pa = data[start : start + 16] == _C2PA
            found.add("content credentials" if is_c2pa else "private metadata")
    return found


def all_items(data: bytes, items: Items) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each item of a file.

    Raises:
        CorruptImage: items overlap, so that together they are larger than the file.
    """
    left = 4 * len(data)
    for item, source, places in _located(data, items):
        parts = []
        for place in places:
            parts.append(source[place])
            left -= len(parts[-1])
            if left < 0:
                raise CorruptImage("the file's items overlap")
        yield item, b"".join(parts)
