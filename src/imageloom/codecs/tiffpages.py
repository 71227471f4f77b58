"""Pages of TIFF files: directories that are neither smaller copies of a picture nor masks.

A slide of Aperio (SVS) has one page: its tiled directories are smaller copies of it, whatever they say of
themselves, and the other ones are a thumbnail and pictures of the slide's label and of the whole slide.

A page is read as a file of its own: the same bytes, but for the offset of the first directory, and for the end of
the chain of directories behind the page's own.
"""

from __future__ import annotations

from typing import NamedTuple

from imageloom.codecs.bits import Data, View, number
from imageloom.codecs.tags import Directory, Entry, Order, directory, numbers, order_of, some_tags
from imageloom.errors import CorruptImage, UnsupportedImage

_KIND, _OLD_KIND, _DESCRIPTION, _TILES, _SUBDIRECTORIES = 254, 255, 270, 322, 330
_SEEN = frozenset((_KIND, _OLD_KIND, _TILES, _SUBDIRECTORIES))
_APERIO = b"Aperio"
_MOST_BELOW = 64
_REDUCED, _MASK = 1, 4
_MOST_DIRECTORIES = 65_536


class Page(NamedTuple):
    """Where a page is in the file."""

    at: int
    """Offset of its directory."""
    next_at: int
    """Offset of the field with the offset of the following directory."""
    copies: tuple[Page, ...] = ()
    """Smaller copies of the page: behind it in the chain of directories, or below it."""


def pages(data: Data) -> list[Page]:
    """The pages of a file, at least the first directory. A chain that forms a loop ends where it begins again.

    Raises:
        MoreNeeded: a directory is behind the end of the data.
        CorruptImage: the directories overlap, so that together they are larger than the file.
        UnsupportedImage: there are too many.
    """
    order, big = order_of(data), b"+" in data[2:4]
    at = number(data, 8 if big else 4, 8 if big else 4, order)
    chain = _Chain(data, order, big)
    found: list[Page] = []
    early: list[Page] = []
    """Smaller copies before the first page."""
    head = directory(data, at, order, big)
    first, is_slide = Page(at, head.next_at), is_aperio(data, head.entries)
    seen: set[int] = set()
    while at and at not in seen:
        if len(seen) > _MOST_DIRECTORIES:
            raise UnsupportedImage(f"TIFF of more than {_MOST_DIRECTORIES:,} directories is not supported")
        seen.add(at)
        here = chain.directory(at)
        kind, old = (next(iter(chain.values(here, tag, 1)), 0) for tag in (_KIND, _OLD_KIND))
        if is_slide and found:
            kind = _REDUCED if _TILES in here.entries else _MASK  # what is not tiled is another picture
        if not (kind & (_REDUCED | _MASK) or old == 2):
            found.append(Page(at, here.next_at, (*early, *_below(chain, here))))
            early = []
        elif kind & _MASK == 0 and found:
            found[-1] = found[-1]._replace(copies=(*found[-1].copies, Page(at, here.next_at)))
        elif kind & _MASK == 0:
            early.append(Page(at, here.next_at))
        at = here.next
    if not found and early and _has_full_below(chain, early[0].at):
        raise UnsupportedImage("TIFF whose first picture is a smaller copy of another one is not supported")
    return found or early[:1] or [first]


def is_aperio(data: Data, first: dict[int, Entry]) -> bool:
    """Whether a file is a slide of Aperio, by the tags of its first directory."""
    entry = first.get(_DESCRIPTION)
    return entry is not None and _TILES in first and data[entry.at : entry.at + len(_APERIO)] == _APERIO


class _Chain:
    """Reads the directories of a file."""

    def __init__(self, data: Data, order: Order, big: bool) -> None:
        self._data, self._order, self._big = data, order, big
        self._left = 4 * len(data)

    def directory(self, at: int) -> Directory:
        """The directory at `at` with the tags that say what it is.

        Raises:
            CorruptImage: all directories together are larger than the file.
        """
        here = some_tags(self._data, at, self._order, self._big, _SEEN)
        self._left -= here.next_at - at
        if self._left < 0:
            raise CorruptImage("the TIFF's directories overlap")
        return here

    def values(self, of: Directory, tag: int, most: int) -> tuple[int, ...]:
        """The first values of a tag, at most `most`; empty if it is missing."""
        entry = of.entries.get(tag)
        if entry is None:
            return ()
        return numbers(self._data, entry._replace(length=min(entry.length, most)), self._order)


def _below(chain: _Chain, here: Directory) -> tuple[Page, ...]:
    """The directories below a directory, which are smaller copies of its page if they say so."""
    found = []
    for at in chain.values(here, _SUBDIRECTORIES, _MOST_BELOW):
        below = chain.directory(at)
        if chain.values(below, _KIND, 1) == (_REDUCED,):
            found.append(Page(at, below.next_at))
    return tuple(found)


def _has_full_below(chain: _Chain, at: int) -> bool:
    """Whether a directory below this one is not a smaller copy."""
    here = chain.directory(at)
    return len(_below(chain, here)) < len(chain.values(here, _SUBDIRECTORIES, _MOST_BELOW))


class _Changed(View):
    """A file with other bytes at some places."""

    def __init__(self, data: Data, changes: dict[int, bytes]) -> None:
        self._data, self._changes = data, changes

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(len(self))
        return changed(self._data[start:stop], self._changes, start)


def changed(data: bytes, changes: dict[int, bytes], start: int = 0) -> bytes:
    """Bytes of a file that begin at `start`, with the changes that are inside them."""
    made: bytearray | None = None
    for at, new in changes.items():
        first, last = max(at, start), min(at + len(new), start + len(data))
        if first < last:
            made = made if made is not None else bytearray(data)
            made[first - start : last - start] = new[first - at : last - at]
    return data if made is None else bytes(made)


def changes_for(data: Data, page: Page) -> dict[int, bytes]:
    """What to change in a file so that a page is its only one."""
    order: Order = order_of(data)
    big = b"+" in data[2:4]
    wide = 8 if big else 4
    return {wide: page.at.to_bytes(wide, order), page.next_at: bytes(wide)}


def view_of(data: Data, page: Page) -> View:
    """A file in which a page is the only one, for parsers of headers."""
    return _Changed(data, changes_for(data, page))


def file_of(data: bytes, page: Page) -> bytes:
    """A file in which a page is the only one."""
    return changed(data[: len(data)], changes_for(data, page))
