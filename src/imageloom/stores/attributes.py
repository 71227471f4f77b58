"""File attributes: owner, mode and extended attributes, which include access lists.

A file that replaces another file gets its attributes, but not its modification time: programs that compare times,
such as backups, must notice the new content.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from imageloom.errors import OutputExists, UnreadableItem, UnwritableOutput

OF_CONTENT = ("security.ima", "security.evm")
"""Extended attributes that are signatures of the old content."""
_NONE_THERE = (errno.ENOTSUP, errno.ENODATA, errno.ENOSYS)
_TICK = 2_000_000_000
"""Difference in nanoseconds that the time stamps of all file systems can represent."""


def take_over(
    new: str, there: int, old: str, at: int, fingerprint: str
) -> tuple[os.stat_result, os.stat_result]:
    """Copy the attributes of the old file to the new file. Returns the metadata of the old and of the new file.

    Args:
        there, at: the open folders of the new file and of the old file.
        fingerprint: fingerprint of the old file when it was read: see `model.Item.fingerprint`.

    Raises:
        OSError: a file cannot be opened or written.
        UnreadableItem, OutputExists, UnwritableOutput: see `LocalStore.take_over`.
    """
    source = os.open(old, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    try:
        found = os.fstat(source)
        check_alone(found)
        if fingerprint != f"{found.st_size}-{found.st_mtime_ns}":
            raise UnreadableItem("the file was changed after it was read")
        target = os.open(new, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=there)
        try:
            if not stat.S_ISREG(os.fstat(target).st_mode):
                raise UnwritableOutput("the staged output is not a regular file")
            _copy(source, found, target)
            return found, os.fstat(target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def check_alone(found: os.stat_result) -> None:
    """Raise OutputExists if a file is not a regular file with exactly one name."""
    if stat.S_ISLNK(found.st_mode):
        raise OutputExists("it is a symbolic link, which --in-place would replace by a file")
    if not stat.S_ISREG(found.st_mode):
        raise OutputExists("it is not a regular file (--in-place)")
    if found.st_nlink > 1:
        raise OutputExists(
            f"it has {found.st_nlink} hard links, and --in-place would change only one of them"
        )


def _copy(source: int, found: os.stat_result, target: int) -> None:
    made = os.fstat(target)
    try:
        if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
            os.fchown(target, found.st_uid, found.st_gid)
    except OSError as error:
        raise UnwritableOutput(
            f"its owner {found.st_uid}:{found.st_gid} cannot be kept: {error.strerror} (--in-place)"
        ) from None
    if hasattr(os, "listxattr"):
        _copy_extended(source, target)
    os.fchmod(target, stat.S_IMODE(found.st_mode))  # after the owner: changing the owner clears setuid
    if (made.st_size, made.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
        os.utime(
            target, ns=(made.st_atime_ns, made.st_mtime_ns + _TICK)
        )  # so its fingerprint differs from the old file's


def _copy_extended(source: int, target: int) -> None:
    wanted, there = _extended(source), _extended(target)
    for name, value in wanted.items():
        if there.get(name) != value and name not in OF_CONTENT:
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                raise UnwritableOutput(
                    f"its attribute {name!r} cannot be kept: {error.strerror} (--in-place)"
                ) from None
    for name in there.keys() - wanted.keys():  # for example an access list from the folder's default
        if not name.startswith("security."):
            with suppress(OSError):
                os.removexattr(target, name)


def _extended(file: int) -> dict[str, bytes]:
    found = {}
    try:
        for name in os.listxattr(file):
            with suppress(OSError):  # an attribute that only the system can read
                found[name] = os.getxattr(file, name)
    except OSError as error:
        if error.errno not in _NONE_THERE:
            raise
    return found
