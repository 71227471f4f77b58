"""The timeline of a run: what was measured of every attempt, and of the machine meanwhile.

It is kept beside the ledger, a file for each job, as frames: a length and a MessagePack array of records. Moments
and durations are whole microseconds; moments count from the run's beginning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from imageloom.errors import StorageError
from imageloom.model import Job, Plain

VERSION = 1
KEPT = 200
"""Timelines that are kept beside a ledger: the newest."""
KEPT_BYTES = 2 << 30
"""What they may take together, but for the newest one."""

DONE, RETRIED, FAILED = 0, 1, 2
WHOLE, PART, ASSEMBLED = 0, 1, 2
"""What an attempt was made at: an item, a part of a large one; or the sum of such parts."""


class Opening(Plain, frozen=True, array_like=True, tag=0):
    """What was run, where."""

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
    """A worker is heard of for the first time; the first one has the number 0."""

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
    """The engine got its task; -1 where that is not known."""
    started: int
    read: int
    decode: int
    filter: int
    encode: int
    write: int
    lost: int
    """In unknown stages, until its worker died."""
    collected: int
    """The driver got its outcome."""
    publish: int
    """The duration from then, or from the end of the one before in its task, until it is published."""
    size: int
    """Bytes of the input."""
    written: int
    """Bytes of the outputs."""
    pixels: int
    kind: str = ""
    """Of the failure."""
    reason: str = ""
    part: str = ""
    """Output, phase and number of the part."""

    @property
    def busy(self) -> int:
        """Microseconds of its worker."""
        return self.read + self.decode + self.filter + self.encode + self.write + self.lost


class Look(Plain, frozen=True, array_like=True, tag=3):
    """A look at the machine."""

    at: int
    cores: bytes
    """Percent that each core was busy since the look before."""
    cpu: float
    """Seconds of CPU of the run's processes on this machine, since it began."""
    resident: int
    """Bytes of all the run's processes on this machine; shared ones count in each."""
    proportional: int
    """The same with each shared byte counted once; 0 where it was not measured this time."""


class Closing(Plain, frozen=True, array_like=True, tag=4):
    """The run is over."""

    at: int
    versions: dict[str, str]


Record = Opening | Worker | Attempt | Look | Closing


class Timeline(msgspec.Struct):
    """All that was recorded of a run."""

    opening: Opening
    workers: list[str] = []
    attempts: list[Attempt] = []
    looks: list[Look] = []
    closing: Closing | None = None


def folder_of(ledger: Path) -> Path:
    """Where the timelines of a ledger's jobs lie."""
    return ledger.parent / "timelines" / ledger.stem


def path_of(ledger: Path, job: int) -> Path:
    return folder_of(ledger) / f"{job}.timeline"


def prune(folder: Path) -> None:
    """Delete the oldest timelines, by the jobs' numbers, until few enough are left, and small enough."""
    with suppress(OSError):
        found = [(int(p.stem), p) for p in folder.glob("*.timeline") if p.stem.isdecimal()]
        left = 0
        for place, (_, path) in enumerate(sorted(found, reverse=True)):
            left += path.stat().st_size
            if place >= KEPT or (place and left > KEPT_BYTES):
                path.unlink(missing_ok=True)


def scratch_folders(ledger: Path) -> set[str]:
    """The folders that recorded runs were given for scratch."""
    found = set()
    for path in folder_of(ledger).glob("*.timeline"):
        with suppress(OSError, msgspec.MsgspecError), path.open("rb") as file:
            frame = file.read(int.from_bytes(file.read(4), "big"))
            first = next(iter(msgspec.msgpack.decode(frame, type=list[Record])), None)
            if isinstance(first, Opening) and first.work.scratch:
                found.add(os.path.abspath(first.work.scratch))
    return found


def read(path: Path) -> Timeline:
    """What was recorded; of a run that was killed, as far as it was written down.

    Raises:
        StorageError: there is no such file, or it is no timeline of this version.
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
            elif isinstance(record, Look):
                timeline.looks.append(record)
            else:
                timeline.closing = record
    except msgspec.MsgspecError as error:
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
            return  # the end of a run that was killed
        yield from decoder.decode(data[at + 4 : end])
        at = end
