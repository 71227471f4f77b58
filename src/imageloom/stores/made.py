"""Outputs that are in a store already: whether they are still as imageloom made them, and their removal."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from imageloom.errors import StorageError, UsageError
from imageloom.model import Plain
from imageloom.stores.local import LocalStore
from imageloom.system import folders

_CHUNK = 1 << 20


@runtime_checkable
class Marked(Protocol):
    """A remote store whose files carry the mark of the item that they were made from, until they are replaced."""

    def marked_size(self, key: str, maker: str) -> int | None:
        """The size of a file in bytes; None if there is no such file, -1 if it has not the mark of this maker."""

    def delete(self, key: str) -> None:
        """Delete a file."""


class Made(Plain, frozen=True):
    """An output, as the ledger knows it."""

    name: str
    maker: str
    """Identifies the item that it was made from; see `Store.commit`."""
    size: int
    mtime_ns: int
    """When it was written; 0 if the ledger does not know it."""


def check_removes(store: object, address: str) -> None:
    """Raise a UsageError if outputs cannot be removed from a store."""
    if not isinstance(store, (LocalStore, Marked)):
        raise UsageError(
            f"--prune needs a sink in a local folder or an object store: {address} does not say whether a file is "
            "still the one that imageloom wrote"
        )


def why_kept(store: object, made: Made, remove: bool = False) -> str | None:
    """Why an output must be kept: it is not as it was written. None if it may be removed, or does not exist.

    Args:
        remove: remove it, if it may be.

    Raises:
        StorageError: the store cannot be asked, or the output cannot be removed.
    """
    if isinstance(store, LocalStore):
        return _local(store, made, remove)
    assert isinstance(store, Marked)
    size = store.marked_size(made.name, made.maker)
    if size is None:
        return None
    if size != made.size:
        return "it was changed since"
    if remove:
        store.delete(made.name)
    return None


def _local(store: LocalStore, made: Made, remove: bool) -> str | None:
    folder, _, name = made.name.rpartition("/")
    try:
        with _opened(store.address, folder) as at:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                return "it is a folder"
            if not made.mtime_ns:
                return "it was written by an earlier version, which did not record when"
            if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns) != (
                made.size,
                made.mtime_ns,
            ):
                return "it was changed since"
            if remove:
                os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return "its folder is a link, or a file"
    except OSError as error:
        raise StorageError(f"cannot remove {made.name} from {store.address}: {error.strerror}") from None
    return None


def equal_file(store: LocalStore, token: str, key: str) -> int | None:
    """The modification time, in nanoseconds, of an existing file that has the bytes of a staged one; None if there
    is no such file. A folder or a link is none."""
    folder, _, name = key.rpartition("/")
    try:
        with _opened(store.address, folder) as at:
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                return None  # `open` does not close the descriptor of a folder
            with (
                open(folders.open_in(name, at), "rb") as old,
                open(folders.open_file(store.staging(token), os.O_RDONLY), "rb") as new,
            ):
                found = os.fstat(old.fileno())
                if not stat.S_ISREG(found.st_mode):
                    return None
                while (chunk := new.read(_CHUNK)) == old.read(_CHUNK):
                    if not chunk:
                        return found.st_mtime_ns
    except OSError:
        pass
    return None


@contextlib.contextmanager
def _opened(root: str, folder: str) -> Iterator[int]:
    """The open subfolder of a folder. No part below the folder may be a link."""
    above = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        at = folders.open_below(above, folder)
        try:
            yield at
        finally:
            os.close(at)
    finally:
        os.close(above)
