"""The source: which items a job has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch

from imageloom import codecs
from imageloom.errors import ItemError, StorageError, UnreadableItem
from imageloom.model import Failure, Item, Links, Unlisted
from imageloom.records.events import SkipReason
from imageloom.stores import check_address, is_remote, local_path, open_bounded, open_store
from imageloom.stores.files import check_name


class Source:
    """The images of a folder, or one file.

    Args:
        address: of a folder or of a file.
        include: patterns of names; with none, all names with the suffix of a known format. A pattern without
            a slash is held against the last part of the key, another against the whole key.
        exclude: patterns of names to leave out, likewise.
        links: which links in a local folder are followed; those that are not are items that fail.
        roots: folders beneath which a local one lies; none for no bounds.

    Raises:
        StorageError: there is nothing at that path, or it is not UTF-8.
    """

    is_endless = False
    """More may come at any time."""

    def __init__(
        self,
        address: str,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        links: Links = "follow",
        roots: tuple[str, ...] = (),
    ) -> None:
        root, only = _local(address) if not is_remote(address) else _remote(address)
        self.store = open_bounded(root, links, roots)
        self.is_file = bool(only)
        self.root = self.store.address
        self._only = only
        self._include = include
        self._exclude = exclude

    @property
    def place(self) -> str:
        """Where the input really is."""
        path = self.store.path(self._only)
        return os.path.realpath(path) if path is not None else self.store.place(self._only)

    def entries(self, wake: Callable[[], None]) -> Iterator[Item | Unlisted | None]:
        """What the driver takes; None where there is nothing at the moment, and more may come.

        Args:
            wake: called, in whatever thread, when more has come.
        """
        return iter(self)

    @property
    def pause(self) -> float:
        """Seconds after which to ask again, where there was nothing and nobody has called `wake`."""
        return 0.0

    def outdated(self, item: Item, failed: bool) -> SkipReason | None:
        """Why what came of an item does not count any more."""
        return None

    def waited(self, key: str) -> float:
        """Seconds since an item came; 0 where it was there from the beginning."""
        return 0.0

    def __iter__(self) -> Iterator[Item | Unlisted]:
        """The items as they are found, and what looks like one and cannot be one."""
        if self.is_file:
            try:
                found = self.store.find(self._only)
            except ItemError as error:
                yield Unlisted(self._only, Failure.of(error))
                return
            yield found or Unlisted(self._only, Failure.of(UnreadableItem("the file no longer exists")))
            return
        for entry in self.store.items():
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


def _local(address: str) -> tuple[str, str]:
    """The folder of a local address, and the file in it that is meant alone."""
    path = os.path.abspath(local_path(address))
    if not os.path.exists(path):
        raise StorageError(f"there is no file or folder {address}")
    check_name(path)
    return (path, "") if os.path.isdir(path) else os.path.split(path)


def _remote(address: str) -> tuple[str, str]:
    """Likewise. What has the name of an image is asked for first; without objects there is no folder to ask."""
    check_address(address)
    root, _, name = address.rstrip("/").rpartition("/")
    if codecs.format_of(name) and not root.endswith("/") and open_store(root).find(name):
        return root, name
    return address, ""


def _fits(key: str, pattern: str) -> bool:
    return fnmatch(key if "/" in pattern else key.rpartition("/")[2], pattern)
