"""The persistent state of a driver: its ledger, its sink, its notes. A killed driver cannot change it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from imageloom.records.inprogress import InProgress, open_records
from imageloom.records.ledger import Ledger
from imageloom.stores.local import LocalStore
from imageloom.testing.simulation.clock import DriverProcess


class KillableLedger(Ledger):
    """The ledger. The driver may be killed at each statement."""

    def __init__(self, path: Path, process: DriverProcess) -> None:
        self._process = process
        try:
            super().__init__(path)
        except BaseException:
            self.abandon()
            raise

    def _open(self, is_usual: bool) -> sqlite3.Connection:
        return _Connection(super()._open(is_usual), self._process)  # type: ignore[return-value]

    def claimed(self) -> set[str]:
        """All claimed names."""
        return {name for (name,) in self._select("SELECT name FROM outputs")}

    def claim_on_disk(self, sink: str, name: str) -> str:
        """The key of the item with the claim on a name, as another process sees it; empty for none."""
        if self._db.in_transaction:
            return ""
        row = self._select(
            "SELECT key FROM outputs JOIN texts ON texts.id = outputs.sink WHERE texts.text = ? AND name = ?",
            (sink, name),
        ).fetchone()
        return row[0] if row else ""

    def abandon(self) -> None:
        """Close the file like the system after a kill: uncommitted changes are lost."""
        self._db.close()


class _Connection:
    def __init__(self, db: sqlite3.Connection, process: DriverProcess) -> None:
        self._db, self._process = db, process
        self.close = db.close

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, query: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        if query.startswith("SELECT"):
            self._process.check()
        else:
            self._process.step()
        found = self._db.execute(query, tuple(values))
        if query == "COMMIT":
            self._process.step()
        return found

    def executemany(self, query: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        self._process.step()
        return self._db.executemany(query, rows)


class KillableStore(LocalStore):
    """The store of the sink.

    Args:
        published: called with the token and the name before each publication. It may raise an error, like a full
            disk.
    """

    def __init__(self, address: str, process: DriverProcess, published: Callable[[str, str], None]) -> None:
        super().__init__(address)
        self._process, self._published = process, published

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> int:
        self._process.step()
        self._published(token, key)
        written = super().publish(token, key, maker, replace)
        self._process.step()
        return written

    def discard(self, token: str) -> None:
        self._process.step()
        super().discard(token)

    def tidy(self) -> None:
        if self._process.is_dead:
            self.close()
        else:
            super().tidy()


def make_killable(notes: InProgress, process: DriverProcess) -> None:
    """Keep the notes of items in progress unchanged if the driver is killed."""
    close = notes.close

    def close_unless_killed(all_seen: bool) -> None:
        if process.is_dead:
            open_records.pop(notes._sink, None)
        else:
            close(all_seen)

    setattr(notes, "close", close_unless_killed)  # noqa: B010
