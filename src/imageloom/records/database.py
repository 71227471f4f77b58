"""The ledger's file: opened, copied, and its tables created."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from imageloom.errors import StorageError
from imageloom.records.schema import LOSSES, SCHEMA, TRACES, VERSION
from imageloom.records.transaction import Transaction
from imageloom.system.descriptors import patiently
from imageloom.system.private import private_database


def opened(path: Path, is_usual: bool) -> sqlite3.Connection:
    """The database at a path. Its folder and file are created if they do not exist.

    Args:
        is_usual: the path is that of the user's own ledger.

    Raises:
        sqlite3.Error, OSError: the file cannot be opened.
    """

    def connected() -> sqlite3.Connection:
        private_database(path, is_usual)
        db = sqlite3.connect(path, timeout=30, isolation_level=None)
        db.execute("PRAGMA synchronous=NORMAL")
        return db

    return patiently(connected)


def copied(path: Path) -> sqlite3.Connection:
    """A copy in memory of the database at a path; empty if there is none. Raises the same errors."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    if path.exists():
        with closing(sqlite3.connect(path, timeout=30)) as db:
            db.backup(copy)
    return copy


def create_tables(db: sqlite3.Connection) -> None:
    """Create the tables that do not exist, and the columns that earlier programs did not have.

    Raises:
        StorageError: the database is another program's, or has another version.
        sqlite3.Error: it cannot be read or written.
    """
    if _version(db) == 0:
        with Transaction(db):
            if _version(db) == 0:
                if db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise StorageError("it is another program's database")
                for statement in SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={VERSION}")
    if _version(db) != VERSION:
        raise StorageError(f"it has version {_version(db)}, this program needs version {VERSION}")
    if not _has_times(db):
        with Transaction(db):
            if not _has_times(db):  # another run may have added it
                db.execute("ALTER TABLE outputs ADD COLUMN mtime INTEGER")
    db.execute(TRACES)
    db.execute(LOSSES)


def _version(db: sqlite3.Connection) -> int:
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


def _has_times(db: sqlite3.Connection) -> bool:
    return any(column == "mtime" for _, column, *_ in db.execute("PRAGMA table_info(outputs)"))
