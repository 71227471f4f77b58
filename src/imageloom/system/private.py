"""Folders and files that only this user can access: ledgers and timelines contain names of the user's files."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from imageloom.errors import StorageError

_making = threading.Lock()


def private_folder(path: Path) -> None:
    """Create a folder that only this user can access. An existing folder is closed to other users.

    Raises:
        StorageError: the folder belongs to another user.
        OSError: the folder cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _close_to_others(path)


def private_database(path: Path, has_own_folder: bool) -> None:
    """Create an empty SQLite file and its folder for this user only. Existing files are closed to other users.

    Args:
        has_own_folder: the folder contains nothing else, and is closed to other users too.

    Raises:
        StorageError: the file or the folder belongs to another user.
        OSError: the file or the folder cannot be created.
    """
    if has_own_folder:
        private_folder(path.parent)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _making, suppress(FileExistsError):  # closing a file would release this process's locks on it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for one in (
        path,
        Path(f"{path}-wal"),
        Path(f"{path}-shm"),
    ):  # SQLite gives new ones the mode of the database
        with suppress(FileNotFoundError):
            _close_to_others(one)


def _close_to_others(path: Path) -> None:
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise StorageError(
            f"{path} belongs to another user (UID {found.st_uid}), who could change it: choose another path"
        )
    if found.st_mode & 0o077:
        with suppress(OSError):  # owned by root, or on a file system without modes
            path.chmod(found.st_mode & 0o700)
