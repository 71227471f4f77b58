"""Files of local folders: checks before reading, and reading and writing whole files."""

from __future__ import annotations

import os
import stat

from imageloom.errors import StorageError, UnreadableItem, unwritable
from imageloom.model import Item, Links
from imageloom.system import folders

_MOST_READ = 1 << 30
"""Bytes per read call: the system returns at most twice as many."""


def check_regular(file: int) -> os.stat_result:
    """The status of an open file.

    Raises:
        UnreadableItem: it is not a regular file, but a folder or a device.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableItem("it is not a regular file")
    return found


def check_planned(file: int, planned: Item) -> None:
    """Check that an open file is the version that was planned.

    Raises:
        UnreadableItem: it is another file, or was changed since.
    """
    found = check_regular(file)
    if found.st_mtime_ns != planned.mtime_ns or found.st_size != planned.size:
        planned.check(Item(planned.key, found.st_size, found.st_mtime_ns))


def check_link(path: str, root: str, links: Links) -> None:
    """Check whether a link in a source may be followed.

    Raises:
        UnreadableItem: the link must not be followed; the message says why.
    """
    if links == "refuse":
        raise UnreadableItem("it is a symbolic link, which is not followed (--links refuse)")
    if links == "inside":
        bound = os.path.realpath(root).rstrip("/")
        if not os.path.realpath(path).startswith(f"{bound}/"):
            raise UnreadableItem(f"it is a symbolic link that leads out of {root} (--links inside)")


def read_all(file: int, size: int) -> bytes:
    """Read a file of `size` bytes."""
    parts, left = [], size + 1  # one byte more, to notice a growing file
    while left > 1 and (part := os.read(file, min(left, _MOST_READ))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise UnreadableItem("the file was changed while it was read")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_file(path: str, data: bytes, roots: tuple[str, ...] = ()) -> None:
    """Write a new file. Its folder must not be a link. On an error no file remains.

    Args:
        roots: folders that the file must be below; empty: no restriction.

    Raises:
        UnwritableOutput: the file cannot be written.
    """
    try:
        folders.write_file(path, data, roots)
    except OSError as error:
        raise unwritable(f"cannot write to {os.path.dirname(path)}", error) from None


def size_within(path: str) -> int:
    """The size of a file, or of all files below a folder, in bytes."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def check_name(path: str) -> None:
    """Raise a StorageError if a path is not UTF-8: the ledger and tasks cannot store such a path."""
    if not is_utf8(path):
        raise StorageError(f"the name of {shown(path)} is not UTF-8: rename it")


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8."""
    return name.isascii() or shown(name) == name


def shown(name: str) -> str:
    """The name, with escapes for bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
