"""Files in folders that other users may be able to change: no link is followed when a file is made.

In a path, links are followed up to the parent of the file's folder. The folder and the file must not be links. A
file descriptor instead of a path always means the same folder, even if the folder is renamed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from io import BufferedWriter

from imageloom.system import descriptors
from imageloom.system.beneath import open_beneath

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a folder that is not a link."""
NEW = os.O_CREAT | os.O_EXCL
_NO_REPLACE = 1
"""RENAME_NOREPLACE of renameat2(2)."""
_PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Flags for not following links and not waiting for pipes."""


def open_file(path: str, flags: int, mode: int = 0o666, roots: tuple[str, ...] = ()) -> int:
    """Open or create a file. The file and its folder must not be links.

    Args:
        flags: see `os.open`; with `NEW` the file must not exist.
        mode: mode of a new file, before the umask.
        roots: folders that the file must be below; empty: no restriction.

    Raises:
        OSError: the file cannot be opened.
    """
    folder, name = os.path.split(path)
    at = open_beneath(folder or ".", FOLDER, roots)
    try:
        return descriptors.open_file(name, flags | _PLAIN, mode, dir_fd=at)
    finally:
        os.close(at)


def create(path: str) -> BufferedWriter:
    """Create a file for writing. An existing file is replaced."""
    folder, name = os.path.split(path)
    at = descriptors.open_file(folder or ".", FOLDER)
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=at)
        return open(make_file(name, at), "wb")
    finally:
        os.close(at)


def open_in(name: str, folder: int) -> int:
    """Open a file in an open folder for reading. It must not be a link."""
    return descriptors.open_file(name, os.O_RDONLY | _PLAIN, dir_fd=folder)


def open_to_write(name: str, folder: int) -> int:
    """Open an existing file in an open folder for writing. It must not be a link."""
    return descriptors.open_file(name, os.O_WRONLY | _PLAIN, dir_fd=folder)


def make_file(name: str, folder: int, mode: int = 0o666) -> int:
    """Create a file for writing in an open folder."""
    return descriptors.open_file(name, os.O_WRONLY | NEW | _PLAIN, mode, dir_fd=folder)


def write(file: int, data: bytes) -> None:
    """Write all bytes and close the file."""
    try:
        written = os.write(file, data)
        while written < len(data):
            written += os.write(file, memoryview(data)[written:])
    finally:
        os.close(file)


def write_file(path: str, data: bytes, roots: tuple[str, ...] = ()) -> None:
    """Write a new file. On OSError no file remains.

    Args:
        roots: see `open_file`.
    """
    folder, name = os.path.split(path)
    at = open_beneath(folder or ".", FOLDER, roots)
    try:
        write_in(at, name, data)
    finally:
        os.close(at)


def write_in(folder: int, name: str, data: bytes) -> None:
    """Write a new file in an open folder. On OSError no file remains."""
    file = make_file(name, folder)
    try:
        write(file, data)
    except OSError:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise


def write_folder(folder: int, name: str, files: Mapping[str, bytes]) -> None:
    """Write a new folder in an open folder; `files` maps relative paths to contents. On OSError nothing stays."""
    os.mkdir(name, dir_fd=folder)
    try:
        for path, data in files.items():
            above, _, last = f"{name}/{path}".rpartition("/")
            at = open_below(folder, above, make=True)
            try:
                write_in(at, last, data)
            finally:
                os.close(at)
    except OSError:
        remove(name, folder)
        raise


def open_below(folder: int, path: str, make: bool = False) -> int:
    """Open a folder below an open folder. No part of the path may be a link.

    Args:
        path: relative path without '..'; empty for the folder itself.
        make: create missing folders.
    """
    at = os.dup(folder)
    for name in filter(None, path.split("/")):
        above = at
        try:
            at = _make_folder(name, above) if make else descriptors.open_file(name, FOLDER, dir_fd=above)
        finally:
            os.close(above)
    return at


def _make_folder(name: str, above: int) -> int:
    try:
        return descriptors.open_file(name, FOLDER, dir_fd=above)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
        return descriptors.open_file(name, FOLDER, dir_fd=above)


def rename_new(name: str, folder: int, to: str, at: int) -> None:
    """Rename a file or a folder, in one step, to a name that must not exist.

    Args:
        folder: the open folder that has it.
        at: the open folder for the new name.

    Raises:
        FileExistsError: the name exists.
        OSError: it cannot be renamed.
    """
    if (call := _renameat2()) is not None:
        if not call(folder, os.fsencode(name), at, os.fsencode(to), _NO_REPLACE):
            return
        if (number := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), to)
    if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):  # an older file system
        os.link(name, to, src_dir_fd=folder, dst_dir_fd=at, follow_symlinks=False)
        os.unlink(name, dir_fd=folder)
        return
    os.mkdir(to, dir_fd=at)
    os.rename(name, to, src_dir_fd=folder, dst_dir_fd=at)  # replaces only an empty folder


@lru_cache(maxsize=1)
def _renameat2() -> Callable[..., int] | None:
    """The function of the C library; None if it has none."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def remove(name: str, folder: int) -> None:
    """Remove a file, or a folder with its contents, as far as possible. No link is followed."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):  # the error for a folder depends on the system
        import shutil  # few outputs are folders

        with suppress(OSError, RecursionError):
            shutil.rmtree(name, dir_fd=folder)
    except OSError:
        pass
