"""The source: which items a job has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch

from imageloom import codecs
from imageloom.errors import StorageError
from imageloom.model import Item, Unlisted
from imageloom.stores import open_store
from imageloom.stores.local import check_name


class Source:
    """The images of a folder, or one file.

    Args:
        address: the path of a folder or of a file.
        include: patterns of names; with none, all names with the suffix of a known format. A pattern without
            a slash is held against the last part of the key, another against the whole key.
        exclude: patterns of names to leave out, likewise.

    Raises:
        StorageError: there is nothing at that path, or it is not UTF-8.
    """

    def __init__(self, address: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> None:
        path = os.path.abspath(address)
        if not os.path.exists(path):
            raise StorageError(f"there is no file or folder {address}")
        check_name(path)
        self.is_file = not os.path.isdir(path)
        self.root, self._only = os.path.split(path) if self.is_file else (path, "")
        self.path = path
        self._include = include
        self._exclude = exclude

    def __iter__(self) -> Iterator[Item | Unlisted]:
        """The items as they are found, and what looks like one and cannot be one."""
        if self.is_file:
            found = os.stat(os.path.join(self.root, self._only))
            yield Item(self._only, found.st_size, found.st_mtime_ns)
            return
        for entry in open_store(self.root).items():
            if self._is_wanted(entry):
                yield entry

    def _is_wanted(self, entry: Item | Unlisted) -> bool:
        """A folder is reported where it has the name of an image, or where it may hold images unseen."""
        if isinstance(entry, Unlisted) and entry.is_folder and codecs.format_of(entry.key) is None:
            return False
        return self.matches(entry.key)

    def matches(self, key: str) -> bool:
        if any(_fits(key, pattern) for pattern in self._exclude):
            return False
        if key.endswith("/"):
            return True
        if self._include:
            return any(_fits(key, pattern) for pattern in self._include)
        return codecs.format_of(key) is not None


def _fits(key: str, pattern: str) -> bool:
    return fnmatch(key if "/" in pattern else key.rpartition("/")[2], pattern)
