"""Run as a program: does files by themselves and says what came of each, how long, how much memory.

    python bounded.py SOURCE SINK < NAMES

For each name of a file in SOURCE, a line with the name, and then one of JSON: for each stage the kind and the
message of its failure or null, the seconds of processor time, and by how many bytes the resident memory rose at
its highest (Linux). The stages are: the header, in the driver; the whole file, in a worker; the file in pieces, in
both. A file that takes much too long, or crashes, ends the process, with its name said.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from imageloom import codecs
from imageloom.codecs.damage import DamageLog
from imageloom.errors import LimitExceeded
from imageloom.model import Failure, Header, Item, Limits, Output, Recipe, Step, Task, Work
from imageloom.recipes.plan import check_limits, make_plan
from imageloom.stores.local import LocalStore
from imageloom.tiling.large import needs_of
from imageloom.tiling.loader import open_in_pieces
from imageloom.worker.perform import perform

MEMORY = 200_000_000
"""As of --memory: what an image may need, by its header."""
KILLED_AFTER = 10.0
"""Seconds of processor time."""
ROOM = 4 << 30
"""Bytes of address space."""


class Stage(msgspec.Struct):
    """What came of one stage."""

    name: str
    failure: str | None
    message: str
    seconds: float
    bytes: int


class File:
    """A file and what is known of it."""

    def __init__(self, source: Path, name: str, sink: LocalStore) -> None:
        self._path = source / name
        self._store = LocalStore(str(source))
        self._sink = sink
        self._size = self._path.stat().st_size
        self._header: Header | None = None
        self._recipe = Recipe((Output((Step("flip"),)),))

    def stages(self) -> list[Stage]:
        measured = [_measured("driver", self._look)]
        if self._header is not None:
            measured += [_measured("whole", self._whole), _measured("tiled", self._tiled)]
        return measured

    def _look(self) -> None:
        name = self._path.name
        header = codecs.read_header(
            lambda length: self._store.head(name, length),
            self._size,
            lambda at, length: self._store.head(name, length, at),
        )
        check_limits(header, Limits(), self._size)
        make_plan(header, self._recipe)
        self._header = header

    def _whole(self) -> None:
        assert self._header is not None
        needed = make_plan(self._header, self._recipe).bytes + self._size
        if needed > MEMORY:
            raise LimitExceeded("it needs more than --memory")
        work = Work(Item(self._path.name, self._size), (self._path.name,), 1)
        task = Task(1, "1", str(self._path.parent), self._sink.address, self._recipe, Limits(), (work,))
        failure = perform(task).results[0].failure
        if failure:
            raise _Failed(failure)

    def _tiled(self) -> None:
        assert self._header is not None
        needs = needs_of(self._header, make_plan(self._header, self._recipe), self._size)
        if max(need.bytes for need in needs.values()) > MEMORY:
            raise LimitExceeded("it needs more than --memory")
        codecs.metadata_of(str(self._path), self._header.format)
        reader = open_in_pieces(str(self._path), self._header, DamageLog())
        if reader is None:  # it is decoded as a whole, as before
            return
        try:
            for index in range(len(reader.pieces)):
                reader.read(*reader.pieces.box(index))
        finally:
            reader.close()


class _Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def _measured(name: str, do: Callable[[], None]) -> Stage:
    ctypes.CDLL(None).malloc_trim(0)  # what the file before has left is not this one's
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    failure = None
    signal.setitimer(signal.ITIMER_PROF, KILLED_AFTER)
    began = time.process_time()
    try:
        do()
    except _Failed as error:
        failure = error.failure
    except Exception as error:
        failure = Failure.of(error)
    seconds = time.process_time() - began
    signal.setitimer(signal.ITIMER_PROF, 0)
    kind, message = (failure.kind, failure.message) if failure else (None, "")
    return Stage(name, kind, message, seconds, max(0, _memory("VmHWM") - before))


def _memory(field: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at the highest since it was last forgotten."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(source: Path, sink: Path) -> None:
    store = LocalStore(str(sink))
    store.prepare()
    taken = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        name = line.rstrip("\n")
        os.write(1, name.encode() + b"\n")
        stages = File(source, name, store).stages()
        with suppress(FileNotFoundError):
            for made in (sink / ".imageloom").iterdir():  # what is staged is not published here
                made.unlink()
        os.write(1, msgspec.json.encode(stages) + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
