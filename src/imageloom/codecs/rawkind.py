"""Tells raw files of cameras that are built like TIFF from other TIFF files."""

from __future__ import annotations

from collections.abc import Iterator

from imageloom.codecs.bits import Data, MoreNeeded, number
from imageloom.codecs.tags import Directory, Order, directory, numbers, order_of
from imageloom.errors import CorruptImage

_SUBFILE, _COLOURS, _MAKE, _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _BELOW, _DNG = (
    254, 262, 271, 273, 279, 324, 325, 330, 50706,
)  # fmt: skip
_FILTERED = (32803, 34892)
"""Colours of a sensor's pixels: a colour filter array, and linear raw."""
_MAKERS = (
    b"NIKON",
    b"SONY",
    b"PENTAX",
    b"RICOH",
    b"SAMSUNG",
    b"Hasselblad",
    b"Phase One",
    b"Leaf",
    b"Mamiya",
)
_MOST_BELOW = 16


def is_raw(data: Data) -> bool:
    """Whether a TIFF is a camera's raw file, by its first directory: the picture in it may be a thumbnail."""
    if data[8:10] == b"CR":
        return True
    if data[2:3] not in (b"*", b"\0"):
        return False
    order = order_of(data)
    try:
        first = directory(data, number(data, 4, 4, order), order)
        if _DNG in first.entries or _value(data, first, _COLOURS, order) in _FILTERED:
            return True
        make = first.entries.get(_MAKE)
        if make is None or not bytes(data[make.at : make.at + 10]).startswith(_MAKERS):
            return False
        return _BELOW in first.entries and _value(data, first, _SUBFILE, order) == 1
    except (MoreNeeded, CorruptImage):
        return False


def missing(data: Data) -> bool:
    """Whether strips or tiles of a raw file that is built like TIFF are behind its end."""
    if data[2:4] not in (b"*\0", b"\0*"):
        return False
    order = order_of(data)
    try:
        return any(end > len(data) for end in _ends(data, order))
    except MoreNeeded:
        return True


def _ends(data: Data, order: Order) -> Iterator[int]:
    """Where each strip and tile ends."""
    at, seen = number(data, 4, 4, order), set[int]()
    waiting = [at]
    while waiting and len(seen) < _MOST_BELOW:
        at = waiting.pop()
        if not at or at in seen:
            continue
        seen.add(at)
        here = directory(data, at, order)
        waiting.append(here.next)
        if _BELOW in here.entries:
            waiting.extend(numbers(data, here.entries[_BELOW], order)[:_MOST_BELOW])
        for places, lengths in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
            if places in here.entries and lengths in here.entries:
                starts, sizes = (numbers(data, here.entries[tag], order) for tag in (places, lengths))
                yield from (start + size for start, size in zip(starts, sizes, strict=False))


def _value(data: Data, of: Directory, tag: int, order: Order) -> int | None:
    entry = of.entries.get(tag)
    values = numbers(data, entry, order) if entry else ()
    return values[0] if values else None
