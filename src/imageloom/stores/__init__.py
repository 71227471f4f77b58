"""Stores: places of bytes by address, one file for each family, loaded when it is named.

A path or `file://` is a local folder; `s3://`, `gs://` and `az://` are object stores, `gdrive://` is Google Drive;
other schemes are those of installed plug-ins and of fsspec. An address never holds a password: each family finds
its credentials by the usual means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

from imageloom.errors import UnwritableOutput, UsageError
from imageloom.model import Item, Links, Unlisted
from imageloom.stores.local import LocalStore
from imageloom.system.registry import Registry, load

OBJECTS = ("s3", "gs", "az", "memory")
"""The schemes of object stores; `memory` lasts as long as the process, for tests."""

_FSSPEC = "imageloom.stores.fsspec:FsspecStore"
STORES = Registry(
    "store",
    {
        "file": "imageloom.stores.local:LocalStore",
        "gdrive": "imageloom.stores.drive:DriveStore",
        **dict.fromkeys(OBJECTS, "imageloom.stores.object:ObjectStore"),
        **dict.fromkeys(("sftp", "ssh", "ftp", "http", "https", "zip", "tar"), _FSSPEC),
    },
)
"""By scheme: each is a function of an address that makes a `Store`. The schemes of fsspec that people use most are
here, so that no plug-in takes them."""

kept: dict[tuple[str, str, str], bytes] = {}
"""What was read ahead, for the workers of this process: by the store's address, the key and the fingerprint."""


class Feed(Protocol):
    """What tells of changes in a store, from the moment on at which it was made."""

    def take(self) -> list[str] | None:
        """The keys that something has happened to since the last time; None where all is to be listed.

        Raises:
            StorageError: the store does not say.
        """


class Store(Protocol):
    """A place of bytes. Keys are relative paths with forward slashes.

    A worker stages each output of an item under a token and, when all are there, commits them; the driver
    publishes them. Local bytes get their name when they are published, by a rename. Elsewhere an upload is
    indivisible, and a second one would double the work: they get their name when they are committed.
    """

    address: str
    """As the ledger and tasks have it."""
    is_local: bool
    """Its files have paths on this machine; elsewhere each request is a round trip."""
    creates: bool
    """A commit that must not replace anything notices by itself; there is no need to look first."""

    def items(self) -> Iterator[Item | Unlisted]:
        """All that is there, as it is found; what cannot be an item comes with the reason."""

    def feed(self) -> Feed | None:
        """What tells of changes; None where it can only be listed. A listing that follows is the beginning.

        Raises:
            StorageError: the store does not say.
        """

    def find(self, key: str) -> Item | None:
        """The item of that key; None where there is none."""

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        """The bytes of a file, refused over `limit` bytes, or where it is another one than was planned."""

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        """`length` bytes of a file from `start` on, or all that there are."""

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        """Copy a file to a local path; refused as by `read`."""

    def path(self, key: str) -> str | None:
        """The local path of a file; None where it has none."""

    def size(self, key: str) -> int | None:
        """The size of a file in bytes; None where there is none."""

    def exists(self, key: str) -> bool:
        """Whether the name is taken, by whatever it is."""

    def place(self, folder: str) -> str:
        """Where a folder really is: equal for all names that lead there."""

    def link(self, key: str) -> str | None:
        """The place that a link leads to; None for what is no link."""

    def prepare(self, scratch: str) -> None:
        """Make ready to be written to.

        Args:
            scratch: path of a folder for what is too large for memory; empty for the store's choice.

        Raises:
            StorageError: it cannot be written to.
        """

    def tidy(self) -> None:
        """Remove what `prepare` has made."""

    def staging(self, token: str) -> str:
        """The local path where an output may be made that is then published. Only after `prepare`."""

    def stage(self, token: str, data: bytes) -> None:
        """Hold bytes where nobody looks for outputs, under a token of the attempt's own."""

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        """Say that staged bytes are an output.

        Args:
            maker: a mark of the item that it is made from.
            replace: it may take the place of what has its name and is of another maker.

        Raises:
            OutputExists: it may not.
            UnwritableOutput: the store did not take it.
        """

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        """Give what was committed, or made at `staging`, its name in one indivisible step.

        An old folder that a new one takes the place of is moved away just before.
        """

    def discard(self, token: str) -> None:
        """Drop staged bytes; nothing happens where there are none."""


def stage(store: Store, token: str, data: bytes | Mapping[str, bytes]) -> int:
    """Stage a file, or the files of a folder by their paths within it; gives their bytes together."""
    if isinstance(data, bytes):
        store.stage(token, data)
        return len(data)
    if not isinstance(store, LocalStore):
        raise UnwritableOutput(f"{store.address} has no folders")
    store.stage_folder(token, data)
    return sum(map(len, data.values()))


def is_remote(address: str) -> bool:
    """Whether an address is that of a store with round trips."""
    return "://" in address and not address.startswith("file://")


def local_path(address: str) -> str:
    """The path of a local address."""
    return unquote(address.removeprefix("file://")) if address.startswith("file://") else address


@lru_cache(maxsize=64)
def open_store(address: str) -> Store:
    """The store at an address.

    Raises:
        UsageError: the address holds a password or a query, nobody knows its scheme, or the scheme's plug-in
            cannot be loaded.
        MissingExtra: the library for it is not installed.
        StorageError: it cannot be used.
    """
    if not is_remote(address):
        return LocalStore(local_path(address))
    scheme = address.partition("://")[0]
    check_address(address)
    store: Store = (STORES.load(scheme) if scheme in STORES else load(_FSSPEC))(address)
    return store


def open_bounded(address: str, links: Links = "follow", roots: tuple[str, ...] = ()) -> Store:
    """The store at an address; a local one keeps to bounds.

    Args:
        links: which links in it are followed.
        roots: folders beneath which it and its files are opened; none for no bounds.

    Raises:
        ImageloomError: as `open_store`.
    """
    if is_remote(address) or (links == "follow" and not roots):
        return open_store(address)
    return _open_local(address, links, roots)


@lru_cache(maxsize=64)
def _open_local(address: str, links: Links, roots: tuple[str, ...]) -> LocalStore:
    return LocalStore(local_path(address), links, roots)


def check_address(address: str) -> None:
    """Refuse an address that may hold credentials, without repeating it: it would be written down.

    Raises:
        UsageError: names what is to be done instead.
    """
    scheme, _, rest = address.partition("://")
    if re.match(r"[^/]*:(?!\d*(/|$)).*@", rest):  # a password may have a slash, a port is digits
        raise UsageError(
            f"an address holds no password: give {scheme}:// its credentials by the environment or its own files"
        )
    if "?" in rest or "#" in rest:
        raise UsageError(f"an address has no query and no fragment: {scheme}://.../ with a plain path")


def drop_kept(address: str) -> None:
    """Forget what was read ahead from a store."""
    for name in [name for name in kept if name[0] == address]:
        kept.pop(name, None)
