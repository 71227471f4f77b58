"""The locks of shards: each shard of a sink takes one run at a time, and all that run have the same count.

The lock of a shard is a file whose name has its numbers, in the staging folder of a local sink, or in a folder
beside the ledger for a remote one. That folder is locked while such files are made and removed. So the locks of a
local sink hold for all machines that see it, and those of a remote sink for all runs with the same ledger.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imageloom.driver import locking
from imageloom.errors import DuplicateOutput, SinkBusy
from imageloom.model import Result, Shard, Work
from imageloom.records.ledger import Ledger
from imageloom.stores import Store
from imageloom.stores.local import LocalStore
from imageloom.stores.names import lock_of, own_tokens, shard_of_lock
from imageloom.stores.staging import Staged, StagingFolder
from imageloom.system import descriptors, folders
from imageloom.system.private import private_folder

FOLDER_BUSY_FOR = 10.0
"""Seconds for which the folder of the locks is waited for. Others hold it for at most `locking.BUSY_FOR`."""


class ShardLock:
    """The lock of a shard. The run shares the lock of the sink with the other shards meanwhile.

    Raises:
        SinkBusy: another run processes the shard, or shards with another count write into the sink.
        StorageError: the staging folder cannot be used.
        OSError: the folder or the file cannot be locked.
    """

    def __init__(self, sink: Store, ledger: Path, shard: Shard) -> None:
        self._sink = sink
        self._ledger = ledger
        self._name = lock_of(shard.number, shard.count)
        with self._folder() as (folder, _):
            for name in _locks(folder):
                other = shard_of_lock(name)
                if other and other[1] != shard.count and _is_held(folder, name):
                    raise SinkBusy(
                        f"shard {other[0]}/{other[1]} is writing into {sink.address}{_holder(folder, name)}: "
                        f"shard {shard} has another count, so wait until those shards end"
                    )
            self._lock = _open(folder, self._name)
            try:
                locking.take(self._lock)
            except BlockingIOError:
                os.close(self._lock)
                raise SinkBusy(
                    f"shard {shard} is writing into {sink.address}{_holder(folder, self._name)}: wait until it "
                    "ends, a shard takes one run at a time"
                ) from None
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()} on {platform.node()}".encode(), 0)

    def close(self) -> None:
        """Release the lock. The last shard removes the staging folder, with what killed runs have left."""
        with suppress(OSError), self._folder() as (folder, staging):
            os.close(self._lock)
            self._lock = -1
            folders.remove(self._name, folder)
            if staging and not any(_is_held(folder, name) for name in _locks(folder)):
                staging.remove()
        if self._lock >= 0:
            os.close(self._lock)

    @contextmanager
    def _folder(self) -> Iterator[tuple[int, StagingFolder | None]]:
        """The open and locked folder of the locks; also as a staging folder if it is that of a local sink."""
        while True:
            staging = folder = None
            if isinstance(self._sink, LocalStore):
                staging = StagingFolder(self._sink.root(), self._sink.address)
                folder = staging.folder
            else:
                path = locking.beside(self._sink, self._ledger).with_suffix(".shards")
                private_folder(path)
                folder = descriptors.open_file(os.fspath(path), folders.FOLDER)
            try:
                locking.take(folder, patience=FOLDER_BUSY_FOR)
                if os.fstat(folder).st_nlink:  # otherwise the last shard has just removed it
                    yield folder, staging
                    return
            finally:
                os.close(folder)


def _locks(folder: int) -> list[str]:
    return [name for name in os.listdir(folder) if shard_of_lock(name)]


def _open(folder: int, name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return descriptors.open_file(name, flags, 0o600, dir_fd=folder)


def _is_held(folder: int, name: str) -> bool:
    """Whether a run has locked a file."""
    file = _open(folder, name)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _holder(folder: int, name: str) -> str:
    """Which process has locked a file, as text."""
    file = _open(folder, name)
    try:
        found = os.pread(file, 200, 0).decode("utf-8", "replace")
    finally:
        os.close(file)
    return f" (process {found})" if found.isprintable() and found else ""


def share(sink: Store, ledger: Ledger, shard: Shard) -> ShardLock:
    """Lock a shard, and have store and ledger reckon with other shards. Raises the same errors as `ShardLock`."""
    lock = ShardLock(sink, ledger.path, shard)
    ledger.is_shared = True
    if isinstance(sink, Staged):
        sink.own = own_tokens(shard.number)
    return lock


def check_claimed(ledger: Ledger, sink: str, source: str, work: Work, result: Result) -> None:
    """Check that an item has claimed the names of its outputs, after these claims were written.

    Raises:
        DuplicateOutput: an item of another shard was faster to claim a name.
    """
    for written in result.written:
        claim = ledger.claim_of(sink, written.name)
        if claim is None or (claim.source, claim.key) != (source, work.item.key):
            whose = claim.key if claim else "another item"
            raise DuplicateOutput(f"its output {written.name} is already the output of {whose} (see --name)")
