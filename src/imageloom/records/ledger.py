"""The ledger: the durable record of jobs, claims on output names, and done and failed items.

SQLite in WAL mode on a local disk. The table `outputs` lists the outputs in each sink, with their input and
recipe. The table `items` is the history, with one row per item and job. Rows are collected and written in short
transactions, so that several runs can share one ledger. A kill can lose only the last rows. A claim is always
written before its output is published, so an output of imageloom is never mistaken for another program's file.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from imageloom.errors import StorageError
from imageloom.model import Failure, Item, Plain, Result, Times
from imageloom.records.transaction import Transaction
from imageloom.system.descriptors import patiently
from imageloom.system.private import private_database

VERSION = 1
MOST_NOTED = 500
"""Maximum number of items that wait for a flush."""

_SCHEMA = """
-- addresses and meanings of recipes, each one once
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, sink TEXT NOT NULL,   -- addresses
    recipe TEXT NOT NULL,                       -- as people read it
    engine TEXT NOT NULL, workers INTEGER NOT NULL,
    pid INTEGER NOT NULL, state TEXT NOT NULL,
    started REAL NOT NULL, finished REAL,       -- seconds since the epoch
    done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE outputs (
    sink INTEGER NOT NULL, name TEXT NOT NULL,  -- sink, source and recipe are texts
    source INTEGER NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL,
    recipe INTEGER NOT NULL,                    -- what it means
    job INTEGER NOT NULL,                       -- that claimed the name first; 0 when it was filled before
    size INTEGER,                               -- bytes; NULL while it is only claimed
    PRIMARY KEY (sink, name)
) WITHOUT ROWID;
CREATE INDEX outputs_by_item ON outputs (sink, source, key);
CREATE TABLE items (
    job INTEGER NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL,
    kind TEXT, message TEXT,                    -- of the failure
    worker TEXT NOT NULL, started REAL NOT NULL, pixels INTEGER NOT NULL,
    read REAL NOT NULL, decode REAL NOT NULL, filter REAL NOT NULL, encode REAL NOT NULL, write REAL NOT NULL,
    PRIMARY KEY (job, key)
) WITHOUT ROWID;
"""

_TRACES = """
CREATE TABLE IF NOT EXISTS traces (             -- tracebacks of failed items: not in ledgers of earlier programs
    job INTEGER NOT NULL, key TEXT NOT NULL, trace TEXT NOT NULL, PRIMARY KEY (job, key)
) WITHOUT ROWID
"""

JobState = Literal["running", "done", "failed", "interrupted", "killed"]


class JobRecord(Plain, frozen=True):
    """A job in the ledger."""

    id: int
    source: str
    sink: str
    recipe: str
    engine: str
    workers: int
    pid: int
    state: JobState
    started: float
    """Seconds since the epoch."""
    finished: float | None
    done: int
    failed: int
    skipped: int


class ItemRecord(Plain, frozen=True):
    """An item of a job in the ledger."""

    key: str
    state: Literal["done", "failed"]
    attempts: int
    failure: Failure | None
    worker: str
    started: float
    pixels: int
    times: Times


class Claim(Plain, frozen=True):
    """The item that has claimed an output name of a sink."""

    source: str
    key: str
    job: int
    is_filled: bool
    """Whether its output was published."""


def default_path() -> Path:
    """The default path of the ledger, in the user's state directory (XDG_STATE_HOME)."""
    import platformdirs

    return platformdirs.user_state_path("imageloom") / "ledger.db"


class Ledger:
    """An open ledger. Its folder and file are created if they do not exist.

    Args:
        path: path of the file; None for `default_path`.
        scratch: work on a copy in memory; changes are not saved.

    Raises:
        StorageError: the file cannot be opened, is not a ledger, or has another version.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, scratch: bool = False) -> None:
        self.path = Path(path) if path is not None else default_path()
        self._texts: dict[str, int] = {}
        self._claims: dict[tuple[int, str], tuple[int, str, int, str, str, int, int, int | None]] = {}
        self._done: dict[tuple[int, str], int] = {}
        self._released: dict[tuple[int, str], int] = {}
        self._items: list[tuple[object, ...]] = []
        self._traces: dict[tuple[int, str], str] = {}
        self._progress: tuple[int, int, int, int] | None = None
        try:
            self._db = self._copy() if scratch else self._open(path is None)
            self._create()
            self._db.execute("PRAGMA journal_mode=WAL")
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot use the ledger {self.path} (--ledger): {error}") from None

    def _open(self, is_usual: bool) -> sqlite3.Connection:
        def connected() -> sqlite3.Connection:
            private_database(self.path, is_usual)
            db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            db.execute("PRAGMA synchronous=NORMAL")
            return db

        return patiently(connected)

    def _copy(self) -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:", isolation_level=None)
        if self.path.exists():
            with closing(sqlite3.connect(self.path, timeout=30)) as db:
                db.backup(copy)
        return copy

    def _create(self) -> None:
        if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                if self._select("SELECT 1 FROM sqlite_master").fetchone():
                    raise StorageError("it is another program's database")
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
            self._db.execute("COMMIT")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise StorageError(f"it has version {version}, this program needs version {VERSION}")
        self._db.execute(_TRACES)

    def survive_power_cuts(self) -> None:
        """From now on, each flush waits until the data is on the disk."""
        self._db.execute("PRAGMA synchronous=FULL")

    def close(self) -> None:
        with closing(self._db):
            self.flush()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Jobs

    def begin(self, source: str, sink: str, recipe: str, engine: str, workers: int) -> int:
        """Record a new job, and mark earlier running jobs into the same sink as killed. Returns its number."""
        with self._transaction():
            self._db.execute("UPDATE jobs SET state = 'killed' WHERE sink = ? AND state = 'running'", (sink,))
            cursor = self._db.execute(
                "INSERT INTO jobs (source, sink, recipe, engine, workers, pid, state, started) "
                "VALUES (?, ?, ?, ?, ?, ?, 'running', ?)",
                (source, sink, recipe, engine, workers, os.getpid(), time.time()),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish(self, job: int, state: JobState, done: int, failed: int, skipped: int) -> None:
        self.flush()
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ?, done = ?, failed = ?, skipped = ? WHERE id = ?",
                (state, time.time(), done, failed, skipped, job),
            )

    def note_progress(self, job: int, done: int, failed: int, skipped: int) -> None:
        """Flush, and record the progress of a running job, if it has changed."""
        if (job, done, failed, skipped) == self._progress:
            return
        self.flush()
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET done = ?, failed = ?, skipped = ? WHERE id = ?", (done, failed, skipped, job)
            )
        self._progress = (job, done, failed, skipped)

    def forget_items(self, job: int, before: float) -> None:
        """Delete the history of items that were started before a time: those of a job, and of all other jobs with
        the same source and sink. The record of the sink's outputs is kept.

        Args:
            before: seconds since the epoch.
        """
        self.flush()
        with self._transaction():
            self._db.execute(
                "DELETE FROM items WHERE started < ? AND job IN (SELECT jobs.id FROM jobs JOIN jobs AS this "
                "ON this.id = ? AND jobs.source = this.source AND jobs.sink = this.sink)",
                (before, job),
            )
            self._db.execute(
                "DELETE FROM traces WHERE NOT EXISTS (SELECT 1 FROM items "
                "WHERE items.job = traces.job AND items.key = traces.key AND items.kind IS NOT NULL)"
            )

    def mark_killed(self, jobs: Iterable[int]) -> None:
        """Mark jobs as killed: their processes have ended."""
        with self._transaction():
            self._db.executemany(
                "UPDATE jobs SET state = 'killed' WHERE id = ? AND state = 'running'",
                [(job,) for job in jobs],
            )

    def unfinished(self) -> list[JobRecord]:
        """The jobs that are recorded as running, even if their processes have ended."""
        query = (
            f"SELECT {', '.join(JobRecord.__struct_fields__)} FROM jobs WHERE state = 'running' ORDER BY id"
        )
        return [JobRecord(*row) for row in self._select(query)]

    def jobs(self) -> Iterator[JobRecord]:
        """All jobs, the latest first."""
        for row in self._select(
            f"SELECT {', '.join(JobRecord.__struct_fields__)} FROM jobs ORDER BY id DESC"
        ):
            record = JobRecord(*row)
            if record.state == "running" and not _is_alive(record.pid):
                record = msgspec.structs.replace(record, state="killed")
            yield record

    def items(self, job: int, state: str | None = None) -> Iterator[ItemRecord]:
        """The items of a job, all or those in one state, ordered by key."""
        self.flush()
        for key, state_, attempts, kind, message, trace, worker, started, pixels, *times in self._select(
            "SELECT key, state, attempts, kind, message, COALESCE(trace, ''), worker, started, pixels, "
            "read, decode, filter, encode, write FROM items LEFT JOIN traces USING (job, key) "
            "WHERE job = ? AND (? IS NULL OR state = ?) ORDER BY key",
            (job, state, state),
        ):
            failure = Failure(kind, message, trace=trace) if kind else None
            yield ItemRecord(key, state_, attempts, failure, worker, started, pixels, Times(*times))

    def failed_before(self, source: str, sink: str) -> set[str]:
        """The keys of the items whose last attempt from this source into this sink failed."""
        rows = self._select(
            "SELECT key, items.state, MAX(job) FROM items JOIN jobs ON jobs.id = items.job "
            "WHERE jobs.source = ? AND jobs.sink = ? GROUP BY key",
            (source, sink),
        )
        return {key for key, state, _ in rows if state == "failed"}

    # Outputs

    def knows(self, sink: str) -> bool:
        """Whether the ledger has outputs of a sink."""
        query = "SELECT 1 FROM outputs JOIN texts ON texts.id = outputs.sink WHERE texts.text = ? LIMIT 1"
        return self._select(query, (sink,)).fetchone() is not None

    def done(self, source: str, sink: str, item: Item, recipe: str) -> list[tuple[str, int]]:
        """Names and sizes of the outputs that this recipe made of this version of the item."""
        return self._select(
            "SELECT name, size FROM outputs INDEXED BY outputs_by_item "  # else all rows of the sink are read
            "WHERE sink = ? AND source = ? AND key = ? AND fingerprint = ? AND recipe = ? AND size IS NOT NULL",
            (self._number(sink), self._number(source), item.key, item.fingerprint, self._number(recipe)),
        ).fetchall()

    def claim_of(self, sink: str, name: str) -> Claim | None:
        """The claim on an output name; None if there is none."""
        row = (
            self._claims.get((self._number(sink), name))
            or self._select(
                "SELECT sink, name, source, key, fingerprint, recipe, job, size FROM outputs "
                "WHERE sink = ? AND name = ?",
                (self._number(sink), name),
            ).fetchone()
        )
        if row is None:
            return None
        source = self._select("SELECT text FROM texts WHERE id = ?", (row[2],)).fetchone()[0]
        return Claim(source, row[3], row[6], row[7] is not None)

    def claim(
        self,
        job: int,
        source: str,
        sink: str,
        item: Item,
        recipe: str,
        name: str,
        size: int | None = None,
    ) -> None:
        """Claim an output name for an item, with the output's size if it is already known.

        It takes effect with the next `flush`.
        """
        place = self._number(sink)
        if (place, name) in self._done or (place, name) in self._released:
            self.flush()  # the pending row is about an older version of the item
        origin, meaning = self._number(source), self._number(recipe)
        self._claims[place, name] = (place, name, origin, item.key, item.fingerprint, meaning, job, size)

    def record_done(self, job: int, sink: str, result: Result, attempts: int, worker: str) -> None:
        """Record an item whose outputs are published."""
        place = self._number(sink)
        self._done.update({(place, w.name): w.size for w in result.written})
        self._add(_item_row(job, "done", result, attempts, worker))

    def record_failed(
        self, job: int, sink: str, result: Result, attempts: int, worker: str, names: tuple[str, ...] = ()
    ) -> None:
        """Record a failed item. Names that this job has claimed but not filled are released."""
        self.release(job, sink, names)
        self._traces[job, result.key] = result.failure.trace if result.failure else ""
        self._add(_item_row(job, "failed", result, attempts, worker))

    def release(self, job: int, sink: str, names: tuple[str, ...]) -> None:
        """Release claimed names that get no output, if this job was the first to claim them and has never filled
        them."""
        place = self._number(sink)
        self._released.update({(place, name): job for name in names})

    def _add(self, row: tuple[object, ...]) -> None:
        self._items.append(row)
        if len(self._items) >= MOST_NOTED:
            self.flush()

    @property
    def has_claims(self) -> bool:
        """Whether claims wait for a `flush`."""
        return bool(self._claims)

    def flush(self) -> None:
        """Write all pending rows in one transaction."""
        if not (self._claims or self._done or self._released or self._items):
            return
        with self._transaction():
            self._db.executemany(
                "INSERT INTO outputs (sink, name, source, key, fingerprint, recipe, job, size) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sink, name) DO UPDATE SET "
                "job = CASE WHEN size IS NULL THEN job ELSE 0 END, "  # a filled name is never released
                "size = excluded.size, source = excluded.source, key = excluded.key, "
                "fingerprint = excluded.fingerprint, recipe = excluded.recipe",
                self._claims.values(),
            )
            self._db.executemany(
                "UPDATE outputs SET size = ? WHERE sink = ? AND name = ?",
                [(size, *name) for name, size in self._done.items()],
            )
            self._db.executemany(
                "DELETE FROM outputs WHERE sink = ? AND name = ? AND job = ? AND size IS NULL",
                [(*name, job) for name, job in self._released.items()],
            )
            self._db.executemany(
                f"INSERT OR REPLACE INTO items VALUES ({', '.join('?' * 14)})",
                self._items,
            )
            self._db.executemany("DELETE FROM traces WHERE job = ? AND key = ?", self._traces)
            self._db.executemany(
                "INSERT INTO traces VALUES (?, ?, ?)",
                [(*item, trace) for item, trace in self._traces.items() if trace],
            )
        self._claims.clear()
        self._done.clear()
        self._released.clear()
        self._items.clear()
        self._traces.clear()

    def _select(self, query: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except sqlite3.Error as error:
            raise StorageError(f"cannot read the ledger {self.path}: {error}") from None

    def _number(self, text: str) -> int:
        """The number of a text (an address or a recipe) in the table `texts`."""
        if text not in self._texts:
            with self._transaction():
                self._db.execute("INSERT OR IGNORE INTO texts (text) VALUES (?)", (text,))
            row = self._select("SELECT id FROM texts WHERE text = ?", (text,)).fetchone()
            self._texts[text] = row[0]
        return self._texts[text]

    def _transaction(self) -> Transaction:
        return Transaction(self._db)


def _item_row(job: int, state: str, result: Result, attempts: int, worker: str) -> tuple[object, ...]:
    reason: tuple[str, str] | tuple[None, None] = (None, None)
    if failure := result.failure:  # the message may contain invalid Unicode, from a name or a library
        reason = failure.kind, failure.message.encode("utf-8", "backslashreplace").decode()
    times = msgspec.structs.astuple(result.times)
    return job, result.key, state, attempts, *reason, worker, result.started, result.pixels, *times


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
