"""Folders that this program keeps for a while: what is staged in a sink, and the scratch of one run.

Both are held open. What is in them is reached by its name in the open folder, so that a link that somebody puts
in a folder's place leads nowhere; and only tokens are removed: a file of somebody else's stays.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from imageloom.errors import StorageError
from imageloom.stores.names import PROBE, STAGING, is_token
from imageloom.system import folders
from imageloom.system.beneath import open_beneath

SCRATCH = "imageloom-scratch-"
"""How the names of runs' scratch folders begin."""
MOST_TRIES = 100
"""To remove a staging folder that late workers write into."""
log = logging.getLogger(__name__)


class StagingFolder:
    """The staging folder of a sink.

    Args:
        sink: the open folder of the sink, which stays the caller's.
        address: its path, for messages.
        make: make the folder where there is none.

    Raises:
        StorageError: it is a link, no folder, or of another owner; or it cannot be used.
    """

    def __init__(self, sink: int, address: str, make: bool = True) -> None:
        self.path = os.path.join(address, STAGING)
        self._sink = sink
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(STAGING, dir_fd=sink)
            self.folder = os.open(STAGING, folders.FOLDER, dir_fd=sink)
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {_why(error, self.path)}") from None
        if not _is_ours(self.folder):
            self.close()
            raise StorageError(
                f"cannot write to {self.path}: it is of another owner: remove it, or run as that user"
            )

    def tokens(self) -> list[str]:
        return [name for name in os.listdir(self.folder) if is_token(name)]

    def others(self) -> list[str]:
        """Names of what this program has not put there."""
        return [name for name in os.listdir(self.folder) if not is_token(name)]

    def size(self) -> int:
        """Bytes on disk of what is staged."""
        return size_of_tokens(self.folder)

    def sweep(self) -> None:
        """Remove what was staged, as far as that can be done."""
        for name in self.tokens():
            folders.remove(name, self.folder)

    def remove(self) -> None:
        """Remove the folder, and what a late worker stages meanwhile; what is not ours stays."""
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
                    "%s stays: it holds %d files that imageloom has not made, as %r",
                    self.path,
                    len(others),
                    min(others),
                )
                return

    def close(self) -> None:
        os.close(self.folder)


def open_staging(sink: str, roots: tuple[str, ...] = ()) -> int:
    """The staging folder of a sink that a run has prepared, for a worker of it.

    Args:
        roots: folders beneath which it lies; none for no bounds.

    Raises:
        OSError: it is not there, or it is a link.
    """
    return open_beneath(f"{sink}/{STAGING}", folders.FOLDER, roots)


class ScratchFolder:
    """A folder of one run's own, in one that many may use. It is locked for as long as the run lives.

    Args:
        parent: path of the folder to make it in; empty for the system's.

    Raises:
        StorageError: it cannot be made.
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
        folder = os.open(path, folders.FOLDER)
        try:
            _lock(folder)
            folders.write_in(folder, PROBE, b"probe")
            os.unlink(PROBE, dir_fd=folder)
        except (FileNotFoundError, BlockingIOError):  # another run took it for abandoned just now
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
        pass  # a file system without locks: nobody will take the folder for abandoned


def abandoned(parent: str) -> Iterator[str]:
    """Paths of scratch folders of this user's whose runs are over."""
    with suppress(OSError):
        for name in os.listdir(parent):
            if name.startswith(SCRATCH):
                path = os.path.join(parent, name)
                if (folder := _take(path)) is not None:
                    os.close(folder)
                    yield path


def remove_abandoned(path: str) -> bool:
    """Remove an abandoned scratch folder; False where it is in use, or holds what is not ours."""
    if (folder := _take(path)) is None:
        return False
    _empty(folder, path)
    os.close(folder)
    return not os.path.lexists(path)


def _take(path: str) -> int | None:
    """The open scratch folder of a run that is over, locked; None where it is none."""
    try:
        folder = os.open(path, folders.FOLDER)
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
    """Bytes on disk of what lies in an open folder and is ours."""
    size = 0
    for name in os.listdir(folder):
        if is_token(name):
            with suppress(FileNotFoundError):
                size += os.stat(name, dir_fd=folder, follow_symlinks=False).st_blocks * 512
    return size


def _is_ours(folder: int) -> bool:
    """Whether a folder belongs to this user, or to whom its file system gives all that this user makes."""
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
    """Why a staging folder cannot be opened."""
    with suppress(OSError):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return "it is a link, which imageloom does not follow: remove it"
        if not stat.S_ISDIR(mode):
            return "it is no folder: remove it"
    return error.strerror or str(error)
