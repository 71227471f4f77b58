"""Checks of a file in a watched local folder: its version, and whether a process is writing to it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat

from imageloom.errors import UnreadableItem
from imageloom.model import Failure, Item, Links, Unlisted
from imageloom.stores.files import check_link

SHARED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "virtiofs")
"""File systems that other machines write to. Leases and notifications do not cover such writes."""


def look(root: str, key: str, links: Links = "inside") -> tuple[Item | Unlisted, float] | None:
    """The current version of a file, and the time of its last change or rename (seconds since the epoch).

    None if the file does not exist, is a folder, or lies behind a link to a folder.

    Args:
        root: path of the folder, with links resolved.
        links: which symbolic links are read. With `follow`, anyone who can write into this folder can make
            imageloom read any file of this machine.
    """
    path = f"{root}/{key}"
    try:
        found = os.lstat(path)
        if os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
            return None
        if is_link := stat.S_ISLNK(found.st_mode):
            check_link(path, root, links)
            found = os.stat(path)
    except UnreadableItem as error:
        return Unlisted(key, Failure.of(error)), 0.0
    except (FileNotFoundError, NotADirectoryError):
        return (_refused(key, "it is a broken symbolic link"), 0.0) if os.path.islink(path) else None
    except OSError as error:
        return _refused(key, f"cannot read it: {error.strerror}"), 0.0
    if stat.S_ISDIR(found.st_mode):
        return (
            (_refused(key, "it is a symbolic link to a folder, which is not followed"), 0.0)
            if is_link
            else None
        )
    if not stat.S_ISREG(found.st_mode):
        return _refused(key, "it is no regular file"), 0.0
    return Item(key, found.st_size, found.st_mtime_ns), max(found.st_mtime, found.st_ctime)


def _refused(key: str, reason: str) -> Unlisted:
    return Unlisted(key, Failure.of(UnreadableItem(reason)))


def is_written_to(path: str) -> bool | None:
    """Whether a process has the file open for writing; None if that is unknown.

    The kernel grants a read lease only if no process writes to the file. The lease is released at once. A process
    that opens the file meanwhile waits for a moment; the signal about it is ignored.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return False


def is_shared(root: str) -> bool:
    """Whether a folder is on a file system that other machines may write to."""
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, at, its_kind, *_ = line.split(" ")
                at = at.replace("\\040", " ")
                if f"{root}/".startswith(f"{at.rstrip('/')}/") and len(at) >= len(best):
                    best, kind = at, its_kind
    except OSError:
        return False
    return kind in SHARED or kind.startswith("fuse")
