"""Transactions of SQLite."""

from __future__ import annotations

import sqlite3

from imageloom.errors import StorageError


class Transaction:
    """BEGIN IMMEDIATE to COMMIT; a full disk or a locked file is a StorageError.

    Args:
        to_disk: wait until the transaction, and all before it, are on the disk. With a log (WAL), SQLite does so
            with synchronous=FULL only: with NORMAL, a power cut may lose the last transactions.
    """

    def __init__(self, db: sqlite3.Connection, to_disk: bool = False) -> None:
        self._db = db
        self._to_disk = to_disk

    def __enter__(self) -> None:
        try:
            if self._to_disk:
                self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise StorageError(f"cannot write to the ledger: {error}") from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            self._end(kind, error)
        finally:
            if self._to_disk:
                self._db.execute("PRAGMA synchronous=NORMAL")

    def _end(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.Error as failed:
                error = failed
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise StorageError(f"cannot write to the ledger: {error}") from None
