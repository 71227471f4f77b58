"""Configures a process as a worker, or as a part of one."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from functools import lru_cache

from imageloom import operators
from imageloom.model import Task


def prepare(task: Task, with_operators: bool = True) -> None:
    """Configure this process, and load the task's operators."""
    configure_process()
    if with_operators:
        operators.load_files(task.recipe.operators, task.digests)


def bound_memory(memory: int) -> None:
    """Limit the memory for data of this process: to so many bytes beyond what it uses already."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


@lru_cache(maxsize=1)
def configure_process() -> None:
    """Configure this process as a worker. Call it before the first item."""
    import cv2

    cv2.setNumThreads(1)  # the engine is responsible for parallelism
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    _keep_freed_memory()


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def _keep_freed_memory() -> None:
    """Configure malloc to keep freed memory for the next image: returning and clearing it costs 10% of the time.

    Blocks above 32 MB are still returned at once. This works only with glibc.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError):  # another C library
        tell = ctypes.CDLL(None).mallopt
        tell(_MMAP_THRESHOLD, 32 << 20)
        tell(_TRIM_THRESHOLD, 256 << 20)
        tell(_TOP_PAD, 16 << 20)
