"""The timeline of a run: measurements of every attempt, and of the machine during the run.

It is stored beside the ledger, one file per job, as frames: a length and a MessagePack array of records. Times and
durations are integers in microseconds. Times count from the start of the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from imageloom.errors import StorageError
from imageloom.model import UNREADABLE, Job, Plain

VERSION = 1
KEPT = 200
"""Number of timelines that are kept beside a ledger: the newest."""
KEPT_BYTES = 2 << 30
"""Maximum size of all timelines except the newest, in bytes."""

DONE, RETRIED, FAILED = 0, 1, 2
WHOLE, PART, ASSEMBLED = 0, 1, 2
"""The object of an attempt: an item, a part of a large item, or the sum of its parts."""


class Opening(Plain, frozen=True, array_like=True, tag=0):
    """The job, the engine and the machine of the run."""

    version: int
    job: int
    pid: int
    began: float
    """Seconds since the epoch."""
    engine: str
    workers: int
    cores: int
    system: str
    work: Job


class Worker(Plain, frozen=True, array_like=True, tag=1):
    """A worker reports for the first time. Workers are numbered from 0."""

    name: str


class Attempt(Plain, frozen=True, array_like=True, tag=2):
    """One attempt at an item or a part."""

    key: str
    worker: int
    number: int
    """1 for the first attempt."""
    made_at: int
    outcome: int
    submitted: int
    """Time at which its task was submitted to the engine; -1 if unknown."""
    started: int
    read: int
    decode: int
    filter: int
    encode: int
    write: int
    lost: int
    """Duration in unknown stages, until its worker died."""
    collected: int
    """Time at which the driver collected its outcome."""
    publish: int
    """Duration from `collected`, or from the end of the attempt before it in its task, until it was published."""
    size: int
    """Size of the input in bytes."""
    written: int
    """Size of the outputs in bytes."""
    pixels: int
    kind: str = ""
    """Kind of the failure; empty if the attempt succeeded."""
    reason: str = ""
    part: str = ""
    """Output, phase and number of the part."""

    @property
    def busy(self) -> int:
        """Microseconds that its worker was busy with it."""
        return self.read + self.decode + self.filter + self.encode + self.write + self.lost


class Measurement(Plain, frozen=True, array_like=True, tag=3):
    """A measurement of the machine."""

    at: int
    cores: bytes
    """Load of each core since the measurement before, in percent."""
    cpu: float
    """CPU seconds of the run's processes on this machine, since the start of the run."""
    resident: int
    """Memory of the run's processes on this machine in bytes; shared memory is counted in each process."""
    proportional: int
    """The same with shared memory counted once; 0 if it was not measured this time."""


class Closing(Plain, frozen=True, array_like=True, tag=4):
    """The run has ended."""

    at: int
    versions: dict[str, str]


Record = Opening | Worker | Attempt | Measurement | Closing


class Timeline(msgspec.Struct):
    """All records of a run."""

    opening: Opening
    workers: list[str] = []
    attempts: list[Attempt] = []
    measurements: list[Measurement] = []
    closing: Closing | None = None


def folder_of(ledger: Path) -> Path:
    """The folder with the timelines of a ledger's jobs."""
    return ledger.parent / "timelines" / ledger.stem


def path_of(ledger: Path, job: int) -> Path:
    return folder_of(ledger) / f"{job}.timeline"


def prune(folder: Path) -> None:
    """Delete the oldest timelines, by job number, until at most KEPT and KEPT_BYTES remain."""
    with suppress(OSError):
        found = [(int(p.stem), p) for p in folder.glob("*.timeline") if p.stem.isdecimal()]
        left = 0
        for place, (_, path) in enumerate(sorted(found, reverse=True)):
            left += path.stat().st_size
            if place >= KEPT or (place and left > KEPT_BYTES):
                path.unlink(missing_ok=True)


def scratch_folders(ledger: Path) -> set[str]:
    """The scratch folders of recorded runs (--scratch)."""
    found = set()
    for path in folder_of(ledger).glob("*.timeline"):
        with suppress(OSError, *UNREADABLE), path.open("rb") as file:
            frame = file.read(int.from_bytes(file.read(4), "big"))
            first = next(iter(msgspec.msgpack.decode(frame, type=list[Record])), None)
            if isinstance(first, Opening) and first.work.scratch:
                found.add(os.path.abspath(first.work.scratch))
    return found


def read(path: Path) -> Timeline:
    """Read a timeline. The timeline of a killed run has all records up to its last frame.

    Raises:
        StorageError: there is no such file, or it is not a timeline of this version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read the timeline {path}: {error.strerror}") from None
    timeline: Timeline | None = None
    try:
        for record in _records(data):
            if isinstance(record, Opening):
                timeline = Timeline(record)
            elif timeline is None:
                break
            elif isinstance(record, Attempt):
                timeline.attempts.append(record)
            elif isinstance(record, Worker):
                timeline.workers.append(record.name)
            elif isinstance(record, Measurement):
                timeline.measurements.append(record)
            else:
                timeline.closing = record
    except UNREADABLE as error:
        raise StorageError(f"the timeline {path} is damaged: {error}") from None
    if timeline is None or timeline.opening.version != VERSION:
        raise StorageError(f"{path} is not a timeline, or has another version")
    return timeline


def _records(data: bytes) -> Iterator[Record]:
    decoder = msgspec.msgpack.Decoder(list[Record])
    at = 0
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return  # an incomplete last frame, of a killed run
        yield from decoder.decode(data[at + 4 : end])
        at = end
