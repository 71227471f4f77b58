"""Opens files below a folder. Links are checked by the call that opens the file, so there is no race.

Linux has one system call for this (openat2, since 5.6). On other systems each part of the path is opened
separately, relative to the part before it, without following links.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from imageloom.system.descriptors import is_out_of_files, patiently

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK has no effect on regular files. It prevents blocking if the path is a FIFO."""
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags to open a folder in which other files are opened."""
_OPENAT2 = 437  # on all architectures except alpha
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08  # linux/openat2.h
_LINK = (errno.ELOOP, errno.EXDEV, errno.ENOTDIR)
"""Error numbers if a path contains a link, or leads out of the folder."""


class _Opener(Protocol):
    def __call__(self, folder: int, relative: str, flags: int, mode: int) -> int: ...


def open_beneath(
    path: str,
    flags: int,
    roots: Sequence[str],
    *,
    follow: bool = True,
    outer: Sequence[str] = (),
    mode: int = 0o600,
) -> int:
    """Open a file that must be below one of the folders, even if its path is changed at the same time.

    Args:
        path: absolute path without `..`.
        roots: absolute paths of folders, which may be links themselves; empty: no restriction.
        follow: follow links that point to a place below the folder; if False, the path must have no links below
            the folder.
        outer: folders that the folder itself must be below; empty: no restriction.

    Returns:
        A file descriptor.

    Raises:
        OSError: the path leads out of the folders, has a link that is not followed, or cannot be opened.
    """
    try:
        return _open(path, flags, roots, follow, outer, mode)
    except OSError as error:
        if not is_out_of_files(error):
            raise
    return patiently(lambda: _open(path, flags, roots, follow, outer, mode))


def _open(path: str, flags: int, roots: Sequence[str], follow: bool, outer: Sequence[str], mode: int) -> int:
    if not roots:
        return os.open(path, flags | os.O_CLOEXEC, mode)
    for root in roots:
        if (relative := _relative(path, root)) is None:
            continue
        try:
            return _open_at(root, relative, flags, mode, outer)
        except OSError as error:
            if error.errno not in _LINK:
                raise
            if not follow and error.errno == errno.ELOOP:
                raise OSError(error.errno, "it is a symbolic link, which is not followed (--links)") from None
            if not follow:
                raise
        break
    real = os.path.realpath(path)
    for root in roots:
        if (relative := _relative(real, os.path.realpath(root))) is not None:
            return _open_at(root, relative, flags, mode, outer)
    raise OSError(errno.EXDEV, f"it leads out of {', '.join(roots)}")


def _relative(path: str, root: str) -> str | None:
    """The path relative to a folder; None if it is not below the folder."""
    bound = root.rstrip("/")
    if path == (bound or "/"):
        return "."
    return path[len(bound) + 1 :] if path.startswith(f"{bound}/") else None


def _open_at(root: str, relative: str, flags: int, mode: int, outer: Sequence[str]) -> int:
    folder = open_beneath(root, FOLDER, outer)
    try:
        return _opener()(folder, relative, flags | os.O_CLOEXEC, mode)
    finally:
        os.close(folder)


def path_of(file: int) -> str:
    """A path of an open file, valid while the file is open."""
    return f"{'/proc/self' if sys.platform == 'linux' else '/dev'}/fd/{file}"


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@lru_cache(maxsize=1)
def _opener() -> _Opener:
    """The system call if it exists and is permitted, otherwise `_open_parts`."""
    if sys.platform != "linux" or platform.machine() == "alpha":
        return _open_parts
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    call.restype = ctypes.c_long

    def openat2(folder: int, relative: str, flags: int, mode: int) -> int:
        how = _How(flags, mode if flags & os.O_CREAT else 0, _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
        name = os.fsencode(relative)
        while True:
            found: int = call(_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how))
            if found >= 0:
                return found
            if (number := ctypes.get_errno()) != errno.EINTR:
                raise OSError(number, os.strerror(number), relative)

    here = os.open(".", FOLDER)
    try:
        os.close(openat2(here, ".", FOLDER, 0))
    except OSError:  # an older kernel, or a sandbox that blocks the call
        return _open_parts
    finally:
        os.close(here)
    return openat2


def _open_parts(folder: int, relative: str, flags: int, mode: int) -> int:
    """Open a file part by part, without following links."""
    *folders, name = relative.split("/")
    if ".." in (*folders, name):
        raise OSError(errno.EXDEV, "it has '..' in its path", relative)
    at = os.dup(folder)
    try:
        for part in filter(None, folders):
            below = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=at)
    finally:
        os.close(at)
