"""Files in folders that others may be able to change: a link is never followed where a file is made.

A path that is given here is followed up to its folder's parent; the folder itself and the file in it are no
links. A descriptor in the place of a path keeps to that very folder, whatever its name means by now.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedWriter

from imageloom.system.beneath import open_beneath

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a folder that is no link."""
NEW = os.O_CREAT | os.O_EXCL
_PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""Neither a link is followed, nor a pipe waited for."""


def open_file(path: str, flags: int, mode: int = 0o666, roots: tuple[str, ...] = ()) -> int:
    """Open or make a file that is no link, in a folder that is none.

    Args:
        flags: as of `os.open`; with `NEW` there must be nothing of that name.
        mode: of a new file, less the umask.
        roots: folders beneath which it lies; none for no bounds.

    Raises:
        OSError: as the system says.
    """
    folder, name = os.path.split(path)
    at = open_beneath(folder or ".", FOLDER, roots)
    try:
        return os.open(name, flags | _PLAIN, mode, dir_fd=at)
    finally:
        os.close(at)


def create(path: str) -> BufferedWriter:
    """A new file to be written to, in the place of one that is there."""
    folder, name = os.path.split(path)
    at = os.open(folder or ".", FOLDER)
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=at)
        return open(make_file(name, at), "wb")
    finally:
        os.close(at)


def make_file(name: str, folder: int, mode: int = 0o666) -> int:
    """A new file in an open folder, to be written to."""
    return os.open(name, os.O_WRONLY | NEW | _PLAIN, mode, dir_fd=folder)


def write(file: int, data: bytes) -> None:
    """Write all of the bytes, and close the file."""
    try:
        written = os.write(file, data)
        while written < len(data):
            written += os.write(file, memoryview(data)[written:])
    finally:
        os.close(file)


def write_file(path: str, data: bytes, roots: tuple[str, ...] = ()) -> None:
    """Write a new file, or raise OSError and leave none.

    Args:
        roots: as of `open_file`.
    """
    folder, name = os.path.split(path)
    at = open_beneath(folder or ".", FOLDER, roots)
    try:
        write_in(at, name, data)
    finally:
        os.close(at)


def write_in(folder: int, name: str, data: bytes) -> None:
    """Write a new file in an open folder, or raise OSError and leave none."""
    file = make_file(name, folder)
    try:
        write(file, data)
    except OSError:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise


def write_folder(folder: int, name: str, files: Mapping[str, bytes]) -> None:
    """Write a new folder in an open one, with files by their paths within it, or raise OSError and leave none."""
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
    """Open a folder below an open one; none on the way is a link.

    Args:
        path: relative, without '..'; empty for the folder itself.
        make: make those that are not there.
    """
    at = os.dup(folder)
    for name in filter(None, path.split("/")):
        above = at
        try:
            at = _make_folder(name, above) if make else os.open(name, FOLDER, dir_fd=above)
        finally:
            os.close(above)
    return at


def _make_folder(name: str, above: int) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=above)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
        return os.open(name, FOLDER, dir_fd=above)


def remove(name: str, folder: int) -> None:
    """Remove a file, or a folder with all in it, as far as that can be done; no link is followed."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):  # what it is for a folder depends on the system
        import shutil  # few outputs are folders

        with suppress(OSError, RecursionError):
            shutil.rmtree(name, dir_fd=folder)
    except OSError:
        pass
