"""The limits of a worker that gets tasks over the network: it accesses nothing outside its roots."""

from __future__ import annotations

import os
import re

from msgspec.structs import replace

from imageloom import codecs
from imageloom.errors import InvalidName, TaskRefused
from imageloom.model import Job, Links, Plain, Recipe, Task
from imageloom.recipes.files import files_of
from imageloom.stores import is_remote, local_path
from imageloom.stores.names import STAGING, check_output_name, unsafe
from imageloom.stores.staging import SCRATCH
from imageloom.system.sandbox import Sandbox

MOST_NUMBER = 1 << 53
_JOB = r"[0-9A-Za-z_-]{1,64}"
_NO_RELATIVE = r"\A(?:/|\Z)|(?:\A|/)\.{1,2}(?:/|\Z)|\x00"
"""Matches what is not a path below a folder: it is empty or absolute, contains '..', or contains NUL."""
_ENCODED = r"(?i)%(?:2e|2f|5c|00)"
"""An encoded dot, slash, backslash or NUL, which a store's library might decode."""


class Guard(Plain, frozen=True):
    """The limits of a worker. Without roots there are no limits: only the driver can send it tasks."""

    roots: tuple[str, ...] = ()
    """Paths of folders, or addresses of stores. The worker reads and writes only below them."""
    operators: tuple[str, ...] = ()
    """Paths of the operators files that it may execute."""
    links: Links | None = None
    """Policy for symbolic links in its source, if it works for one job. None: the policy of the task, but links
    must lead to a place below the roots."""
    scratch: str = ""
    """Path of the folder in which runs make their scratch folders; empty if it is below a root."""
    files: tuple[str, ...] = ()
    """Paths of other files that steps may name: watermarks, fonts, tables of colours."""
    sandbox: Sandbox = Sandbox()
    """How it decodes items at least; a task may be stricter."""

    @classmethod
    def of(cls, job: Job) -> Guard:
        """The limits for workers of one job: its source, sink, scratch and operators files."""
        source, sink = (_canonical(address) for address in (job.source, job.sink))
        folder, _, name = source.rpartition("/")
        if (
            codecs.format_of(name) if is_remote(source) else os.path.isfile(source)
        ):  # a single file: allow its folder
            source = folder or "/"
        scratch = ""
        if job.scratch or is_remote(sink):
            import tempfile  # imported late: few jobs need it

            scratch = os.path.abspath(job.scratch or tempfile.gettempdir())
        files = tuple(os.path.abspath(path) for path, _ in files_of(job.recipe))
        return cls(tuple(dict.fromkeys((source, sink))), job.recipe.operators, job.links, scratch, files)

    def bounded(self, task: Task) -> Task:
        """The task with the limits added, so that no file outside the roots is opened, even if files are replaced
        meanwhile. The only exception are links of the source, if the job follows all links.

        Raises:
            TaskRefused: the task exceeds the limits, or is invalid. The message has the address and the option.
        """
        _check_names(task)
        task = replace(task, sandbox=task.sandbox.stricter(self.sandbox))
        if not self.roots:
            return task
        for address in (task.source, task.sink, *_paths(task)):
            self.check_address(address)
        operators = set(map(os.path.realpath, self.operators))
        for path in task.recipe.operators:
            if "\0" in path or os.path.realpath(path) not in operators:
                raise TaskRefused(f"{path} is not an operators file of this worker (--operators)")
        self.check_files(task.recipe, digested=bool(task.work))
        folders = self.folders
        return replace(
            task,
            links=self.links or task.links,
            roots=folders,
            source_roots=() if self.links == "follow" else folders,
        )

    def check_files(self, recipe: Recipe, digested: bool = False) -> None:
        """Check that the files that a recipe's steps name are below the roots.

        Args:
            digested: each must have its digest, as in the tasks of a job.

        Raises:
            TaskRefused: one is not. The message has its path.
        """
        allowed = set(map(os.path.realpath, self.files))
        for path, digest in files_of(recipe):
            if digested and not digest:
                raise TaskRefused(f"{path!r} is named by a step without a digest")
            if "\0" in path or os.path.realpath(path) not in allowed:
                self.check_address(path)

    def admitted(self, task: Task) -> Task:
        """Like `bounded`, for a worker that is about to begin the task.

        Raises:
            TaskRefused: also if this machine lacks a folder or a raster of the task.
        """
        bounded = self.bounded(task)
        if self.roots:
            check_reach(task)
        return bounded

    @property
    def folders(self) -> tuple[str, ...]:
        """The local roots as absolute paths. It is never empty if there are roots."""
        local = [local_path(root) for root in (*self.roots, self.scratch) if root and not is_remote(root)]
        return tuple(map(os.path.abspath, local or (self.roots and (os.devnull,))))

    def check_address(self, address: str) -> None:
        """Check that an address is below the roots. It need not exist.

        Raises:
            TaskRefused: it is not.
        """
        if reason := _misleading(address):
            raise TaskRefused(f"{address!r} is not an address for a worker: {reason} (--root)")
        if not any(_is_below(address, root) for root in self.roots) and not self._is_scratch(address):
            raise TaskRefused(f"{address} is not below a root of this worker (--root)")

    def _is_scratch(self, address: str) -> bool:
        """Whether a path lies in a run's scratch folder."""
        if not self.scratch or is_remote(address):
            return False
        scratch, real = os.path.realpath(self.scratch).rstrip("/"), os.path.realpath(local_path(address))
        return real.startswith(f"{scratch}/{SCRATCH}")


def check_reach(task: Task) -> None:
    """Check that this machine has the folders and the rasters of a task.

    Raises:
        TaskRefused: one is missing. The message has its path.
    """
    paths = [task.source, f"{task.sink}/{STAGING}"]
    if task.part:
        paths += [raster for raster in (task.part.reads, task.part.writes) if raster]
    for path in paths:
        if not is_remote(path) and not os.path.exists(local_path(path)):
            raise TaskRefused(
                f"{path} does not exist on {os.uname().nodename}: source, sink and scratch must be folders that "
                "all workers share, under the same path"
            )


def _check_names(task: Task) -> None:
    """Refuse a task with a name that must not be part of a path."""
    if not re.fullmatch(_JOB, task.job):
        raise TaskRefused(f"{task.job!r:.80} is not an id of a job: 1 to 64 letters, digits, '-' and '_'")
    for work in task.work:
        if not (0 <= work.number < MOST_NUMBER and 0 <= work.attempt < MOST_NUMBER):
            raise TaskRefused(f"an item's number {work.number} or attempt {work.attempt} is out of range")
        if re.search(_NO_RELATIVE, work.item.path):
            raise TaskRefused(f"{work.item.key!r} is not a path below a folder (--root)")
        for name in work.names:
            try:
                check_output_name(name)
            except InvalidName as error:
                raise TaskRefused(str(error)) from None
    for output in task.recipe.outputs:
        if output.folder and re.search(_NO_RELATIVE, output.folder):
            raise TaskRefused(f"an output's folder {output.folder!r} is not a path below the sink")


def _paths(task: Task) -> list[str]:
    """The paths of a part's scratch files. The item's own file is checked like any item."""
    if task.part is None:
        return []
    part, own = task.part, [f"{local_path(task.source)}/{work.item.path}" for work in task.work]
    paths = [part.reads, part.writes, part.staging, part.folder]
    return [path for path in (*paths, part.file if part.file not in own else "") if path]


def _canonical(address: str) -> str:
    """An address in the form that the driver uses in tasks."""
    return address.rstrip("/") if is_remote(address) else os.path.abspath(local_path(address))


def _misleading(address: str) -> str | None:
    """Why an address is ambiguous, as text; None if it is not."""
    if not is_remote(address):
        path = local_path(address)
        if not os.path.isabs(path):
            return "it is not absolute"
        return "it contains '.', '..' or NUL" if re.search(_NO_RELATIVE, path.strip("/") or "-") else None
    _, _, rest = address.partition("://")
    if "::" in address or "://" in rest:
        return "it names another host"
    if re.search(_ENCODED, rest):
        return "it contains an encoded '.', '/', backslash or NUL"
    return unsafe(rest.strip("/") or "-")


def _is_below(address: str, root: str) -> bool:
    if is_remote(address) or is_remote(root):
        return f"{address.rstrip('/')}/".startswith(f"{root.rstrip('/')}/")
    real, bound = os.path.realpath(local_path(address)), os.path.realpath(local_path(root))
    return real == bound or real.startswith(f"{bound.rstrip('/')}/")
