"""Files of local folders: what is checked of one before it is believed, and how it is read and written whole."""

from __future__ import annotations

import os
import stat

from imageloom.errors import StorageError, UnreadableItem, UnwritableOutput
from imageloom.model import Item, Links
from imageloom.system import folders

_MOST_READ = 1 << 30
"""Bytes that are asked for at once: the system gives no more than twice as many."""


def check_regular(file: int) -> os.stat_result:
    """What the system says of an open file.

    Raises:
        UnreadableItem: it is a folder, a device or the like.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableItem("it is not a regular file")
    return found


def check_planned(file: int, planned: Item) -> None:
    """Refuse an open file that is another one than was planned, or was written to since.

    Raises:
        UnreadableItem: says by what it is known.
    """
    found = check_regular(file)
    if found.st_mtime_ns != planned.mtime_ns or found.st_size != planned.size:
        planned.check(Item(planned.key, found.st_size, found.st_mtime_ns))


def check_link(path: str, root: str, links: Links) -> None:
    """Refuse a link in a source that is not to be followed.

    Raises:
        UnreadableItem: says why.
    """
    if links == "refuse":
        raise UnreadableItem("it is a symbolic link, which is not followed (--links refuse)")
    if links == "inside":
        bound = os.path.realpath(root).rstrip("/")
        if not os.path.realpath(path).startswith(f"{bound}/"):
            raise UnreadableItem(f"it is a symbolic link that leads out of {root} (--links inside)")


def read_all(file: int, size: int) -> bytes:
    """All bytes of a file that has so many."""
    parts, left = [], size + 1  # one more: it may be growing
    while left > 1 and (part := os.read(file, min(left, _MOST_READ))):
        parts.append(part)
        left -= len(part)
    if not left:
        raise UnreadableItem("the file was changed while it was read")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_file(path: str, data: bytes, roots: tuple[str, ...] = ()) -> None:
    """Write a new file as a whole, or raise UnwritableOutput and leave none. Its folder is no link.

    Args:
        roots: folders beneath which it lies; none for no bounds.
    """
    try:
        folders.write_file(path, data, roots)
    except OSError as error:
        raise UnwritableOutput(f"cannot write to {os.path.dirname(path)}: {error.strerror}") from None


def size_within(path: str) -> int:
    """The bytes of a file, or of all files below a folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def check_name(path: str) -> None:
    """Raise a StorageError where a path is not UTF-8: neither the ledger nor a task could hold it."""
    if not is_utf8(path):
        raise StorageError(f"the name of {shown(path)} is not UTF-8: rename it")


def is_utf8(name: str) -> bool:
    """Whether a name that the system gave is UTF-8."""
    return shown(name) == name


def shown(name: str) -> str:
    """A name with its bytes that are not UTF-8 written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
