"""Transactions of SQLite."""

from __future__ import annotations

import sqlite3

from imageloom.errors import StorageError


class Transaction:
    """BEGIN IMMEDIATE to COMMIT; a full disk or a locked file is a StorageError."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise StorageError(f"cannot write to the ledger: {error}") from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
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
