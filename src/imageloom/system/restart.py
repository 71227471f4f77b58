"""A program that crashes in native code is started again, as the same process and with the same arguments.

After a crash the memory of a process cannot be trusted, so nothing may run in it but one system call: the handler
of the signals is a few machine instructions that call execve(2) with arguments that were prepared before. The
kernel closes files and locks, as after a kill. For Linux on x86-64; elsewhere a crash ends the program.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
VARIABLE = "IMAGELOOM_CRASHED"
"""The environment variable of a program that was started again."""
_EXECVE, _EXIT_GROUP = 59, 231
"""Numbers of system calls on x86-64."""
_FAILED = 71
"""Exit code if the program cannot be started: EX_OSERR."""
_CODE = 64
"""Bytes that the instructions may take."""


def has_crashed() -> bool:
    """Whether this program was started again after a crash. Ask once, before anything else is started."""
    if os.environ.pop(VARIABLE, None) is None:
        return False
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CRASHES)  # blocked in the handler, which execve has left
    return True


@contextmanager
def restarted_after_crash(is_wanted: bool = True) -> Iterator[None]:
    """Start this program again if it crashes meanwhile, in any thread."""
    if not is_wanted or sys.platform != "linux" or platform.machine() != "x86_64":
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    arguments = [os.fsencode(sys.executable), *map(os.fsencode, sys.orig_argv[1:])]
    variables = [name + b"=" + value for name, value in os.environb.items()] + [f"{VARIABLE}=1".encode()]
    memory = mmap.mmap(
        -1, len(_program(0, arguments, variables)), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    start = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(start)
    memory[:] = _program(address, arguments, variables)
    before = {}
    if not libc.mprotect(address, len(memory), mmap.PROT_READ | mmap.PROT_EXEC):  # else the system forbids it
        before = {number: libc.signal(number, address) for number in CRASHES}
    try:
        yield
    finally:
        for number, handler in before.items():
            libc.signal(number, handler)
        del start
        memory.close()


def _program(address: int, arguments: list[bytes], variables: list[bytes]) -> bytes:
    """The instructions, and behind them their data, for this address."""
    pointers = _CODE
    at = pointers + 8 * (len(arguments) + len(variables) + 2)
    texts, lists = b"", []
    for strings in (arguments, variables):
        for text in strings:
            lists.append(address + at + len(texts))
            texts += text + b"\0"
        lists.append(0)
    first = lists[0]
    code = b"".join(
        (
            b"\x48\xbf" + struct.pack("<Q", first),  # mov rdi
            b"\x48\xbe" + struct.pack("<Q", address + pointers),  # mov rsi
            b"\x48\xba" + struct.pack("<Q", address + pointers + 8 * (len(arguments) + 1)),  # mov rdx
            b"\xb8" + struct.pack("<I", _EXECVE) + b"\x0f\x05",  # mov eax, syscall
            b"\xbf" + struct.pack("<I", _FAILED),  # mov edi
            b"\xb8" + struct.pack("<I", _EXIT_GROUP) + b"\x0f\x05",
        )
    )
    return code.ljust(_CODE, b"\xcc") + struct.pack(f"<{len(lists)}Q", *lists) + texts
