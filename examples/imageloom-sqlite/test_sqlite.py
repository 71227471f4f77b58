import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from imageloom.testing.stores import StoreTests
from imageloom_sqlite import TABLE


class Table:
    """The table, without the store's code."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.address = f"sqlite://{path}"
        self._ask(TABLE)

    def _ask(self, query: str, *values: object) -> list[tuple[str, bytes]]:
        with closing(sqlite3.connect(self._path)) as database, database:
            return database.execute(query, values).fetchall()

    def put(self, key: str, data: bytes) -> None:
        self._ask("REPLACE INTO files VALUES (?, ?, 0, '')", key, data)

    def contents(self) -> dict[str, bytes]:
        return dict(self._ask("SELECT key, data FROM files"))


class TestSqlite(StoreTests):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Table:
        return Table(tmp_path / "files.db")
