"""What a driver holds that outlives it: its ledger, its sink, its notes. After its death nothing changes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from imageloom.records.inhand import InHand, noted
from imageloom.records.ledger import Ledger
from imageloom.stores.local import LocalStore
from imageloom.testing.simulation.clock import Life


class MortalLedger(Ledger):
    """The ledger, each statement of which may be the driver's last."""

    def __init__(self, path: Path, life: Life) -> None:
        self._life = life
        try:
            super().__init__(path)
        except BaseException:
            self.abandon()
            raise

    def _open(self, is_usual: bool) -> sqlite3.Connection:
        return _Connection(super()._open(is_usual), self._life)  # type: ignore[return-value]

    def claimed(self) -> set[str]:
        """All names that are claimed."""
        return {name for (name,) in self._select("SELECT name FROM outputs")}

    def claim_on_disk(self, sink: str, name: str) -> str:
        """The key of the item that has the claim on a name, as another process would see it; empty for none."""
        if self._db.in_transaction:
            return ""
        row = self._select(
            "SELECT key FROM outputs JOIN texts ON texts.id = outputs.sink WHERE texts.text = ? AND name = ?",
            (sink, name),
        ).fetchone()
        return row[0] if row else ""

    def abandon(self) -> None:
        """Let go of the file as the system does after a kill: what was not committed is lost."""
        self._db.close()


class _Connection:
    def __init__(self, db: sqlite3.Connection, life: Life) -> None:
        self._db, self._life = db, life
        self.close = db.close

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, query: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        if query.startswith("SELECT"):
            self._life.check()
        else:
            self._life.step()
        found = self._db.execute(query, tuple(values))
        if query == "COMMIT":
            self._life.step()
        return found

    def executemany(self, query: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        self._life.step()
        return self._db.executemany(query, rows)


class MortalStore(LocalStore):
    """The sink's folder.

    Args:
        published: called with a token and a name before the one is given the other; it may raise what a full disk
            would.
    """

    def __init__(self, address: str, life: Life, published: Callable[[str, str], None]) -> None:
        super().__init__(address)
        self._life, self._published = life, published

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        self._life.step()
        self._published(token, key)
        super().publish(token, key, maker, replace)
        self._life.step()

    def discard(self, token: str) -> None:
        self._life.step()
        super().discard(token)

    def tidy(self) -> None:
        if self._life.is_over:
            self.close()
        else:
            super().tidy()


def make_mortal(notes: InHand, life: Life) -> None:
    """Have the notes of what is in hand stay as they are when the driver is killed."""
    close = notes.close

    def close_alive(all_seen: bool) -> None:
        if life.is_over:
            noted.pop(notes._sink, None)
        else:
            close(all_seen)

    setattr(notes, "close", close_alive)  # noqa: B010
