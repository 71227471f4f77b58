"""The lock of a sink: only one run at a time writes into it."""

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
    import hashlib

    folder = ledger.parent / "locks"
    private_folder(folder)
    name = hashlib.sha256(sink.address.encode()).hexdigest()[:32]
    return folders.open_file(os.fspath(folder / name), os.O_RDWR | os.O_CREAT, 0o600)


def take(lock: int) -> None:
    """Lock a file.

    Raises:
        BlockingIOError: another process has locked it.
    """
    until = time.monotonic() + BUSY_FOR
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
