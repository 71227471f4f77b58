"""Runs one program as a child process and prints its measurements: `python -m imageloom.bench.launcher`.

    MEMORY PATIENCE COMMAND...

All processes that the program starts are descendants of this process, orphans too, so that their CPU time is
counted. One line of JSON on stdout has the measurements. The program's output is discarded, except the end of
stderr.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress

import msgspec

from imageloom.bench.programs import Taken
from imageloom.system import machine

LOOK, PACE = 0.05, 1.0
"""Seconds between two checks of the processes, with and without measuring the memory."""
LINGER = 10.0
"""Seconds that remaining processes of the program get to end."""
_TAIL = 2000
"""Number of bytes of stderr that are kept."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2): a signal when the parent dies; orphaned descendants become children of this process."""


def main(watch: str, patience: str, *command: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    try:
        taken = _take(list(command), watch == "yes", float(patience))
    finally:
        _end_all()
    sys.stdout.write(msgspec.json.encode(taken).decode() + "\n")


def _take(command: list[str], watch: bool, patience: float) -> Taken:
    most, over = [0], threading.Event()
    spent: dict[int, float] = {}
    watcher = threading.Thread(target=_watch, args=(watch, most, spent, over), daemon=True)
    with tempfile.TemporaryFile() as errors:
        spawned, began = time.time(), time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        watcher.start()
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        seconds = time.perf_counter() - began
        over.set()
        watcher.join()
        left = _reap(0.0 if code < 0 else LINGER)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        length = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, length - _TAIL))
        said = errors.read().decode(errors="replace")
    cpu = max(used.ru_utime + used.ru_stime, sum(spent.values()))
    return Taken(seconds, cpu, spawned, code, most[0], used.ru_maxrss * 1024, left, said)


def _watch(memory: bool, most: list[int], spent: dict[int, float], over: threading.Event) -> None:
    """Record the peak memory of all processes together, and the last known CPU time of each process. The kernel
    drops that time if a parent does not wait for its children, as in Ray."""
    while not over.wait(LOOK if memory else PACE):
        processes = machine.process_tree(os.getpid())[1:]
        spent.update((process, machine.process_cpu(process)) for process in processes)
        if memory:
            most[0] = max(most[0], sum(map(machine.proportional_memory, processes)))


def _reap(patience: float) -> int:
    """Wait for the remaining processes, and kill them after `patience` seconds. Returns how many were killed."""
    deadline = time.monotonic() + patience
    ended: set[int] = set()
    while True:
        try:
            found = os.waitpid(-1, os.WNOHANG)[0]
        except ChildProcessError:
            return len(ended)
        if found == 0:
            if time.monotonic() > deadline:
                ended |= _end_all()
            time.sleep(0.005)


def _end_all() -> set[int]:
    """Kill all descendants of this process."""
    found = machine.process_tree(os.getpid())[1:]
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return set(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
