"""The lock of a sink: only one run at a time writes into it, or one run of each shard.

A run locks the sink exclusively. A run of a shard shares that lock with the other shards, and locks a file of its
own: see `sharding`.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from imageloom.stores import Store
from imageloom.stores.local import LocalStore
from imageloom.system import folders
from imageloom.system.private import private_folder

BUSY_FOR = 0.5
"""Seconds for which a lock is waited for: the process of a run whose program was killed ends a moment later."""


def open_lock(sink: Store, ledger: Path) -> int:
    """Open the file to lock: the folder itself, or for a remote sink a file beside the ledger.

    Remote objects are not used as locks: they would remain after a kill.
    """
    if isinstance(sink, LocalStore):
        return os.dup(sink.root())
    return folders.open_file(os.fspath(beside(sink, ledger)), os.O_RDWR | os.O_CREAT, 0o600)


def beside(sink: Store, ledger: Path) -> Path:
    """The path of a remote sink's lock, in a folder beside the ledger."""
    import hashlib

    folder = ledger.parent / "locks"
    private_folder(folder)
    return folder / hashlib.sha256(sink.address.encode()).hexdigest()[:32]


def take(lock: int, is_shared: bool = False, patience: float = BUSY_FOR) -> None:
    """Lock a file.

    Args:
        is_shared: others may lock it at the same time, if they share it too.
        patience: how long to wait for the lock, in seconds.

    Raises:
        BlockingIOError: another process has locked it.
    """
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    until = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
