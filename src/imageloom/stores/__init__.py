"""Stores: storage by address, one module per family, imported when needed.

A path or `file://` is a local folder. `s3://`, `gs://` and `az://` are object stores, `gdrive://` is Google
Drive. All other schemes are those of installed plug-ins and of fsspec. An address never contains a password: each
family finds its credentials in the usual way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

from imageloom.errors import UnwritableOutput, UsageError
from imageloom.model import Item, Links, Relay, Unlisted
from imageloom.stores.local import LocalStore
from imageloom.system.registry import Registry, load

OBJECTS = ("s3", "gs", "az", "memory")
"""The schemes of object stores. `memory` is in the memory of this process, for tests."""

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

kept: dict[tuple[str, Item], bytes] = {}
"""Files that were read ahead, for the workers of this process, by the address of their store."""


class Feed(Protocol):
    """Reports the changes in a store since the feed was created."""

    def take(self) -> list[str] | None:
        """The keys that changed since the last call; None if the whole store must be listed.

        Raises:
            StorageError: the store cannot be asked.
        """


class Store(Protocol):
    """A folder in a local or remote storage. Keys are relative paths with forward slashes.

    A worker stages each output of an item under a token. When all outputs are staged, it commits them. Then the
    driver publishes them. Local files get their names when they are published, by a rename. Remote files get
    their names when they are committed: an upload is atomic, and a second upload would double the work.
    """

    address: str
    """The address, as in the ledger and in tasks."""
    is_local: bool
    """Whether files have paths on this machine. If not, each request is a round trip."""
    creates: bool
    """Whether a commit without `replace` is atomic: it fails if the name exists, so no check before is needed."""

    def items(self) -> Iterator[Item | Unlisted]:
        """Yield all files as they are found. A name that cannot be an item is an `Unlisted` with the reason."""

    def feed(self) -> Feed | None:
        """A feed of changes; None if the store can only be listed. List the store after creating the feed.

        Raises:
            StorageError: the store cannot be asked.
        """

    def find(self, key: str) -> Item | None:
        """The item with this key; None if there is none."""

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        """Read a file.

        Raises:
            LimitExceeded: the file has more than `limit` bytes.
            UnreadableItem: it cannot be read, or is not the `planned` version.
        """

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        """Read `length` bytes of a file from position `start`, or fewer at its end."""

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        """Copy a file to a local path. Raises the same errors as `read`."""

    def path(self, key: str) -> str | None:
        """The local path of a file; None for remote stores."""

    def size(self, key: str) -> int | None:
        """The size of a file in bytes; None if it does not exist."""

    def exists(self, key: str) -> bool:
        """Whether anything with this name exists."""

    def place(self, folder: str) -> str:
        """The real path or address of a folder: the same for all names of the folder."""

    def link(self, key: str) -> str | None:
        """The real path that a link points to; None if the key is not a link."""

    def prepare(self, scratch: str) -> None:
        """Prepare the store for writing.

        Args:
            scratch: path of a folder for temporary files; empty: the store chooses one.

        Raises:
            StorageError: the store cannot be written to.
        """

    def tidy(self) -> None:
        """Remove what `prepare` has created."""

    def staging(self, token: str) -> str:
        """The local path at which an output can be made before it is published. Only after `prepare`."""

    def stage(self, token: str, data: bytes) -> None:
        """Stage bytes under a token, invisible to readers of the sink."""

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        """Commit staged bytes as an output.

        Args:
            maker: identifies the item that the output is made from.
            replace: whether it may replace an existing file that was made from another item.

        Raises:
            OutputExists: such a file exists, and `replace` is False.
            UnwritableOutput: the output cannot be written.
        """

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> int | None:
        """Give a committed output, or one that was made at `staging`, its name in one atomic step.

        If a folder replaces an existing folder, the old folder is moved away just before.

        Returns:
            The modification time of a local file in nanoseconds; None for a remote one.
        """

    def discard(self, token: str) -> None:
        """Delete staged bytes, if there are any."""


def stage(store: Store, token: str, data: bytes | Mapping[str, bytes]) -> int:
    """Stage a file, or a folder as a mapping of relative paths to contents. Returns the total size in bytes."""
    if isinstance(data, bytes):
        store.stage(token, data)
        return len(data)
    if not isinstance(store, LocalStore):
        raise UnwritableOutput(f"{store.address} has no folders")
    store.stage_folder(token, data)
    return sum(map(len, data.values()))


def is_remote(address: str) -> bool:
    """Whether an address is that of a remote store."""
    return "://" in address and not address.startswith("file://")


def local_path(address: str) -> str:
    """The path of a local address."""
    return unquote(address.removeprefix("file://")) if address.startswith("file://") else address


@lru_cache(maxsize=64)
def open_store(address: str) -> Store:
    """Open the store at an address.

    Raises:
        UsageError: the address contains a password or a query, its scheme is unknown, or the scheme's plug-in
            cannot be loaded.
        MissingExtra: the library for the scheme is not installed.
        StorageError: the store cannot be used.
    """
    if not is_remote(address):
        return LocalStore(local_path(address))
    scheme = address.partition("://")[0]
    check_address(address)
    store: Store = (STORES.load(scheme) if scheme in STORES else load(_FSSPEC))(address)
    return store


def open_bounded(
    address: str, links: Links = "follow", roots: tuple[str, ...] = (), relay: Relay | None = None
) -> Store:
    """Open the store at an address, with restrictions for a local store.

    Args:
        links: which symbolic links are followed.
        roots: folders that the store and its files must be below; empty: no restriction.
        relay: what the connection needs, if the address is that of a relay.

    Raises:
        ImageloomError: see `open_store`.
    """
    if relay is not None and address.startswith("relay://"):
        from imageloom.stores.relay import open_relay  # few runs have one

        return open_relay(address, relay)
    if is_remote(address) or (links == "follow" and not roots):
        return open_store(address)
    return _open_local(address, links, roots)


@lru_cache(maxsize=64)
def _open_local(address: str, links: Links, roots: tuple[str, ...]) -> LocalStore:
    return LocalStore(local_path(address), links, roots)


def check_address(address: str) -> None:
    """Refuse an address that may contain credentials. The message does not repeat it, because it may be logged.

    Raises:
        UsageError: says what to do instead.
    """
    scheme, _, rest = address.partition("://")
    if re.match(r"[^/]*:(?!\d*(/|$)).*@", rest):  # a password may contain a slash; a port has only digits
        raise UsageError(
            f"an address must not contain a password: give the credentials of {scheme}:// in environment "
            "variables or in its configuration files"
        )
    if "?" in rest or "#" in rest:
        raise UsageError(f"an address must not contain '?' or '#': give {scheme}:// with a plain path")


def drop_kept(address: str) -> None:
    """Drop the files that were read ahead from a store."""
    for name in [name for name in kept if name[0] == address]:
        kept.pop(name, None)
