"""Landlock and seccomp, in processes that restrict themselves and then try what they may not do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from imageloom.system import landlock, seccomp

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not seccomp.is_available(), reason="this kernel has no seccomp")

TRY = """
import ctypes, errno, mmap, os, resource, signal, socket, subprocess, sys, threading
from imageloom.system import landlock, seccomp
LIBC = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if LIBC.syscall(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
def refused(name, act):
    try:
        act()
    except OSError as error:
        print(name, errno.errorcode.get(error.errno))
    else:
        print(name, "done")
"""


def attempt(code: str, *arguments: object) -> dict[str, str]:
    """What came of each attempt of a script: the name of an error number, or "done"."""
    ran = subprocess.run(
        [sys.executable, "-c", TRY + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(line.split() for line in ran.stdout.splitlines())


@needs_landlock
def test_landlock_leaves_the_named_files_and_no_others(tmp_path: Path) -> None:
    for name in ("mine", "other", "handed", "scratch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    found = attempt(
        """
folder = sys.argv[1]
handed, scratch = (os.open(f"{folder}/{name}/file", os.O_RDWR) for name in ("handed", "scratch"))
server = socket.create_server(("127.0.0.1", 0))
other = os.getppid()
landlock.restrict([f"{folder}/mine", f"{folder}/absent"], [(scratch, True)])
refused("read", lambda: open(f"{folder}/mine/file").read())
refused("list", lambda: os.listdir(f"{folder}/mine"))
refused("write", lambda: open(f"{folder}/mine/file", "w"))
refused("make", lambda: open(f"{folder}/mine/new", "x"))
refused("remove", lambda: os.unlink(f"{folder}/mine/file"))
refused("read_other", lambda: open(f"{folder}/other/file").read())
refused("list_other", lambda: os.listdir(f"{folder}/other"))
refused("read_again", lambda: open(f"{folder}/handed/file").read())
refused("handed", lambda: os.pwrite(handed, b"more", 0))
refused("scratch", lambda: os.close(os.open(f"/proc/self/fd/{scratch}", os.O_RDWR)))
refused("environment", lambda: open(f"/proc/{other}/environ").read())
if landlock.version() >= 4:
    refused("connect", lambda: socket.create_connection(server.getsockname()))
    refused("bind", lambda: socket.create_server(("127.0.0.1", 0)))
if landlock.version() >= 6:
    refused("kill", lambda: os.kill(other, 0))
""",
        tmp_path,
    )
    allowed = {name for name, came in found.items() if came == "done"}
    assert allowed == {"read", "list", "handed", "scratch"}, found
    assert set(found.values()) <= {"done", "EACCES", "EPERM"}


@needs_seccomp
def test_seccomp_leaves_the_calls_of_the_table_and_no_others(tmp_path: Path) -> None:
    found = attempt(
        """
other = os.getppid()
buffer = ctypes.create_string_buffer(8)
memory = mmap.mmap(-1, 4096)
seccomp.restrict()
refused("thread", lambda: (lambda t: (t.start(), t.join()))(threading.Thread(target=lambda: None)))
refused("memory", lambda: bytearray(1 << 24))
refused("itself", lambda: os.kill(os.getpid(), 0))
refused("limits", lambda: resource.getrlimit(resource.RLIMIT_DATA))
refused("set_limits", lambda: resource.prlimit(0, resource.RLIMIT_DATA, (1, 1)))
refused("exec", lambda: os.execv("/bin/true", ["true"]))
refused("fork", os.fork)
refused("posix_spawn", lambda: os.posix_spawn("/bin/true", ["true"], {}))
refused("kill", lambda: os.kill(other, 0))
refused("kill_group", lambda: os.kill(0, 0))
refused("kill_all", lambda: os.kill(-1, 0))
refused("pidfd", lambda: os.pidfd_open(other))
refused("socket", lambda: socket.socket())
refused("unix", lambda: socket.socket(socket.AF_UNIX))
refused("pair", lambda: [one.close() for one in socket.socketpair()])
refused("internet_pair", lambda: socket.socketpair(socket.AF_INET))
refused("terminal", lambda: os.get_terminal_size(0))
refused("unlink", lambda: os.unlink("/tmp/absent"))
refused("mount", lambda: call(165, None, None, None, 0, None))
refused("ptrace", lambda: call(101, 16, other, None, None))
refused("process_vm_readv", lambda: call(310, other, None, 0, None, 0, 0))
refused("io_uring_setup", lambda: call(425, 1, None))
refused("bpf", lambda: call(321, 0, None, 0))
refused("keyctl", lambda: call(250, 0, 0))
refused("userfaultfd", lambda: call(323, 0))
refused("perf_event_open", lambda: call(298, None, 0, 0, 0, 0))
refused("unshare", lambda: call(272, 0))
refused("memfd_create", lambda: os.memfd_create("x"))
refused("die_with_parent", lambda: call(157, 1, 0, 0, 0, 0))
refused("clone3", lambda: call(435, None, 0))
refused("x32", lambda: call(0x40000000 + 39))
""",
        tmp_path,
    )
    allowed = {name for name, came in found.items() if came == "done"}
    assert allowed == {"thread", "memory", "itself", "limits", "pair"}, found
    assert {name: came for name, came in found.items() if came not in ("done", "EPERM")} == {
        "clone3": "ENOSYS",
        "terminal": "ENOTTY",
        "x32": "ENOSYS",
    }


@needs_seccomp
def test_a_restricted_process_can_abort() -> None:
    code = "from imageloom.system import seccomp; seccomp.restrict(); import os; os.abort()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert ran.returncode == -6


HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("column", [0, 1])
def test_the_numbers_are_those_of_the_kernel(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip(f"{HEADERS[column]} is not installed")
    text = HEADERS[column].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", text)}
    known |= {
        "fstat": known.get("fstat", 80),
        "newfstatat": known.get("newfstatat", known.get("fstatat", 79)),
    }
    ours = {name: numbers[column] for name, numbers in seccomp.CALLS.items() if numbers[column] is not None}
    ours |= {name: call.numbers[column] for name, call in seccomp.limited(1).items()}
    assert ours == {name: known[name] for name in ours}
