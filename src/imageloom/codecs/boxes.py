"""The boxes of an AVIF: items, their properties and references (ISO/IEC 14496-12, 8.11; 23008-12, 9.3)."""

from __future__ import annotations

from collections.abc import Iterator

from imageloom.codecs.bits import Data, MoreNeeded, number
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage

_MOST_META = 1 << 20
"""Maximum size of the box that describes a file's items, in bytes."""
_MOST_BOXES = 4096
_MOST_ITEMS = 4096


def brands(head: Data) -> set[bytes]:
    """The brands of the file, without the version after the first brand."""
    end = min(int.from_bytes(head[:4]), len(head), 1024)
    return {head[i : i + 4] for i in (8, *range(16, end, 4))}


def top(head: Data, until: bytes = b"") -> Iterator[tuple[bytes, int, int, int]]:
    """Name, start, start of the body, and end of each box of a file, up to the box `until`.

    Raises:
        MoreNeeded: the data ends before that box.
        CorruptImage, UnsupportedImage: a box has no valid length, or there are too many boxes.
    """
    at = 0
    for _ in range(_MOST_BOXES):
        if not until and at + 8 > len(head):
            return
        length, name = number(head, at, 4), head[at + 4 : at + 8]
        body = at + 8
        if length == 1:
            length, body = number(head, at + 8, 8), at + 16
        elif length == 0:
            length = len(head) - at
        if len(name) < 4:
            raise MoreNeeded
        if length < body - at:
            raise CorruptImage(f"the AVIF is damaged at byte {at}")
        yield name, at, body, at + length
        if name == until:
            return
        at += length
    raise UnsupportedImage(f"AVIF with more than {_MOST_BOXES:,} boxes is not supported")


def _meta(head: Data) -> bytes:
    """The body of the file's meta box."""
    for name, at, body, end in top(head, b"meta"):
        if name == b"meta":
            if end - at > _MOST_META:
                raise LimitExceeded(f"its header takes {end - at:,} bytes, over the limit of {_MOST_META:,}")
            if end > len(head):
                raise MoreNeeded
            return head[body:end]
    raise MoreNeeded


def boxes(data: bytes, at: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each box in a complete body."""
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if length < 8 or at + length > len(data):
            raise CorruptImage("the AVIF's boxes are not nested correctly")
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _few(count: int) -> int:
    if count > _MOST_ITEMS:
        raise UnsupportedImage(f"AVIF with more than {_MOST_ITEMS:,} items is not supported")
    return count


class Items:
    """The items of a file: images, tiles, metadata.

    Raises:
        MoreNeeded: the data ends within their description.
        CorruptImage, UnsupportedImage, LimitExceeded: the description is not valid, or too long.
    """

    def __init__(self, head: Data) -> None:
        self._boxes = dict(boxes(_meta(head), 4))
        groups = dict(boxes(self._boxes.get(b"iprp", b"")))
        self.properties = list(boxes(groups.get(b"ipco", b"")))
        self._own = self._associated(groups.get(b"ipma", b""))
        self.kinds = dict(self._kinds())
        self.references = list(self._references())
        """Kind, source and targets of each reference."""

    @property
    def primary(self) -> int:
        pitm = self._boxes.get(b"pitm", b"")
        return number(pitm, 4, 4 if number(pitm, 0, 1) else 2)

    def own(self, item: int) -> dict[bytes, bytes]:
        """The properties of an item by name; colours by name and type, because there may be two."""
        return self._own.get(item, {})

    def size(self, item: int) -> tuple[int, int]:
        body = self.own(item).get(b"ispe")
        if body is None:
            raise CorruptImage("the AVIF has no image size")
        return number(body, 4, 4), number(body, 8, 4)

    def sources(self, item: int) -> list[int]:
        """The items that an item is made of, such as the tiles of a grid."""
        made = (targets for kind, source, targets in self.references if (kind, source) == (b"dimg", item))
        return [target for targets in made for target in targets]

    def _associated(self, ipma: bytes) -> dict[int, dict[bytes, bytes]]:
        wide, step = 4 if number(ipma, 0, 1) else 2, 2 if number(ipma, 3, 1) & 1 else 1
        found: dict[int, dict[bytes, bytes]] = {}
        at = 8
        for _ in range(_few(number(ipma, 4, 4))):
            item, count = number(ipma, at, wide), number(ipma, at + wide, 1)
            at += wide + 1
            own = found.setdefault(item, {})
            for i in range(count):
                place = number(ipma, at + step * i, step) & (0x7FFF if step == 2 else 0x7F)
                if 0 < place <= len(self.properties):
                    name, body = self.properties[place - 1]
                    own.setdefault(name + body[:4] if name == b"colr" else name, body)
            at += step * count
        return found

    def _kinds(self) -> Iterator[tuple[int, bytes]]:
        """Number and kind of each item."""
        iinf = self._boxes.get(b"iinf", b"")
        for name, body in boxes(iinf, 8 if number(iinf, 0, 1) else 6):
            if name == b"infe" and number(body, 0, 1) >= 2:
                wide = 4 if body[0] > 2 else 2
                yield number(body, 4, wide), body[6 + wide : 10 + wide]

    def _references(self) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
        iref = self._boxes.get(b"iref", bytes(4))
        wide = 4 if iref[0] else 2
        for kind, body in boxes(iref, 4):
            count = _few(number(body, wide, 2))
            targets = tuple(number(body, wide + 2 + wide * i, wide) for i in range(count))
            yield kind, number(body, 0, wide), targets

    def located(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each item of a complete file (ISO/IEC 14496-12, 8.11.3)."""
        iloc = self._boxes.get(b"iloc", b"")
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
                    source = self._boxes.get(b"idat", b"")
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
