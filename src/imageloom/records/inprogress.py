"""The items in progress of a run, in a file that survives a crash.

A codec or an operator that crashes in native code ends the process, and with the engine threads the whole run.
So each item is recorded when it is started, in a memory-mapped file: this costs a microsecond, and survives a
crash. The next run reads the file. The items in it are suspects: each is processed alone, if possible in a
separate process. A kill and a power cut look like a crash; then the suspects are processed without a failure.
"""

from __future__ import annotations

import errno
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
"""Bytes of an item's record: number of runs that ended while processing it, length of its name, name."""
SLOTS = 512
MOST_RUNS = 3
"""An item that cannot be isolated in a separate process is quarantined after this number of abnormal ends."""

_HEAD = struct.Struct("<BH")
log = logging.getLogger(__name__)

open_records: dict[str, InProgress] = {}
"""The open records of this process's runs, by the addresses of their sinks."""


def _name(item: Item) -> bytes:
    """The name of an item in a record. Only the end of a long key is kept: a mix-up of items is harmless."""
    return f"{item.key}\0{item.fingerprint}".encode(errors="surrogateescape")[_HEAD.size - SLOT :]


class InProgress:
    """The record of the items in progress of one run. If its file cannot be created, nothing is recorded.

    Args:
        path: the file, in a folder of its own kind. It must be the same for all runs with this source and sink.
        sink: address of the sink; no other run writes into it.
    """

    def __init__(self, path: Path, sink: str) -> None:
        self._folder = path.parent
        self._path = path
        self._sink = sink
        self._suspects: dict[bytes, int] = {}
        self._kept: set[bytes] = set()
        self._notes: mmap.mmap | bytearray = bytearray(SLOT * SLOTS)
        self._free: list[int] = []

    @property
    def has_suspects(self) -> bool:
        return bool(self._suspects)

    def open(self) -> None:
        """Read the suspects of an earlier run, and start recording."""
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
        except OSError as error:  # the disk is full: the run continues without a record
            log.warning("items in progress are not recorded: %s: %s", self._path, error.strerror)
        open_records[self._sink] = self

    def _write(self) -> None:
        """Write the suspects into a new file and map it."""
        notes = bytearray(
            SLOT * SLOTS
        )  # written before it is mapped: with a full disk, storing into a mapped hole would crash
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
        """Number of runs that ended while processing an item; 0 if it is not a suspect."""
        return self._suspects.get(_name(item), 0) if self._suspects else 0

    def begin(self, item: Item) -> int:
        """Record that an item was started in this process. Returns its slot; -1 if there is none. Thread-safe."""
        name = _name(item)
        runs = min(255, 1 + self._suspects.get(name, 0)) if self._suspects else 1
        try:
            slot = self._free.pop()
        except IndexError:
            return -1
        _put(self._notes, slot, name, runs)
        return slot

    def end(self, slot: int) -> None:
        """Record that the item of a slot is finished."""
        if slot >= 0:
            self._notes[slot * SLOT] = 0
            self._free.append(slot)

    def clear(self, item: Item) -> None:
        """Remove an item from the suspects."""
        self._suspects.pop(_name(item), None)

    def keep(self, item: Item) -> None:
        """Keep an item as a suspect for the next run."""
        self._kept.add(_name(item))

    def close(self, all_seen: bool) -> None:
        """Write the remaining suspects for the next run.

        Args:
            all_seen: the run has seen all items, so a suspect that was not kept has changed or was deleted.
        """
        if open_records.pop(self._sink, None) is None:
            return
        if all_seen:
            self._suspects = {name: runs for name, runs in self._suspects.items() if name in self._kept}
        with suppress(OSError):
            if self._suspects:
                self._write()
            else:
                self._path.unlink(missing_ok=True)
        self._notes = bytearray(SLOT * SLOTS)  # for worker threads that continue after a second Ctrl-C


def _put(notes: mmap.mmap | bytearray, slot: int, name: bytes, runs: int) -> None:
    at = slot * SLOT
    notes[at : at + _HEAD.size + len(name)] = _HEAD.pack(runs, len(name)) + name


def _read(data: bytes) -> dict[bytes, int]:
    """The items in the content of a file, each with the number of runs that ended while processing it."""
    found: dict[bytes, int] = {}
    for at in range(0, min(len(data), SLOT * SLOTS) - SLOT + 1, SLOT):
        runs, length = _HEAD.unpack_from(data, at)
        if runs and length <= SLOT - _HEAD.size:
            name = data[at + _HEAD.size : at + _HEAD.size + length]
            found[name] = max(found.get(name, 0), runs)
    return dict(list(found.items())[: SLOTS // 2])
