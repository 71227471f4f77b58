"""Landlock: a process restricts its own access to files and to the network (Linux, since 5.13).

Only system calls are used, so no library is needed. See the kernel's `userspace-api/landlock.rst`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures except alpha
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_SET_NO_NEW_PRIVS = 38  # PR_SET_NO_NEW_PRIVS

_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_FILES = ((1, 1 << 13), (2, 1 << 14), (3, 1 << 15), (5, 1 << 16))
"""The first version with more rights on files, and one more than the highest right."""
_BIND_AND_CONNECT = 3  # LANDLOCK_ACCESS_NET_BIND_TCP | _CONNECT_TCP, since version 4
_SOCKETS_AND_SIGNALS = 3  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | _SIGNAL, since version 6


class _Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The version of Landlock in this kernel; 0 if there is none."""
    if sys.platform != "linux":
        return 0
    found: int = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    return max(0, found)


def restrict(readable: Iterable[str], files: Iterable[tuple[int, bool]] = ()) -> None:
    """Restrict this thread, and all threads and processes that it starts, for ever.

    It can read the given files and folders, and write no file by its path. It can use no TCP port (since version
    4), and send no signal to a process that is not restricted like itself (since version 6). Files that are open
    already can be used. The process can no longer gain privileges by executing a program.

    Args:
        readable: paths of files, and of folders with all that is in them. Those that do not exist are ignored.
        files: open files that may be opened again, each with whether it may be written.

    Raises:
        OSError: the kernel has no Landlock.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    found = version()
    rights = max((1 << 13, *(end for since, end in _FILES if found >= since))) - 1
    rules = _Ruleset(
        rights, _BIND_AND_CONNECT if found >= 4 else 0, _SOCKETS_AND_SIGNALS if found >= 6 else 0
    )
    size = ctypes.sizeof(rules) if found >= 6 else 16 if found >= 4 else 8
    ruleset = _call(libc, _CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    try:
        for path in readable:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                file = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    _allow(libc, ruleset, file, rights, _READ_FILE | _READ_FOLDER)
                finally:
                    os.close(file)
        for file, writable in files:
            _allow(libc, ruleset, file, rights, _READ_FILE | (_WRITE_FILE | _TRUNCATE if writable else 0))
        if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        _call(libc, _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, file: int, handled: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(file).st_mode):
        rights &= ~_READ_FOLDER
    rule = _PathBeneath(rights & handled, file)
    _call(libc, _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    found: int = libc.syscall(number, *arguments)
    if found < 0:
        code = ctypes.get_errno() or errno.ENOSYS
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return found
