"""What a run has in hand, in a file that outlives it.

A codec or an operator that crashes in native code ends the process, and with threads the run. So each item is
noted when it is begun, by a store into a mapped file: the note outlives the crash, and costs a microsecond. The
next run finds what was in hand: those items are suspects, and each is done alone, in a process of its own where
that can be. A kill and a power cut look like a crash; an innocent item is done as any other then.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path

from imageloom.errors import StorageError
from imageloom.model import Item
from imageloom.system.private import private_folder

SLOT = 256
"""Bytes of an item's note: the number of runs that ended with it in hand, the length of its name, its name."""
SLOTS = 512
MOST_RUNS = 3
"""Runs that may end with an item in hand, where it cannot be done in a process of its own."""

_HEAD = struct.Struct("<BH")
log = logging.getLogger(__name__)

noted: dict[str, InHand] = {}
"""The open notes of this process's runs, by the addresses of their sinks."""


def _name(item: Item) -> bytes:
    """What a note says of an item. Of a long key the end is enough: to be taken for another one harms nobody."""
    return f"{item.key}\0{item.fingerprint}".encode(errors="surrogateescape")[_HEAD.size - SLOT :]


class InHand:
    """The notes of one run; nothing is noted where the file cannot be made.

    Args:
        folder: for such files, beside the ledger.
        source, sink: their addresses; the run is the only one that writes into the sink.
    """

    def __init__(self, folder: Path, source: str, sink: str) -> None:
        self._folder = folder
        self._path = folder / hashlib.sha256(f"{source}\n{sink}".encode()).hexdigest()[:32]
        self._sink = sink
        self._suspects: dict[bytes, int] = {}
        self._kept: set[bytes] = set()
        self._notes: mmap.mmap | bytearray = bytearray(SLOT * SLOTS)
        self._free: list[int] = []

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    def open(self) -> None:
        """Find what was in hand when an earlier run ended, and begin to take notes."""
        with suppress(FileNotFoundError):
            self._suspects = _read(self._path.read_bytes())
        if self._suspects:
            log.warning(
                "an earlier run ended abnormally (crash, kill or out of memory) while processing %d items: "
                "each of them is processed alone now",
                len(self._suspects),
            )
        try:
            self._write()
        except StorageError:
            raise
        except OSError as error:  # the disk is full: the run goes on without notes
            log.warning("items in progress are not recorded: %s: %s", self._path, error.strerror)
        noted[self._sink] = self

    def _write(self) -> None:
        """Put the suspects into a file of their own and map it."""
        notes = bytearray(SLOT * SLOTS)  # on disk before it is mapped: a full disk crashes no store
        for slot, (name, runs) in enumerate(self._suspects.items()):
            _put(notes, slot, name, runs)
        private_folder(self._folder)
        new = self._path.with_suffix(".new")
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(file, notes) < len(notes):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._notes = mmap.mmap(file, len(notes))
        finally:
            os.close(file)
        os.replace(new, self._path)
        self._free = list(range(SLOTS - 1, len(self._suspects) - 1, -1))

    def runs(self, item: Item) -> int:
        """How many runs have ended with an item in hand; 0 for one that is no suspect."""
        return self._suspects.get(_name(item), 0) if self._suspects else 0

    def begin(self, item: Item) -> int:
        """Note that an item is begun in this process: its slot. Safe to call from any thread."""
        name = _name(item)
        runs = min(255, 1 + self._suspects.get(name, 0)) if self._suspects else 1
        try:
            slot = self._free.pop()
        except IndexError:
            return -1
        _put(self._notes, slot, name, runs)
        return slot

    def end(self, slot: int) -> None:
        """The item of a slot is in hand no more."""
        if slot >= 0:
            self._notes[slot * SLOT] = 0
            self._free.append(slot)

    def clear(self, item: Item) -> None:
        """An item is no suspect any more."""
        self._suspects.pop(_name(item), None)

    def keep(self, item: Item) -> None:
        """An item stays a suspect."""
        self._kept.add(_name(item))

    def close(self, all_seen: bool) -> None:
        """Write down the suspects that are left for the next run.

        Args:
            all_seen: the run has come to all items: a suspect that was not kept has changed, or is gone.
        """
        if noted.pop(self._sink, None) is None:
            return
        if all_seen:
            self._suspects = {name: runs for name, runs in self._suspects.items() if name in self._kept}
        with suppress(OSError):
            if self._suspects:
                self._write()
            else:
                self._path.unlink(missing_ok=True)
        self._notes = bytearray(SLOT * SLOTS)  # for workers that go on when the second Ctrl-C ended the run


def _put(notes: mmap.mmap | bytearray, slot: int, name: bytes, runs: int) -> None:
    at = slot * SLOT
    notes[at : at + _HEAD.size + len(name)] = _HEAD.pack(runs, len(name)) + name


def _read(data: bytes) -> dict[bytes, int]:
    """The items in a file of notes, with the number of runs that ended with them in hand."""
    found: dict[bytes, int] = {}
    for at in range(0, min(len(data), SLOT * SLOTS) - SLOT + 1, SLOT):
        runs, length = _HEAD.unpack_from(data, at)
        if runs and length <= SLOT - _HEAD.size:
            name = data[at + _HEAD.size : at + _HEAD.size + length]
            found[name] = max(found.get(name, 0), runs)
    return dict(list(found.items())[: SLOTS // 2])
