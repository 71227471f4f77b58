"""Finds and removes leftovers: files and shared memory that remain after a power cut or kill -9.

Most resources disappear without it: shared pixels are in unnamed memory, locks end with their processes, and the
next run into a sink removes staged files. The leftovers of runs without a next run are found here. Nothing is
touched that a running process may use.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from imageloom.errors import StorageError
from imageloom.model import Plain
from imageloom.records import timeline
from imageloom.records.ledger import Ledger
from imageloom.records.schema import JobRecord
from imageloom.stores.names import STAGING
from imageloom.stores.staging import StagingFolder, abandoned, remove_abandoned

SHARED = Path("/dev/shm")
SEGMENTS = "mpich_shm_*"
"""Shared memory of the ranks of the engine mpi. MPICH removes it at the end, but not after kill -9."""
LEFTOVER_AGE = 60.0
"""Age in seconds after which a segment that no process has mapped is a leftover."""


class Leftover(Plain, frozen=True):
    """A file, folder, segment or job that no process uses any more."""

    kind: str
    """staging, scratch, segment or job."""
    name: str
    """Path, or the job's number."""
    what: str
    """Description for users."""
    size: int = 0
    """Size on disk or in memory, in bytes."""


def find(ledger: Ledger, folders: Iterable[str] = ()) -> Iterator[Leftover]:
    """Find all leftovers: jobs in the ledger, files in their sinks and scratch folders, in the given folders and
    in the system's temporary folder, and shared memory."""
    known = [job.sink for job in ledger.jobs()]
    given = [os.path.abspath(folder) for folder in folders]
    for job in ledger.unfinished():
        if not is_running(job):
            yield Leftover(
                "job", str(job.id), f"job {job.id} is listed as running, but its process {job.pid} has ended"
            )
    for sink in dict.fromkeys([*given, *known]):
        yield from _staging(sink)
    for parent in dict.fromkeys([*given, *timeline.scratch_folders(ledger.path), tempfile.gettempdir()]):
        for path in abandoned(parent):
            yield Leftover("scratch", path, "scratch folder of a run that has ended", _size(path))
    yield from _segments()


def remove(leftover: Leftover, ledger: Ledger) -> bool:
    """Remove a leftover. Returns False if that fails, or if a process uses it now."""
    if leftover.kind == "job":
        ledger.mark_killed([int(leftover.name)])
        return True
    if leftover.kind == "scratch":
        return remove_abandoned(leftover.name)
    if leftover.kind == "staging":
        with suppress(StorageError), _locked(os.path.dirname(leftover.name)) as staging:
            if staging:
                staging.remove()
        return not os.path.lexists(leftover.name)
    try:
        os.unlink(leftover.name)
    except OSError:
        return False
    return True


def is_running(job: JobRecord) -> bool:
    """Whether a job's process is running. Another process that now has the same ID does not count."""
    try:
        os.kill(job.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    began = _began(job.pid)
    return began is None or began <= job.started + 1


def _began(pid: int) -> float | None:
    """The start time of a process, in seconds since the epoch; None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
    except (OSError, StopIteration):
        return None
    return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _staging(sink: str) -> Iterator[Leftover]:
    path = os.path.join(sink, STAGING)
    if not os.path.lexists(path):
        return
    try:
        with _locked(sink) as staging:
            if staging is None:
                return
            tokens, others, size = staging.tokens(), staging.others(), staging.size()
    except StorageError as error:
        yield Leftover("staging", path, str(error))
        return
    what = f"{len(tokens)} staged and scratch files of a run that has ended"
    if others:
        what += f"; {len(others)} files that imageloom did not make are kept, such as {min(others)!r}"
    yield Leftover("staging", path, what, size)


@contextmanager
def _locked(sink: str) -> Iterator[StagingFolder | None]:
    """Open and lock the staging folder of a sink, as a run does; None if a run has locked it.

    Raises:
        StorageError: see `StagingFolder`.
    """
    try:
        folder = os.open(sink, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield None
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(folder)
        yield None
        return
    try:
        with closing(StagingFolder(folder, sink, make=False)) as staging:
            yield staging
    finally:
        os.close(folder)


def _size(folder: str) -> int:
    """Disk space of the files in a folder, in bytes."""
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            size += entry.stat(follow_symlinks=False).st_blocks * 512
    return size


def _segments() -> Iterator[Leftover]:
    """Find segments of this user that no process has mapped."""
    found = []
    for path in SHARED.glob(SEGMENTS):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_uid == os.getuid() and time.time() - status.st_mtime > LEFTOVER_AGE:
            found.append((str(path), status.st_blocks * 512))
    mapped = _mapped() if found else set()
    for name, size in sorted(found):
        if name not in mapped:
            yield Leftover("segment", name, "shared memory that no process has mapped", size)


def _mapped() -> set[str]:
    """The shared memory files that a process of this user has mapped."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text().splitlines()
        except OSError:
            continue  # it has ended, or belongs to another user, who cannot map this user's segments
        found |= {line.split(maxsplit=5)[5] for line in lines if f" {SHARED}/" in line}
    return found
