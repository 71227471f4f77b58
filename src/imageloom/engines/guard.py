"""What a worker that others send tasks to takes on: nothing outside of the roots that it was started with."""

from __future__ import annotations

import os

from imageloom.errors import TaskRefused
from imageloom.model import Plain, Task


class Guard(Plain, frozen=True):
    """The bounds of a worker. Without roots there are none: a worker that the driver itself has started."""

    roots: tuple[str, ...] = ()
    """Paths of folders, or addresses of stores, below which it reads and writes."""
    operators: tuple[str, ...] = ()
    """Paths of the files of operators that it runs: they are code."""

    def check(self, task: Task) -> None:
        """Refuse a task that leaves the bounds.

        Raises:
            TaskRefused: names the address and the flag.
        """
        if not self.roots:
            return
        for address in _addresses(task):
            if not any(_is_below(address, root) for root in self.roots):
                raise TaskRefused(f"{address} is not below a root of this worker (--root)")
        for path in task.recipe.operators:
            if os.path.realpath(path) not in map(os.path.realpath, self.operators):
                raise TaskRefused(f"{path} is no file of operators of this worker (--operators)")


def _addresses(task: Task) -> list[str]:
    found = [task.source, task.sink]
    found += [os.path.join(task.source, work.item.key) for work in task.work]
    if task.part:
        part = task.part
        found += [path for path in (part.reads, part.writes, part.file, part.staging, part.folder) if path]
    return found


def _is_below(address: str, root: str) -> bool:
    if "://" in address or "://" in root:
        return (address.rstrip("/") + "/").startswith(root.rstrip("/") + "/") and ".." not in address.split(
            "/"
        )
    real, bound = os.path.realpath(address), os.path.realpath(root)
    return real == bound or real.startswith(bound.rstrip(os.sep) + os.sep)
