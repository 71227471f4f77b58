"""Folders and files for this user alone: they say what was done to whose files, and what may be overwritten."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from imageloom.errors import StorageError

_making = threading.Lock()


def private_folder(path: Path) -> None:
    """Make a folder that this user alone may enter; one that is there is closed to others.

    Raises:
        StorageError: it is another user's.
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close_to_others(path)


def private_database(path: Path, has_own_folder: bool) -> None:
    """Make an empty file for SQLite and its folder, for this user alone; what is there is closed to others.

    Args:
        has_own_folder: nothing else lies in its folder, which is closed too.

    Raises:
        StorageError: it is another user's.
        OSError: it cannot be made.
    """
    if has_own_folder:
        private_folder(path.parent)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _making, suppress(FileExistsError):  # to close a file ends the locks that this process has on it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):  # SQLite makes new ones like the file
        with suppress(FileNotFoundError):
            _close_to_others(one)


def _close_to_others(path: Path) -> None:
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise StorageError(
            f"{path} belongs to another user (UID {found.st_uid}), who could change it: choose another path"
        )
    if found.st_mode & 0o077:
        with suppress(OSError):  # root's, or of a file system without modes
            path.chmod(found.st_mode & 0o700)
