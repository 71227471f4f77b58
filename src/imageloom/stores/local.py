"""A local folder.

Outputs are staged in a hidden folder of the sink's own, on the same file system, and published by a rename:
a file is there whole or not at all. What a killed run has staged is swept away by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from imageloom.errors import (
    InvalidName,
    LimitExceeded,
    StorageError,
    UnreadableItem,
    UnwritableOutput,
)
from imageloom.model import Failure, Item, Links, Unlisted
from imageloom.stores.beneath import FOLDER, READ, open_beneath, path_of

STAGING = ".imageloom"
"""The hidden folder that staged outputs lie in."""
_MOST_READ = 1 << 30
"""Bytes that are asked for at once: the system gives no more than twice as many."""


class LocalStore:
    """A folder of the local file system.

    Args:
        address: its path. It need not be there before something is staged.
        links: which links in it are followed to be read.
        roots: folders beneath which it and its files are opened; none for no bounds.

    Raises:
        StorageError: the path is not UTF-8.
    """

    is_local = True
    creates = False

    def __init__(self, address: str, links: Links = "follow", roots: tuple[str, ...] = ()) -> None:
        self.address = os.path.abspath(address)
        self._links = links
        self._roots = roots
        check_name(self.address)
        self._folders: set[str] = set()

    def items(self, below: str = "") -> Iterator[Item | Unlisted]:
        """All files below, folder by folder; links to files are followed, links to folders are not.

        Args:
            below: the folder to begin at, with a slash at its end; empty for all.
        """
        folders = [below]
        while folders:
            prefix = folders.pop()
            with contextlib.ExitStack() as stack:
                try:
                    entries = stack.enter_context(self._scan(prefix, stack))
                except OSError as error:
                    if not prefix:
                        raise StorageError(f"cannot list {self.address}: {error.strerror}") from None
                    yield _unlisted(prefix, UnreadableItem(f"cannot list the folder: {error.strerror}"))
                    continue
                for entry in entries:
                    key = prefix + entry.name
                    if entry.name.startswith("."):
                        continue
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(key + "/")
                            yield _unlisted(key, UnreadableItem("it is a folder, not a file"), is_folder=True)
                        else:
                            yield self._item(key, entry)
                    except OSError as error:
                        yield _unlisted(key, UnreadableItem(_reason(error, entry)))
                    except UnreadableItem as error:
                        yield _unlisted(key, error)

    def _scan(self, prefix: str, stack: contextlib.ExitStack) -> os._ScandirIterator[str]:
        """The entries of a folder, which itself is opened within the bounds."""
        path = os.path.join(self.address, prefix)
        if self._links == "follow" and not self._roots:
            return os.scandir(path)
        within = (self.address,) if prefix else self._roots
        folder = open_beneath(
            path.rstrip("/") or "/",
            os.O_RDONLY | os.O_DIRECTORY,
            within,
            follow=not prefix,
            outer=self._roots,
        )
        stack.callback(os.close, folder)
        return os.scandir(folder)

    def _item(self, key: str, entry: os.DirEntry[str]) -> Item | Unlisted:
        if not _is_utf8(key):
            return _unlisted(key, InvalidName("its name is not UTF-8: rename it"))
        if entry.is_symlink():
            check_link(self._path(key), self.address, self._links)
            if entry.is_dir():
                return _unlisted(key, UnreadableItem("it is a link to a folder, which is not followed"))
        if not entry.is_file():
            os.stat(os.path.join(self.address, key))  # a broken link says so
            return _unlisted(key, UnreadableItem("it is no regular file"))
        found = entry.stat()
        return Item(key, found.st_size, found.st_mtime_ns)

    def open(self, key: str) -> int:
        """A descriptor of a file, to read from.

        Raises:
            OSError: it cannot be opened, or a link is in the way that is not followed.
        """
        path = self._path(key)
        if self._links == "follow":
            return open_beneath(path, READ, self._roots)
        follow = self._links == "inside"
        return open_beneath(path, READ, (self.address,), follow=follow, outer=self._roots)

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        try:
            file = self.open(key)
            try:
                size = check_regular(file).st_size
                if size > limit:
                    raise LimitExceeded(
                        f"the file is {size:,} bytes, over the limit of {limit:,} (--max-file-size)"
                    )
                data = _read_all(file, size)
                if planned:
                    check_planned(file, planned)
                return data
            finally:
                os.close(file)
        except OSError as error:
            raise UnreadableItem(f"cannot read it: {error.strerror}") from None

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        try:
            file = self.open(key)
            try:
                return os.pread(file, length, start)
            finally:
                os.close(file)
        except OSError as error:
            raise UnreadableItem(f"cannot read it: {error.strerror}") from None

    def size(self, key: str) -> int | None:
        try:
            found = os.stat(self._path(key))
            return size_within(self._path(key)) if stat.S_ISDIR(found.st_mode) else found.st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                return None
            raise UnwritableOutput(f"cannot look at {key}: {error.strerror}") from None

    def feed(self) -> None:
        """The system tells of its changes: see `watch.changes`."""

    def find(self, key: str) -> Item | None:
        path = self._path(key)
        try:
            if self._links != "follow" and os.path.islink(path):
                check_link(path, self.address, self._links)
            found = os.stat(path)
        except OSError:
            return None
        return Item(key, found.st_size, found.st_mtime_ns)

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        write_file(path, self.read(key, limit, planned))

    def path(self, key: str) -> str:
        return self._path(key)

    def exists(self, key: str) -> bool:
        return os.path.lexists(self._path(key))

    def place(self, folder: str) -> str:
        return os.path.realpath(self._path(folder))

    def link(self, key: str) -> str | None:
        path = self._path(key)
        return os.path.realpath(path) if os.path.islink(path) else None

    def stage(self, token: str, data: bytes) -> None:
        write_file(self.staging(token), data, self._roots)

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        """Nothing is to be done before it is published."""

    def staging(self, token: str) -> str:
        """The path of staged bytes."""
        return os.path.join(self.address, STAGING, token)

    def staged(self, token: str, key: str) -> Item:
        """Staged bytes as the item that they will be under a key."""
        found = os.stat(self.staging(token))
        return Item(key, found.st_size, found.st_mtime_ns)

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        folder = key.rpartition("/")[0]
        try:
            if folder and folder not in self._folders:
                os.makedirs(self._path(folder), exist_ok=True)
                self._folders.add(folder)
            if os.path.isdir(self.staging(token)) and os.path.lexists(self._path(key)):
                self._put_in_place_of(token, key)
            else:
                os.replace(self.staging(token), self._path(key))
        except OSError as error:
            self._folders.discard(folder)
            raise UnwritableOutput(f"cannot publish {key}: {error.strerror}") from None

    def _put_in_place_of(self, token: str, key: str) -> None:
        """Publish a folder under a name that is taken: a rename alone does not take the place of a folder."""
        old = self.staging(f"{token}.old")
        os.rename(self._path(key), old)
        try:
            os.rename(self.staging(token), self._path(key))
        except OSError:
            os.rename(old, self._path(key))
            raise
        _discard(old)

    def discard(self, token: str) -> None:
        _discard(self.staging(token))

    def prepare(self, scratch: str = "") -> None:
        """Make the folder and its staging folder, and sweep away what a killed run has staged."""
        staging = os.path.join(self.address, STAGING)
        try:
            _remove(staging)
            os.makedirs(staging, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write to {self.address}: {error.strerror}") from None

    def tidy(self) -> None:
        """Remove the staging folder."""
        _remove(os.path.join(self.address, STAGING))

    def _path(self, key: str) -> str:
        return f"{self.address}/{key}"


def check_regular(file: int) -> os.stat_result:
    """What the system says of an open file.

    Raises:
        UnreadableItem: it is a folder, a device or the like.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableItem("it is no regular file")
    return found


def check_planned(file: int, planned: Item) -> None:
    """Refuse an open file that is another one than was planned, or was written to since.

    Raises:
        UnreadableItem: says by what it is known.
    """
    found = check_regular(file)
    if found.st_mtime_ns != planned.mtime_ns or found.st_size != planned.size:
        planned.check(Item(planned.key, found.st_size, found.st_mtime_ns))


def check_link(path: str, root: str, links: Links) -> None:
    """Refuse a link in a source that is not to be followed.

    Raises:
        UnreadableItem: says why.
    """
    if links == "refuse":
        raise UnreadableItem("it is a link, which is not followed (--links refuse)")
    if links == "inside":
        bound = os.path.realpath(root).rstrip("/")
        if not os.path.realpath(path).startswith(f"{bound}/"):
            raise UnreadableItem(f"it is a link that leads out of {root} (--links inside)")


def _read_all(file: int, size: int) -> bytes:
    """All bytes of a file that has so many."""
    parts, left = [], size + 1  # one more: it may be growing
    while left > 1 and (part := os.read(file, min(left, _MOST_READ))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise UnreadableItem("it was written to while it was read")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_file(path: str, data: bytes, roots: tuple[str, ...] = ()) -> None:
    """Write a file as a whole, or raise UnwritableOutput and leave none.

    Args:
        roots: folders beneath which it lies; none for no bounds.
    """

    def opener(path: str, flags: int) -> int:
        return open_beneath(path, flags, roots, mode=0o666)

    try:
        with open(path, "wb", buffering=0, opener=opener if roots else None) as file:
            written = file.write(data)
            while written < len(data):
                written += file.write(data[written:])
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise UnwritableOutput(f"cannot write to {os.path.dirname(path)}: {error.strerror}") from None


def write_folder(path: str, files: Mapping[str, bytes], roots: tuple[str, ...] = ()) -> None:
    """Write the files of a new folder, by their paths within it, or raise UnwritableOutput and leave none.

    Args:
        roots: as of `write_file`.
    """
    parent, name = os.path.split(path)
    try:
        with folder_of(parent, roots) as opened:
            folder = opened / name
            for key, data in files.items():
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                (folder / key).write_bytes(data)
    except OSError as error:
        _discard(path)
        raise UnwritableOutput(f"cannot write to {parent}: {error.strerror}") from None


@contextlib.contextmanager
def folder_of(path: str, roots: tuple[str, ...]) -> Iterator[Path]:
    """A path that leads to a folder beneath one of the roots, whatever becomes of its own meanwhile."""
    if not roots:
        yield Path(path)
        return
    folder = open_beneath(path, FOLDER, roots)
    try:
        yield Path(path_of(folder))
    finally:
        os.close(folder)


def _remove(staging: str) -> None:
    """Remove a staging folder, as far as that can be done, with what a late worker stages meanwhile."""
    for _ in range(100):
        try:
            for name in os.listdir(staging):
                _discard(os.path.join(staging, name))
            os.rmdir(staging)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                continue
        return


def _discard(path: str) -> None:
    """Remove a file or a folder, as far as that can be done."""
    try:
        os.unlink(path)
    except IsADirectoryError:
        import shutil  # few outputs are folders

        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def size_within(path: str) -> int:
    """The bytes of a file, or of all files below a folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def _unlisted(key: str, error: Exception, is_folder: bool = False) -> Unlisted:
    return Unlisted(_shown(key), Failure.of(error), is_folder)


def check_name(path: str) -> None:
    """Raise a StorageError where a path is not UTF-8: neither the ledger nor a task could hold it."""
    if not _is_utf8(path):
        raise StorageError(f"the name of {_shown(path)} is not UTF-8: rename it")


def _is_utf8(name: str) -> bool:
    return _shown(name) == name


def _shown(name: str) -> str:
    """A name with its bytes that are not UTF-8 written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _reason(error: OSError, entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "it is a broken link"
    if error.errno == errno.ELOOP:
        return "it is a link that leads to itself"
    return f"cannot read it: {error.strerror}"
