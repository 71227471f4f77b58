"""Files of single images: reading from paths, addresses and open files; writing in one atomic step."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress

from imageloom import stores
from imageloom.errors import LimitExceeded, MissingFile, StorageError, UnreadableItem, UsageError
from imageloom.interface.arguments import address
from imageloom.system import descriptors, folders

_PIECE = 16 << 20
"""Maximum number of bytes that are read from an open file at once."""
_ARRAY = "zarr.json"
"""The file in each folder that is an image."""


def read(name: str, limit: int) -> bytes:
    """The bytes of the file at a path or an address.

    Args:
        limit: maximum size in bytes.

    Raises:
        UsageError: it is empty, or the scheme of the address is unknown.
        MissingFile: there is no such file.
        UnreadableItem: it cannot be read.
        LimitExceeded: it is larger than `limit`.
        StorageError: the storage cannot be used.
    """
    if not name.strip():
        raise UsageError("source is empty: give the path or the address of a file")
    if stores.is_remote(name):
        folder, _, key = name.rpartition("/")
        if not key or folder.endswith(":/"):
            raise UsageError(f"source = {name!r}: it must be the address of a file")
    else:
        path = os.path.abspath(stores.local_path(name))
        if os.path.isdir(path):
            raise StorageError(f"{name} is a folder: give a file, or use imageloom.process")
        if not os.path.exists(path):
            raise MissingFile(f"there is no file {name}")
        folder, key = os.path.split(path)
    try:
        return stores.open_store(folder).read(key, limit)
    except UnreadableItem as error:
        raise UnreadableItem(f"{name}: {error}") from None
    except LimitExceeded as error:
        raise LimitExceeded(f"{name}: {error}") from None


def read_from(file: object, limit: int) -> bytes:
    """The bytes of an open file, from its position to its end.

    Raises:
        UsageError: it is no binary file.
        UnreadableItem: it cannot be read.
        LimitExceeded: there are more than `limit` bytes.
    """
    pieces: list[bytes] = []
    size = 0
    while size <= limit:  # a pipe or a socket returns what has arrived
        try:
            piece = file.read(min(_PIECE, limit + 1 - size))  # type: ignore[attr-defined]
        except Exception as error:
            raise UnreadableItem(f"cannot read {file!r}: {error}") from None
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise UsageError(f"source = {file!r}: it is no binary file: open it with mode 'rb'")
        if not piece:
            return b"".join(pieces)
        pieces.append(bytes(piece))
        size += len(pieces[-1])
    raise LimitExceeded(f"the file has more than {limit:,} bytes, which is the limit (--max-file-size)")


def path_of(target: object) -> str:
    """The path of a local file to write.

    Raises:
        UsageError: it is none.
    """
    given = address("target", target)
    if stores.is_remote(given):
        raise UsageError(
            f"target = {given!r}: save writes local files; imageloom.process writes to addresses"
        )
    path = stores.local_path(given)
    if not os.path.basename(path):
        raise UsageError(f"target = {given!r}: it must be the path of a file")
    return path


def write_to(file: object, data: bytes) -> None:
    """Write to an open file.

    Raises:
        UsageError: it is no binary file.
        StorageError: it cannot be written to.
    """
    try:
        file.write(data)  # type: ignore[attr-defined]
    except TypeError:
        raise UsageError(f"target = {file!r}: it is no binary file: open it with mode 'wb'") from None
    except Exception as error:
        raise StorageError(f"cannot write to {file!r}: {error}") from None


def write(path: str, data: bytes | Mapping[str, bytes]) -> None:
    """Write a file, or a folder as a mapping of relative paths to contents. It gets its name when it is
    complete.

    An existing file is replaced, and its mode stays. An existing folder is replaced only by a folder, and only
    if it is empty or an image. A kill may leave a hidden file `.NAME.*.tmp`.

    Raises:
        StorageError: it cannot be written.
    """
    path = os.path.realpath(path)  # a link stays, and the file that it leads to is replaced
    folder, name = os.path.split(path)
    token = f".{name[:100]}.{secrets.token_hex(8)}.tmp"
    try:
        at = descriptors.open_file(folder, folders.FOLDER)
    except FileNotFoundError:
        raise StorageError(f"cannot write {path}: there is no folder {folder}") from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    try:
        _write_in(at, token, name, data)
    except OSError as error:
        folders.remove(token, at)
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    except BaseException:
        folders.remove(token, at)
        raise
    finally:
        os.close(at)


def _write_in(folder: int, token: str, name: str, data: bytes | Mapping[str, bytes]) -> None:
    if isinstance(data, bytes):
        folders.write_in(folder, token, data)
        with suppress(FileNotFoundError):  # a private file stays private
            mode = os.stat(name, dir_fd=folder).st_mode
            os.chmod(token, stat.S_IMODE(mode), dir_fd=folder)
        os.replace(token, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    _check_replaced(folder, name)
    folders.write_folder(folder, token, data)
    old = f"{token}.old"
    with suppress(FileNotFoundError):
        os.rename(name, old, src_dir_fd=folder, dst_dir_fd=folder)
    os.rename(token, name, src_dir_fd=folder, dst_dir_fd=folder)
    folders.remove(old, folder)


def _check_replaced(folder: int, name: str) -> None:
    """Refuse to replace a folder that has other contents than an image.

    Raises:
        FileExistsError: it has.
    """
    try:
        at = descriptors.open_file(name, folders.FOLDER, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        held = os.listdir(at)
    finally:
        os.close(at)
    if held and _ARRAY not in held:
        raise FileExistsError(errno.EEXIST, "there is a folder with other files")
