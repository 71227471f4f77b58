"""A local folder.

Outputs are staged in a hidden folder inside the sink, on the same file system, and published by a rename. So a
file is complete or does not exist. The next run removes what a killed run has staged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from imageloom.errors import (
    InvalidName,
    LimitExceeded,
    OutputExists,
    StorageError,
    UnreadableItem,
    UnwritableOutput,
    unwritable,
)
from imageloom.model import Failure, Item, Links, Unlisted
from imageloom.stores.files import (
    check_link,
    check_name,
    check_planned,
    check_regular,
    is_utf8,
    read_all,
    shown,
    size_within,
    write_file,
)
from imageloom.stores.flushing import Flusher, rename
from imageloom.stores.names import STAGING, check_output_name
from imageloom.stores.staging import StagingFolder, open_staging
from imageloom.system import disk, folders
from imageloom.system.beneath import READ, open_beneath
from imageloom.system.descriptors import patiently

KEPT_OPEN = 1.0
"""Seconds that a folder stays open for further outputs."""


class LocalStore:
    """A folder of the local file system.

    Args:
        address: path of the folder. It need not exist before an output is staged.
        links: which symbolic links are followed for reading.
        roots: folders that the folder and its files must be below; empty: no restriction.

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
        self._root = -1
        self._staging: StagingFolder | None = None
        self.own = ""
        self._publishing = threading.Lock()
        self._flusher: Flusher | None = None
        self._replaced: list[str] = []
        """Tokens of replaced folders, which are kept until the names of the new ones are flushed."""
        self._latest, self._latest_folder, self._latest_until = "", -1, 0.0
        """The last subfolder that an output was published into, while it is open."""

    def items(self, below: str = "") -> Iterator[Item | Unlisted]:
        """Yield all files, folder by folder. Links to files are followed, links to folders are not.

        Args:
            below: the subfolder to list, with a slash at its end; empty for all.
        """
        waiting = [below]
        while waiting:
            prefix = waiting.pop()
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
                            waiting.append(key + "/")
                            yield _unlisted(key, UnreadableItem("it is a folder, not a file"), is_folder=True)
                        else:
                            yield self._item(key, entry)
                    except OSError as error:
                        yield _unlisted(key, UnreadableItem(_reason(error, entry)))
                    except UnreadableItem as error:
                        yield _unlisted(key, error)

    def _scan(self, prefix: str, stack: contextlib.ExitStack) -> os._ScandirIterator[str]:
        """The entries of a folder, which is opened with the store's restrictions."""
        path = os.path.join(self.address, prefix)
        if self._links == "follow" and not self._roots:
            return patiently(lambda: os.scandir(path))
        within = (self.address,) if prefix else self._roots
        folder = open_beneath(
            path.rstrip("/") or "/",
            os.O_RDONLY | os.O_DIRECTORY,
            within,
            follow=not prefix,
            outer=self._roots,
        )
        stack.callback(os.close, folder)
        return patiently(lambda: os.scandir(folder))

    def _item(self, key: str, entry: os.DirEntry[str]) -> Item | Unlisted:
        if not is_utf8(key):
            return _unlisted(key, InvalidName("its name is not UTF-8: rename it"))
        if entry.is_symlink():
            check_link(self._path(key), self.address, self._links)
            if entry.is_dir():
                return _unlisted(
                    key, UnreadableItem("it is a symbolic link to a folder, which is not followed")
                )
        if not entry.is_file():
            os.stat(os.path.join(self.address, key))  # a broken link is reported as such
            return _unlisted(key, UnreadableItem("it is no regular file"))
        found = entry.stat()
        return Item(key, found.st_size, found.st_mtime_ns)

    def open(self, key: str) -> int:
        """Open a file for reading; returns a file descriptor.

        Raises:
            OSError: the file cannot be opened, or its path has a link that is not followed.
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
                data = read_all(file, size)
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
            raise UnwritableOutput(f"cannot read the metadata of {key}: {error.strerror}") from None

    def feed(self) -> None:
        """None: the operating system reports the changes, see `driver.watch.changes`."""

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

    # Writing

    def root(self) -> int:
        """The open folder, created if it does not exist. It stays open until `tidy`."""
        if self._root < 0:
            os.makedirs(self.address, exist_ok=True)
            self._root = open_beneath(self.address, os.O_RDONLY | os.O_DIRECTORY, self._roots)
        return self._root

    def prepare(self, scratch: str = "") -> None:
        """Create the folder and its staging folder, and remove staged files of killed runs."""
        try:
            self._staging = self._staging or StagingFolder(self.root(), self.address, own=self.own)
            self._staging.sweep()
        except OSError as error:
            self.close()
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"cannot write to {self.address}: {error.strerror}") from None

    def tidy(self) -> None:
        """Remove the staging folder."""
        if self._staging:
            with contextlib.suppress(OSError):
                self._staging.remove()
        self.close()

    def close(self) -> None:
        """Close the folder, if it is open."""
        if self._staging:
            self._staging.close()
        self._leave()
        if self._root >= 0:
            os.close(self._root)
        self._staging, self._root, self._flusher = None, -1, None

    def staging(self, token: str) -> str:
        """The path of staged bytes."""
        return os.path.join(self.address, STAGING, token)

    def stage(self, token: str, data: bytes) -> None:
        try:
            folder = self._staging.folder if self._staging else open_staging(self.address, self._roots)
            try:
                folders.write_in(folder, _single(token), data)
            finally:
                if not self._staging:
                    os.close(folder)
        except OSError as error:
            raise self._unwritable(error) from None

    def stage_folder(self, token: str, files: Mapping[str, bytes]) -> None:
        """Stage a folder: `files` maps relative paths to contents."""
        try:
            with self._open_staging() as staging:
                folders.write_folder(staging, _single(token), files)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UnwritableOutput:
        return unwritable(f"cannot write to {self.address}/{STAGING}", error)

    def _open_staging(self) -> contextlib.AbstractContextManager[int]:
        """The open staging folder: prepared by this store, or opened by a worker."""
        if self._staging:
            return contextlib.nullcontext(self._staging.folder)
        return self._found_staging()

    @contextlib.contextmanager
    def _found_staging(self) -> Iterator[int]:
        folder = open_staging(self.address, self._roots)
        try:
            yield folder
        finally:
            os.close(folder)

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        """Do nothing: a local output gets its name when it is published."""

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> int:
        folder, _, name = check_output_name(key).rpartition("/")
        try:
            with self._open_staging() as staging, self._publishing:
                written, replaced = rename(_single(token), staging, name, self._folder(folder), replace)
                if self._flusher and replaced:
                    self._replaced.append(replaced)
                elif replaced:
                    folders.remove(replaced, staging)
                return written
        except FileExistsError:
            raise OutputExists(
                f"its output {key} has appeared meanwhile and was not made by imageloom (--if-exists skip or "
                "overwrite)"
            ) from None
        except OSError as error:
            with self._publishing:
                self._leave()  # it may have been deleted
            raise unwritable(f"cannot publish {key}", error) from None

    def _folder(self, folder: str) -> int:
        """The open folder for outputs, created if it does not exist. Links in the sink are not followed.

        It stays open for the next outputs, but only for a short time: the folder may be replaced.
        """
        if not folder:
            return self.root()
        now = time.monotonic()
        if folder == self._latest and now < self._latest_until:
            return self._latest_folder
        self._leave()
        try:
            self._latest_folder = folders.open_below(self.root(), folder, make=True)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise UnwritableOutput(
                    f"cannot publish into {folder}: it is a symbolic link, or not a folder"
                ) from None
            raise
        self._latest, self._latest_until = folder, now + KEPT_OPEN
        return self._latest_folder

    def _leave(self) -> None:
        if self._latest:
            os.close(self._latest_folder)
        self._latest = ""

    def discard(self, token: str) -> None:
        with contextlib.suppress(OSError), self._open_staging() as staging:
            folders.remove(_single(token), staging)

    def flushes_all_at(self, path: str) -> bool:
        """Whether a flush of outputs also flushes the name of another folder, given by its path."""
        return disk.flushes_at_once(self.root()) and os.fstat(self.root()).st_dev == os.stat(path).st_dev

    def flush(self, tokens: Sequence[str], keys: Sequence[str]) -> None:
        """Flush the content of staged outputs and the names of published ones to the disk.

        From the first call on, a folder that is replaced is removed only after its successor's name is flushed.

        Raises:
            UnwritableOutput: the disk reported an error. Any of the outputs may be incomplete after a power cut.
        """
        self._flusher = self._flusher or Flusher(self.root(), self.address)
        replaced, self._replaced = self._replaced, []
        try:
            self._flusher.flush([_single(token) for token in tokens], keys)
        except OSError as error:
            raise unwritable(f"cannot flush {self.address} to the disk", error) from None
        for token in replaced:
            self.discard(token)

    # In place

    def take_over(self, token: str, item: Item) -> tuple[Item, int]:
        """Copy the attributes of the item's file to the staged output.

        Returns:
            The item as it will be after the replacement, and the time of the last change of the file that it
            will replace: see `check_unchanged`.

        Raises:
            UnreadableItem: the file was changed after it was read.
            OutputExists: the file has other hard links, which would keep the old content.
            UnwritableOutput: an attribute of the file cannot be kept.
        """
        from imageloom.stores import attributes  # few runs work in place

        folder, _, name = item.key.rpartition("/")
        try:
            with self._open_staging() as staging, self._publishing:
                at = self._folder(folder)
                found, made = attributes.take_over(_single(token), staging, name, at, item.fingerprint)
        except OSError as error:
            raise unwritable(f"cannot replace {item.key}", error) from None
        return Item(item.key, made.st_size, made.st_mtime_ns), found.st_ctime_ns

    def check_unchanged(self, key: str, changed: int) -> None:
        """Check that a file is as `take_over` has seen it: its content, its attributes and its names.

        Raises:
            UnreadableItem: it was changed or deleted.
        """
        try:
            if os.lstat(self._path(key)).st_ctime_ns == changed:
                return
        except OSError:
            pass
        raise UnreadableItem("the file was changed after it was read")

    def check_alone(self, key: str) -> None:
        """Raise OutputExists if a file is a link or has more than one hard link."""
        from imageloom.stores import attributes

        with contextlib.suppress(OSError):
            attributes.check_alone(os.lstat(self._path(key)))

    def _path(self, key: str) -> str:
        return f"{self.address}/{key}"


def _single(token: str) -> str:
    """Check that a token is a plain name and not a path."""
    if "/" in token or token in ("", ".", ".."):
        raise UnwritableOutput(f"{token[:100]!r} is not the name of a staged file")
    return token


def _unlisted(key: str, error: Exception, is_folder: bool = False) -> Unlisted:
    return Unlisted(shown(key), Failure.of(error), is_folder)


def _reason(error: OSError, entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "it is a broken symbolic link"
    if error.errno == errno.ELOOP:
        return "it is a symbolic link that points to itself"
    return f"cannot read it: {error.strerror}"
