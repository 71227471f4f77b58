"""seccomp: a process limits its own system calls to those in a table (Linux, x86-64 and ARM64).

A call that is not allowed fails with an error number, so a library that tries it can go on without it. The filter
is a program of the kernel's BPF machine, see seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import NamedTuple

CALLS: dict[str, tuple[int, int | None]] = {
    # Data of open files, and of files that Landlock lets it open.
    "read": (0, 63),
    "pread64": (17, 67),
    "readv": (19, 65),
    "preadv": (295, 69),
    "write": (1, 64),
    "pwrite64": (18, 68),
    "writev": (20, 66),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "fadvise64": (221, 223),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "ftruncate": (77, 46),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "open": (2, None),
    "openat": (257, 56),
    "getdents64": (217, 61),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "pselect6": (270, 72),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    # Metadata of files. Landlock does not limit these.
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "stat": (4, None),
    "lstat": (6, None),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    # Memory.
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    # Threads, and the process itself.
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "set_tid_address": (218, 96),
    "gettid": (186, 178),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getcpu": (309, 168),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    # Signals to itself.
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # Time, randomness and the machine.
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrandom": (318, 278),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
}
"""The calls that are allowed with any arguments: their numbers on x86-64 and on ARM64, which lacks some calls."""


class Limited(NamedTuple):
    """A call that is allowed with some values of one argument."""

    numbers: tuple[int, int]
    argument: int
    """Position of the argument, from 0."""
    values: tuple[int, ...]
    """The allowed values. Only the lower half of the argument is compared, except for the value 0."""
    what: str
    """What these values mean."""
    otherwise: int = errno.EPERM
    """The error number for all other values."""


_THREAD = 0x00010000  # CLONE_THREAD
_NON_BLOCKING = 0x5421  # FIONBIO
_UNIX = 1  # AF_UNIX
_SET_NAME, _SET_VMA = 15, 0x53564D41  # linux/prctl.h


def limited(process: int) -> dict[str, Limited]:
    """The calls that are allowed with some arguments, in the process with this id."""
    return {
        "kill": Limited((62, 129), 0, (process,), "to itself"),
        "tgkill": Limited((234, 131), 0, (process,), "to its own threads"),
        "prctl": Limited((157, 167), 0, (_SET_NAME, _SET_VMA), "names of threads and of memory"),
        "prlimit64": Limited((302, 261), 2, (0,), "to read limits"),
        "fcntl": Limited((72, 25), 1, (0, 1, 2, 3, 1030), "to duplicate a descriptor, and its flags"),
        "clone": Limited((56, 220), 0, (), "threads of this process only"),
        "clone3": Limited((435, 435), 0, (), "never", errno.ENOSYS),  # the C library then uses clone
        "ioctl": Limited((16, 29), 1, (_NON_BLOCKING,), "to not wait for an open file", errno.ENOTTY),
        "socketpair": Limited((53, 199), 0, (_UNIX,), "within the process"),
    }


_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""For each machine: the column of its numbers in the tables, and its number for the kernel (AUDIT_ARCH)."""
_X32 = 0x40000000
"""Calls of x86-64 from this number on are those of another binary interface."""
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000  # linux/seccomp.h
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`."""
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _GET_SECCOMP, _FILTER = 38, 22, 21, 2


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def is_available() -> bool:
    """Whether this kernel has seccomp, and this machine is known."""
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return False
    return bool(ctypes.CDLL(None).prctl(_GET_SECCOMP, 0, 0, 0, 0) >= 0)


def restrict() -> None:
    """Allow this process only the calls of the table, for ever. It must have one thread.

    Raises:
        OSError: the kernel has no seccomp, or the machine is not known.
    """
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"seccomp: the machine {platform.machine()} is not known")
    code = _filter(platform.machine(), os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _filter(machine: str, process: int) -> bytes:
    column, architecture = _ARCHITECTURES[machine]
    made = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_RETURN, _ERROR | errno.ENOSYS),
    ]
    for numbers in CALLS.values():
        if (number := numbers[column]) is not None:
            made += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    for name, call in limited(process).items():
        checks = [_step(_LOAD, _ARGUMENTS + 8 * call.argument)]
        if name == "clone":
            checks += [_step(_HAS_BITS, _THREAD, 0, 1), _step(_RETURN, _ALLOW)]
        for value in call.values:
            if value == 0:  # a pointer: both halves must be 0
                upper = _ARGUMENTS + 8 * call.argument + 4
                checks += [
                    _step(_EQUAL, 0, 0, 3),
                    _step(_LOAD, upper),
                    _step(_EQUAL, 0, 0, 1),
                    _step(_RETURN, _ALLOW),
                    _step(_LOAD, _ARGUMENTS + 8 * call.argument),
                ]
            else:
                checks += [_step(_EQUAL, value, 0, 1), _step(_RETURN, _ALLOW)]
        checks.append(_step(_RETURN, _ERROR | call.otherwise))
        made += [_step(_EQUAL, call.numbers[column], 0, len(checks)), *checks]
    made.append(_step(_RETURN, _ERROR | errno.EPERM))
    return b"".join(made)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction: `struct sock_filter`. The jumps are numbers of instructions to skip."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
