"""This machine: its cores and memory, CPU time and memory of processes (from /proc), and loopback hosts."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that a BLAS library reads when it is loaded."""
MOST_FILES = 1 << 16
"""More open files than this are of no use to imageloom."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit new processes to one BLAS thread, unless the user set a number: the engine uses all cores."""
    added = [name for name in BLAS_THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: the name localhost, or a loopback address.

    Other names are never looked up, because DNS may return another address later.
    """
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def available_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_files() -> int:
    """Raise the soft limit of open files to the hard limit, but at most to MOST_FILES. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft


def half_of_memory() -> int:
    """Half of the machine's memory, or of the memory limit of the process's control group, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):
            continue
    return total // 2


def available_memory() -> int:
    """Memory in bytes that programs can get, with what the file cache gives back; 0 if it is not known."""
    for line in _proc("meminfo").splitlines():
        if line.startswith(b"MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def core_times() -> list[tuple[int, int]]:
    """For each core: its busy ticks and all its ticks; empty if unknown."""
    found = []
    for line in _proc("stat").splitlines()[1:]:
        if not line.startswith(b"cpu"):
            break
        ticks = [int(field) for field in line.split()[1:9]]  # guest ticks are already included in user ticks
        found.append((sum(ticks) - ticks[3] - ticks[4], sum(ticks)))
    return found


def process_tree(root: int) -> list[int]:
    """The IDs of a process and of all its descendants."""
    found = [root]
    for process in found:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                found += map(int, _proc(f"{process}/task/{thread}/children").split())
    return found


def process_usage(process: int) -> tuple[float, int]:
    """CPU seconds of a process and of the children that it waited for, and its resident memory in bytes."""
    fields = _stat(process)
    if not fields:
        return 0.0, 0
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def process_cpu(process: int) -> float:
    """CPU seconds of a process without its children; 0 if it does not exist."""
    return sum(int(field) for field in _stat(process)[11:13]) / os.sysconf("SC_CLK_TCK")


def proportional_memory(process: int) -> int:
    """Memory of a process in bytes, with shared memory counted proportionally (PSS)."""
    for line in _proc(f"{process}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _stat(what: int | str) -> list[bytes]:
    """The fields after the name in the stat file of a process, or of a thread by path; empty if it is gone."""
    return _proc(f"{what}/stat").rpartition(b")")[2].split()


def _proc(name: str) -> bytes:
    """The content of a file in /proc; empty if it does not exist."""
    try:
        with open(f"/proc/{name}", "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""
