"""The source: finds the items of a job."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence

from imageloom import codecs
from imageloom.driver.listing import listed_apart
from imageloom.driver.patterns import Pattern
from imageloom.errors import ItemError, StorageError, UnreadableItem, UsageError
from imageloom.model import Failure, Item, Job, Links, Shard, Unlisted
from imageloom.records.events import SkipReason
from imageloom.records.losses import LeftOut
from imageloom.stores import check_address, is_remote, local_path, open_bounded, open_store
from imageloom.stores.files import check_name

LOOKED_UP = 32
"""Number of requests in flight when the names of a list are looked up in a remote store."""
LONGEST_PAUSE = 1.0
"""Seconds after which the driver asks a slow listing again."""


class Source:
    """The images of a folder, or one file.

    Args:
        address: address of a folder or a file.
        include: patterns of keys, see `patterns`; empty: all names with an image suffix.
        exclude: patterns of keys to leave out.
        links: which symbolic links in a local folder are read; the others become failed items.
        roots: local folders that the source must be inside; empty: no restriction.
        files: names of the files to process; None: all of them.
        newer_than: seconds since the epoch; only files that were changed later are processed. 0: all of them.
        shard: only its items are processed; None: all of them.

    Raises:
        StorageError: there is no such file or folder, or its path is not UTF-8.
        UsageError: names are given, and the source is one file.
    """

    is_endless = False
    """Whether new items may arrive at any time."""

    def __init__(
        self,
        address: str,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        links: Links = "follow",
        roots: tuple[str, ...] = (),
        files: tuple[str, ...] | None = None,
        newer_than: float = 0.0,
        shard: Shard | None = None,
    ) -> None:
        root, only = _local(address) if not is_remote(address) else _remote(address)
        self.store = open_bounded(root, links, roots)
        self.is_file = bool(only)
        self.root = self.store.address
        self._only = only
        self._include = tuple(map(Pattern, include))
        self._exclude = tuple(map(Pattern, exclude))
        self._files = files
        self._newer_than = int(newer_than * 1e9)
        self.shard = shard
        self.elsewhere = 0
        """Number of items that other shards process."""
        if only and files is not None:
            raise UsageError(
                f"a list of names (--files-from) needs a folder as the source: {address} is a file"
            )
        self.left_out = LeftOut()
        """The files whose suffix is that of no format, without those that patterns leave out."""

    @classmethod
    def of(cls, job: Job, roots: tuple[str, ...] = ()) -> Source:
        """The source of a job. Raises the same errors."""
        return cls(
            job.source, job.include, job.exclude, job.links, roots, job.files, job.newer_than, job.shard
        )

    @property
    def place(self) -> str:
        """The real path or address of the source, with links resolved."""
        path = self.store.path(self._only)
        return os.path.realpath(path) if path is not None else self.store.place(self._only)

    def split(self, path: str, count: int) -> Sequence[int]:
        """Note that a file has so many pages, each of which is an item. Returns those that are wanted, from 0."""
        return range(count)

    def entries(self, wake: Callable[[], None]) -> Iterator[Item | Unlisted | None]:
        """Yield the entries for the driver. None means: no entry at the moment, but more may arrive.

        Args:
            wake: called, from any thread, when new entries have arrived.
        """
        return iter(self) if self.store.is_local else listed_apart(self, wake)

    @property
    def pause(self) -> float:
        """Seconds after which the driver asks again after a None, if `wake` is not called before."""
        return LONGEST_PAUSE

    def outdated(self, item: Item, failed: bool) -> SkipReason | None:
        """Why the result of an item must be ignored (its file was changed or deleted); None if it counts."""
        return None

    def waited(self, key: str) -> float:
        """Seconds since an item arrived; 0 if it existed when the run started."""
        return 0.0

    def __iter__(self) -> Iterator[Item | Unlisted]:
        """Yield the items as they are found, and names that look like images but cannot be processed."""
        for entry in self._wanted():
            if self._is_recent(entry):
                yield entry

    def is_mine(self, key: str) -> bool:
        """Whether a file belongs to the shard that is processed."""
        return self.shard is None or self.shard.has(key)

    def _is_counted_mine(self, key: str) -> bool:
        """The same for a file that is wanted; those of other shards are counted."""
        is_mine = self.is_mine(key)
        self.elsewhere += not is_mine
        return is_mine

    def _wanted(self) -> Iterator[Item | Unlisted]:
        if self.is_file or self._files is not None:
            yield from self._named()
            return
        for entry in self.store.items():
            if self._is_wanted(entry):
                if self._is_counted_mine(entry.key):
                    yield entry
            elif self._is_left_out(entry) and self.is_mine(entry.key):
                self.left_out.add(entry.key)

    def _named(self) -> Iterator[Item | Unlisted]:
        """The one file of the source, or the files of the list that no pattern leaves out."""
        if self.is_file:
            if self._is_counted_mine(self._only):
                yield self._look_up(self._only)
            return
        names = iter(
            [name for name in self._files or () if self._is_chosen(name) and self._is_counted_mine(name)]
        )
        if self.store.is_local:
            yield from map(self._look_up, names)
            return
        from concurrent.futures import ThreadPoolExecutor  # few runs need it

        with ThreadPoolExecutor(LOOKED_UP) as pool:  # each look-up is a request
            while group := list(itertools.islice(names, 8 * LOOKED_UP)):
                yield from pool.map(self._look_up, group)

    def _look_up(self, name: str) -> Item | Unlisted:
        try:
            found = self.store.find(name)
        except ItemError as error:
            return Unlisted(name, Failure.of(error))
        if found is None:
            gone = "the file no longer exists" if self.is_file else "there is no such file in the source"
            return Unlisted(name, Failure.of(UnreadableItem(gone)))
        if (path := self.store.path(name)) is not None and os.path.isdir(path):
            folder = "it is a folder: give the names of its files, or --include with its name"
            return Unlisted(name, Failure.of(UnreadableItem(folder)))
        return found

    def _is_chosen(self, key: str) -> bool:
        """Whether the patterns choose a file that a list names."""
        if any(pattern.fits(key) for pattern in self._exclude):
            return False
        return not self._include or any(pattern.fits(key) for pattern in self._include)

    def _is_recent(self, entry: Item | Unlisted) -> bool:
        """Whether an entry was changed after the time that is asked for.

        Raises:
            StorageError: the store does not say when the file was changed.
        """
        if not self._newer_than or isinstance(entry, Unlisted):
            return True
        if not entry.mtime_ns:
            raise StorageError(
                f"{self.root} does not say when {entry.key} was changed: --newer-than is not possible there"
            )
        return entry.mtime_ns > self._newer_than

    def _is_wanted(self, entry: Item | Unlisted) -> bool:
        """Whether an entry is wanted. So is an unreadable folder that may contain images, to report it."""
        if isinstance(entry, Unlisted) and entry.is_folder and codecs.format_of(entry.key) is None:
            return False
        return self.matches(entry.key)

    def matches(self, key: str) -> bool:
        if any(pattern.fits(key) for pattern in self._exclude):
            return False
        if key.endswith("/"):
            return True
        if self._include:
            return any(pattern.fits(key) for pattern in self._include)
        return codecs.format_of(key) is not None

    def _is_left_out(self, entry: Item | Unlisted) -> bool:
        """Whether an entry that is not wanted is a file that no pattern leaves out. Empty files do not count: some
        stores mark folders with them."""
        if isinstance(entry, Unlisted) or self._include or not entry.size:
            return False
        return not any(pattern.fits(entry.key) for pattern in self._exclude)


def _local(address: str) -> tuple[str, str]:
    """The folder of a local address, and the name of the file if the address is a file."""
    path = os.path.abspath(local_path(address))
    if not os.path.exists(path):
        raise StorageError(f"there is no file or folder {address}")
    check_name(path)
    return (path, "") if os.path.isdir(path) else os.path.split(path)


def _remote(address: str) -> tuple[str, str]:
    """The same for a remote address. An address that is named like an image is first looked up as a file."""
    check_address(address)
    root, _, name = address.rstrip("/").rpartition("/")
    if codecs.format_of(name) and not root.endswith("/") and open_store(root).find(name):
        return root, name
    return address, ""
