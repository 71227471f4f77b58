"""Reads the history of items over several runs of the ledger: what a job of a service did, before and after a
restart.

An item has the state of its last run. Nothing is written. A `History` may be used from any thread, one at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from imageloom.errors import StorageError
from imageloom.model import Plain, Times

State = Literal["done", "failed"]


class ItemLine(Plain, frozen=True, forbid_unknown_fields=False):
    """An item with its last outcome."""

    key: str
    state: State
    attempts: int
    kind: str
    """The failure's kind; empty if the item is done."""
    message: str
    worker: str
    started: float
    """Seconds since the epoch."""
    pixels: int
    times: Times


_LAST = (
    "items.job IN ({runs}) AND NOT EXISTS (SELECT 1 FROM items AS later "
    "WHERE later.job IN ({runs}) AND later.key = items.key AND later.job > items.job)"
)
_COLUMNS = (
    "key, state, attempts, COALESCE(kind, ''), COALESCE(message, ''), worker, started, pixels, "
    "read, decode, filter, encode, write"
)


class History:
    """An open ledger, for reading.

    Args:
        path: path of the ledger.

    Raises:
        StorageError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            address = f"{path.absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(address, 30.0, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def counts(self, runs: Sequence[int]) -> tuple[int, int]:
        """The numbers of done and failed items."""
        query = f"SELECT state, COUNT(*) FROM items WHERE {_last(runs)} GROUP BY state"
        found: dict[str, int] = dict(self._rows(query))
        return found.get("done", 0), found.get("failed", 0)

    def failed(self, runs: Sequence[int]) -> dict[str, float]:
        """The failed items: when each was tried last, in seconds since the epoch, by key."""
        return dict(self._rows(f"SELECT key, started FROM items WHERE {_last(runs)} AND state = 'failed'"))

    def items(
        self, runs: Sequence[int], state: str = "", text: str = "", after: str = "", most: int = 100
    ) -> list[ItemLine]:
        """Items in the order of their keys.

        Args:
            state: only items in this state.
            text: only items whose key or message contains this text, in any case.
            after: only keys after this one.
            most: maximum number of items.
        """
        query, values = f"SELECT {_COLUMNS} FROM items WHERE {_last(runs)} AND key > ?", [after]
        if state:
            query, values = f"{query} AND state = ?", [*values, state]
        if text:
            like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query += " AND (key LIKE ? ESCAPE '\\' OR message LIKE ? ESCAPE '\\')"
            values += [like, like]
        rows = self._rows(f"{query} ORDER BY key LIMIT {int(most)}", tuple(values))
        return [_line(row) for row in rows]

    def item(self, runs: Sequence[int], key: str) -> ItemLine | None:
        """One item with its last outcome; None if it has none."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM items WHERE {_last(runs)} AND key = ?", (key,))
        return _line(rows[0]) if rows else None

    def trace(self, runs: Sequence[int], key: str) -> str:
        """The traceback of an item's last failure; empty if there is none."""
        rows = self._rows(
            f"SELECT trace FROM traces WHERE job IN ({_listed(runs)}) AND key = ? ORDER BY job DESC", (key,)
        )
        return str(rows[0][0]) if rows else ""

    def outputs(self, run: int, key: str) -> list[str]:
        """The names of an item's outputs in the sink of a run, sorted."""
        rows = self._rows(
            "SELECT outputs.name FROM jobs JOIN texts AS sinks ON sinks.text = jobs.sink "
            "JOIN texts AS sources ON sources.text = jobs.source "
            "JOIN outputs ON outputs.sink = sinks.id AND outputs.source = sources.id "
            "WHERE jobs.id = ? AND outputs.key = ? AND outputs.size IS NOT NULL ORDER BY outputs.name",
            (run, key),
        )
        return [name for (name,) in rows]

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: sqlite3.Error) -> StorageError:
        return StorageError(f"cannot read the ledger {self._path}: {error}")


def _line(row: Any) -> ItemLine:
    key, state, attempts, kind, message, worker, started, pixels, *times = row
    return ItemLine(key, state, attempts, kind, message, worker, started, pixels, Times(*times))


def _last(runs: Sequence[int]) -> str:
    """The condition for the last outcome of each item. The numbers of runs are whole numbers: no text gets in."""
    return _LAST.format(runs=_listed(runs)) if len(runs) != 1 else f"items.job = {int(runs[0])}"


def _listed(runs: Sequence[int]) -> str:
    return ", ".join(str(int(run)) for run in runs) or "NULL"
