"""Temporary folders: the staging folder of a sink, and the scratch folder of a run.

Both are kept open, and files in them are accessed relative to the open folder. So replacing the folder by a link
has no effect. Only files with token names are removed; files of other programs are not.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol, runtime_checkable

from imageloom.errors import StorageError
from imageloom.stores.names import PROBE, STAGING, is_token, shard_of_lock
from imageloom.system import descriptors, folders
from imageloom.system.beneath import open_beneath


@runtime_checkable
class Staged(Protocol):
    """A store with a staging folder that all its runs share."""

    own: str
    """What the names of this run's staged files begin with, if other shards use the folder too; else empty."""


SCRATCH = "imageloom-scratch-"
"""Prefix of the names of scratch folders."""
MOST_TRIES = 100
"""Maximum number of attempts to remove a staging folder that late workers still write into."""
log = logging.getLogger(__name__)


class StagingFolder:
    """The staging folder of a sink.

    Args:
        sink: the open folder of the sink; the caller closes it.
        address: path of the sink, for messages.
        make: create the staging folder if it does not exist.
        own: only staged files whose names begin with it are removed: other shards use the folder, too.

    Raises:
        StorageError: it is a link, not a folder, belongs to another user, or cannot be used.
    """

    def __init__(self, sink: int, address: str, make: bool = True, own: str = "") -> None:
        self.path = os.path.join(address, STAGING)
        self._sink = sink
        self._own = own
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(STAGING, dir_fd=sink)
            self.folder = descriptors.open_file(STAGING, folders.FOLDER, dir_fd=sink)
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {_why(error, self.path)}") from None
        if not _is_ours(self.folder):
            self.close()
            raise StorageError(
                f"cannot write to {self.path}: it belongs to another user: remove it, or run as that user"
            )

    def tokens(self) -> list[str]:
        return [name for name in os.listdir(self.folder) if is_token(name)]

    def locks(self) -> list[str]:
        """Names of the files that shards lock."""
        return [name for name in os.listdir(self.folder) if shard_of_lock(name)]

    def others(self) -> list[str]:
        """Names of files that imageloom did not make."""
        return [name for name in os.listdir(self.folder) if not (is_token(name) or shard_of_lock(name))]

    def size(self) -> int:
        """Disk space of the staged files in bytes."""
        return size_of_tokens(self.folder)

    def sweep(self) -> None:
        """Remove all staged files, as far as possible."""
        for name in self.tokens():
            if name.startswith(self._own):
                folders.remove(name, self.folder)
        for name in [] if self._own else self.locks():
            folders.remove(name, self.folder)

    def remove(self) -> None:
        """Remove the folder with all staged files, including those of late workers. Other files stay. A shard
        removes only its own files."""
        if self._own:
            self.sweep()
            return
        for _ in range(MOST_TRIES):
            self.sweep()
            try:
                os.rmdir(STAGING, dir_fd=self._sink)
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    return
            if others := self.others():
                log.warning(
                    "%s is not removed: it contains %d files that imageloom did not make, such as %r",
                    self.path,
                    len(others),
                    min(others),
                )
                return

    def close(self) -> None:
        os.close(self.folder)


def open_staging(sink: str, roots: tuple[str, ...] = ()) -> int:
    """Open the staging folder that the driver has prepared in a sink. For workers.

    Args:
        roots: folders that it must be below; empty: no restriction.

    Raises:
        OSError: it does not exist, or is a link.
    """
    return open_beneath(f"{sink}/{STAGING}", folders.FOLDER, roots)


class ScratchFolder:
    """A temporary folder of one run, inside a shared folder. It is locked while the run lives.

    Args:
        parent: path of the folder to create it in; empty: the system's temporary folder.

    Raises:
        StorageError: it cannot be created.
    """

    def __init__(self, parent: str) -> None:
        import tempfile  # costs milliseconds that a run without scratch need not wait for

        parent = os.path.abspath(parent) if parent else tempfile.gettempdir()
        for left in abandoned(parent):
            remove_abandoned(left)
        try:
            self.path, self._folder = _make_locked(parent)
        except OSError as error:
            raise StorageError(f"cannot write to {parent}: {error.strerror} (--scratch)") from None

    def remove(self) -> None:
        _empty(self._folder, self.path)
        os.close(self._folder)


def _make_locked(parent: str) -> tuple[str, int]:
    import tempfile

    while True:
        path = tempfile.mkdtemp(prefix=SCRATCH, dir=parent)
        folder = descriptors.open_file(path, folders.FOLDER)
        try:
            _lock(folder)
            folders.write_in(folder, PROBE, b"probe")
            os.unlink(PROBE, dir_fd=folder)
        except (FileNotFoundError, BlockingIOError):  # another run has just removed it as abandoned
            os.close(folder)
        except OSError:
            os.close(folder)
            os.rmdir(path)
            raise
        else:
            return path, folder


def _lock(folder: int) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks: the folder is never regarded as abandoned


def abandoned(parent: str) -> Iterator[str]:
    """Paths of this user's scratch folders whose runs have ended."""
    with suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(SCRATCH):
                path = os.path.join(parent, name)
                if (folder := _take(path)) is not None:
                    os.close(folder)
                    yield path


def remove_abandoned(path: str) -> bool:
    """Remove an abandoned scratch folder; False if it is in use, or contains other files."""
    if (folder := _take(path)) is None:
        return False
    _empty(folder, path)
    os.close(folder)
    return not os.path.lexists(path)


def _take(path: str) -> int | None:
    """Open and lock the scratch folder of a run that has ended; None if it is not such a folder."""
    try:
        folder = descriptors.open_file(path, folders.FOLDER)
    except OSError:
        return None
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder
    except OSError:
        pass
    os.close(folder)
    return None


def _empty(folder: int, path: str) -> None:
    with suppress(OSError):
        for name in os.listdir(folder):
            if is_token(name):
                folders.remove(name, folder)
        os.rmdir(path)


def size_of_tokens(folder: int) -> int:
    """Disk space of the staged files in an open folder, in bytes."""
    size = 0
    for name in os.listdir(folder):
        if is_token(name):
            with suppress(FileNotFoundError):
                size += os.stat(name, dir_fd=folder, follow_symlinks=False).st_blocks * 512
    return size


def _is_ours(folder: int) -> bool:
    """Whether a folder belongs to this user, or to the user that its file system assigns to this user's files."""
    owner = os.fstat(folder).st_uid
    if owner == os.geteuid():
        return True
    try:
        file = folders.make_file(PROBE, folder)
    except OSError:
        return False
    try:
        return os.fstat(file).st_uid == owner
    finally:
        os.close(file)
        with suppress(OSError):
            os.unlink(PROBE, dir_fd=folder)


def _why(error: OSError, path: str) -> str:
    """The reason why a staging folder cannot be opened."""
    with suppress(OSError):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return "it is a symbolic link, which imageloom does not follow: remove it"
        if not stat.S_ISDIR(mode):
            return "it is not a folder: remove it"
    return error.strerror or str(error)
