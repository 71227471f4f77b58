"""Flushing to the disk: afterwards, a crash of the system or a power cut loses nothing of it.

One call of Linux flushes a whole file system, so that many files cost as much as one. It is used only where it
also reports every error: since Linux 5.8, and on local file systems that are known to write all that they have.
Elsewhere each file and each folder is flushed on its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress

from imageloom.system import folders

_AT_ONCE = ("btrfs", "ext3", "ext4", "f2fs", "tmpfs", "xfs")
"""Types of file systems whose `syncfs` waits until data and names are on the disk. Not: overlay, which does not
report the errors of the file system below; FUSE, which does not pass the call on; network file systems."""
_REPORTS_SINCE = (5, 8)
"""The version of Linux since which `syncfs` reports errors of earlier writing: see syncfs(2)."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)


def file_system(folder: int) -> str:
    """The type of the file system of an open folder, such as ext4; empty if it is not known.

    The number of the mount leads to it: numbers of devices do not, on btrfs.
    """
    try:
        with open(f"/proc/self/fdinfo/{folder}", encoding="ascii") as file:
            number = re.search(r"^mnt_id:\s*(\d+)", file.read(), re.MULTILINE)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                mount, _, kind = line.partition(" - ")
                if number and mount.split(" ", 1)[0] == number[1]:
                    return kind.split(" ", 1)[0]
    except OSError:
        pass
    return ""


def flushes_at_once(folder: int) -> bool:
    """Whether `flush_all` can be used for the file system of an open folder."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    return (
        platform.system() == "Linux"
        and version is not None
        and (int(version[1]), int(version[2])) >= _REPORTS_SINCE
        and file_system(folder) in _AT_ONCE
    )


def flush_all(folder: int) -> None:
    """Flush the whole file system of an open folder.

    An error is reported once for each opened file or folder, so use the same one each time, and open it before the
    files are written.

    Raises:
        OSError: the disk reported an error, perhaps of another program's file.
    """
    if ctypes.CDLL(None, use_errno=True).syncfs(folder) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def flush_folder(folder: int) -> None:
    """Flush the names in an open folder, if its file system supports that.

    Raises:
        OSError: the disk reported an error.
    """
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def flush_names(path: str) -> None:
    """Flush the name of a folder, and the names of the folders above it, as far as this user may open them.

    Args:
        path: absolute path.

    Raises:
        OSError: the disk reported an error.
    """
    while path != (path := os.path.dirname(path)):
        with suppress(PermissionError):
            above = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                flush_folder(above)
            finally:
                os.close(above)


def flush_files(names: Iterable[str], folder: int) -> None:
    """Flush files in an open folder. A name may be that of a folder: then all that is in it. No link is followed.

    Raises:
        OSError: a file does not exist, or the disk reported an error.
    """
    for name in names:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            if os.path.isdir(file):
                flush_files(os.listdir(file), file)
                flush_folder(file)
            else:
                os.fsync(file)
        finally:
            os.close(file)


def flush_below(paths: Iterable[str], folder: int) -> None:
    """Flush the names of files below an open folder: all folders that lead to them.

    Args:
        paths: relative paths of the files.

    Raises:
        OSError: a folder does not exist, or the disk reported an error.
    """
    wanted = set()
    for path in paths:
        while path:
            path = path.rpartition("/")[0]
            wanted.add(path)
    for path in sorted(wanted, reverse=True):  # what is deeper first
        opened = folders.open_below(folder, path)
        try:
            flush_folder(opened)
        finally:
            os.close(opened)
