"""What this machine has for a run, cores and memory, and what a run takes of them, as Linux's /proc says it; and
which hosts are this machine."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that a BLAS reads as it is loaded."""
MOST_FILES = 1 << 16
"""Files that a process of ours can make use of."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """What is started meanwhile has a BLAS of one thread, unless told otherwise: an engine divides the cores."""
    added = [name for name in BLAS_THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: the name localhost, or an address of the loopback as it is written.

    A name is never looked up: who answers for it may say another address the next time.
    """
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def available_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_files() -> int:
    """How many files this process may have open. What it may have is raised to what it may raise it to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft


def half_of_memory() -> int:
    """Half of the machine's memory, or of what the process's control group may have, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):
            continue
    return total // 2


def core_times() -> list[tuple[int, int]]:
    """Of each core: the ticks that it was busy, and all its ticks; empty where the system does not say."""
    found = []
    for line in _proc("stat").splitlines()[1:]:
        if not line.startswith(b"cpu"):
            break
        ticks = [int(field) for field in line.split()[1:9]]  # the guests' ticks are in the users' already
        found.append((sum(ticks) - ticks[3] - ticks[4], sum(ticks)))
    return found


def process_tree(root: int) -> list[int]:
    """A process and all that descend from it, by their numbers."""
    found = [root]
    for process in found:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                found += map(int, _proc(f"{process}/task/{thread}/children").split())
    return found


def process_usage(process: int) -> tuple[float, int]:
    """Seconds of CPU of a process and of the children that it waited for; its resident bytes."""
    fields = _stat(process)
    if not fields:
        return 0.0, 0
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def process_cpu(process: int) -> float:
    """Seconds of CPU of a process alone; 0 where it is gone."""
    return sum(int(field) for field in _stat(process)[11:13]) / os.sysconf("SC_CLK_TCK")


def proportional_memory(process: int) -> int:
    """Bytes of a process in memory, where what it shares with others counts in part (PSS)."""
    for line in _proc(f"{process}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _stat(what: int | str) -> list[bytes]:
    """The fields of the status of a process, or of a thread by its path, behind the name; none if it is gone."""
    return _proc(f"{what}/stat").rpartition(b")")[2].split()


def _proc(name: str) -> bytes:
    """A file of /proc; empty where there is none, or its process is gone."""
    try:
        with open(f"/proc/{name}", "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""
