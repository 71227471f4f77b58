"""The files of a folder as rows of a table in an SQLite database: `sqlite:///path/of/small.db`.

A commit is one transaction, so an output is seen when it is whole, and one of several workers wins a name.
Files are read and written whole: it is made for many small images.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imageloom.errors import (
    ImageloomError,
    LimitExceeded,
    OutputExists,
    StorageError,
    UnreadableItem,
    UnwritableOutput,
)
from imageloom.model import Item, Unlisted
from imageloom.stores.names import unsafe
from imageloom.stores.remote import RemoteStore, Staging, checked, invalid, is_hidden

TABLE = """CREATE TABLE IF NOT EXISTS files
(key TEXT PRIMARY KEY, data BLOB NOT NULL, mtime_ns INTEGER NOT NULL, maker TEXT NOT NULL)"""
_PATIENCE = 60.0
"""Seconds to wait for another writer."""
_PAGE = 1000


class SqliteStore(RemoteStore):
    """The store. Workers on other machines need the database at the same path."""

    creates = True

    def __init__(self, address: str) -> None:
        self.address = address
        self._path = address.partition("://")[2]
        self._staging = Staging()

    @contextmanager
    def _connection(self, failed: type[ImageloomError], mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """A connection. Each statement is a transaction of its own, unless one was begun.

        Args:
            failed: what an error of the database is raised as.
            mode: "rwc" creates the database.
        """
        try:
            address = f"file:{quote(self._path)}?mode={mode}"
            with closing(sqlite3.connect(address, _PATIENCE, isolation_level=None, uri=True)) as found:
                yield found
        except sqlite3.Error as error:
            raise failed(f"the database {self._path}: {error}") from None

    def _rows(self, failed: type[ImageloomError], query: str, *values: object) -> list[Any]:
        with self._connection(failed) as database:
            return database.execute(query, values).fetchall()

    # Reading

    def items(self) -> Iterator[Item | Unlisted]:
        query = "SELECT key, length(data), mtime_ns FROM files WHERE key > ? ORDER BY key LIMIT ?"
        last = ""
        while rows := self._rows(StorageError, query, last, _PAGE):
            for key, size, mtime_ns in rows:
                if reason := unsafe(key):
                    yield invalid(key, reason)
                elif not is_hidden(key):
                    yield Item(key, size, mtime_ns)
            last = rows[-1][0]

    def find(self, key: str) -> Item | None:
        query = "SELECT key, length(data), mtime_ns FROM files WHERE key = ?"
        rows = self._rows(StorageError, query, key)
        return Item(*rows[0]) if rows else None

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        found = self.find(checked(key))
        if found and found.size > limit:
            raise LimitExceeded(
                f"the file is {found.size:,} bytes, over the limit of {limit:,} (--max-file-size)"
            )
        rows = self._rows(UnreadableItem, "SELECT data, mtime_ns FROM files WHERE key = ?", key)
        if not rows:
            raise UnreadableItem("there is no such file")
        data, mtime_ns = rows[0]
        if planned:
            planned.check(Item(key, len(data), mtime_ns))
        return bytes(data)

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        query = "SELECT substr(data, ?, ?) FROM files WHERE key = ?"
        rows = self._rows(UnreadableItem, query, start + 1, length, checked(key))
        if not rows:
            raise UnreadableItem("there is no such file")
        return bytes(rows[0][0])

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        data = self.read(key, limit, planned)
        with open(path, "xb") as file:
            file.write(data)

    # Writing

    def prepare(self, scratch: str) -> None:
        with self._connection(StorageError, "rwc") as database:
            database.execute(TABLE)
        self._staging.prepare(scratch)

    def tidy(self) -> None:
        self._staging.tidy()

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        self._put(key, self._staging.take(token), maker, replace)

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        """Write an output that was made as a file; others were written by `commit`."""
        path = self._staging.file(token)
        if path is not None:
            self._put(key, Path(path).read_bytes(), maker, replace)
            self._staging.discard(token)

    def _put(self, key: str, data: bytes, maker: str, replace: bool) -> None:
        """Write a file, unless another one has its name: neither of this maker nor with the same bytes."""
        checked(key)
        with self._connection(UnwritableOutput) as database:
            database.execute("BEGIN IMMEDIATE")
            rows = database.execute("SELECT maker, data FROM files WHERE key = ?", (key,)).fetchall()
            if rows and not replace and rows[0][0] != maker:
                if rows[0][1] == data:
                    return
                raise OutputExists(f"its output {key} exists and is not from this run: choose --if-exists")
            row = (key, data, time.time_ns(), maker)
            database.execute("REPLACE INTO files VALUES (?, ?, ?, ?)", row)
            database.execute("COMMIT")
