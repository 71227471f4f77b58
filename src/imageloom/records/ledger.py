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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from imageloom.errors import StorageError
from imageloom.model import Failure, Item, Result, Times
from imageloom.records.database import closed_on_errors, copied, create_tables, opened
from imageloom.records.schema import (
    CLAIM_ALONE,
    CLAIM_AMONG_OTHERS,
    Claim,
    ItemRecord,
    JobRecord,
    JobState,
    item_row,
)
from imageloom.records.transaction import Transaction
from imageloom.system.exits import is_alive

MOST_NOTED = 500
"""Maximum number of items that wait for a flush."""

_decoded = msgspec.json.Decoder(tuple[str, ...]).decode


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
        self._done: dict[tuple[int, str], tuple[int, int | None]] = {}
        self._released: dict[tuple[int, str], int] = {}
        self._items: list[tuple[object, ...]] = []
        self._traces: dict[tuple[int, str], str] = {}
        self._losses: dict[tuple[int, str], tuple[str, str]] = {}
        self._has_losses = False
        """A loss was recorded, so a row may have to be deleted when the item is processed again."""
        self._progress: tuple[int, int, int, int] | None = None
        self._is_durable = False
        self.is_shared = False
        """Other runs claim names in the same sink at the same time."""
        self._seen: dict[tuple[int, str], tuple[int, str]] = {}
        try:
            self._db = copied(self.path) if scratch else self._open(path is None)
            with closed_on_errors(self._db):
                create_tables(self._db)
                self._db.execute("PRAGMA journal_mode=WAL")
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StorageError(f"cannot use the ledger {self.path} (--ledger): {reason}") from None

    def _open(self, is_usual: bool) -> sqlite3.Connection:
        return opened(self.path, is_usual)

    def survive_power_cuts(self) -> None:
        """From now on, each `flush` waits until claims and done items are on the disk."""
        self._is_durable = True

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
        earlier = [job for job in self.unfinished() if job.sink == sink]
        with self._transaction():
            self._mark_killed(job.id for job in earlier if not (self.is_shared and is_alive(job.pid)))
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
            self._db.execute(
                "DELETE FROM losses WHERE NOT EXISTS (SELECT 1 FROM items "
                "WHERE items.job = losses.job AND items.key = losses.key)"
            )

    def mark_killed(self, jobs: Iterable[int]) -> None:
        """Mark jobs as killed: their processes have ended."""
        with self._transaction():
            self._mark_killed(jobs)

    def _mark_killed(self, jobs: Iterable[int]) -> None:
        self._db.executemany(
            "UPDATE jobs SET state = 'killed' WHERE id = ? AND state = 'running'", [(job,) for job in jobs]
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
            if record.state == "running" and not is_alive(record.pid):
                record = msgspec.structs.replace(record, state="killed")
            yield record

    def items(self, job: int, state: str | None = None, lost: bool = False) -> Iterator[ItemRecord]:
        """The items of a job, ordered by key.

        Args:
            state: only the items in this state.
            lost: only the items that lost something or are damaged.
        """
        self.flush()
        for key, state_, attempts, kind, message, trace, worker, started, pixels, *rest in self._select(
            "SELECT key, state, attempts, kind, message, COALESCE(trace, ''), worker, started, pixels, "
            "dropped, warnings, read, decode, filter, encode, write "
            "FROM items LEFT JOIN traces USING (job, key) LEFT JOIN losses USING (job, key) "
            "WHERE job = ? AND (? IS NULL OR state = ?) AND (NOT ? OR dropped IS NOT NULL) ORDER BY key",
            (job, state, state, lost),
        ):
            failure = Failure(kind, message, trace=trace) if kind else None
            dropped, warnings, *times = rest
            losses = (_decoded(dropped), _decoded(warnings)) if dropped else ((), ())
            yield ItemRecord(key, state_, attempts, failure, worker, started, pixels, Times(*times), *losses)

    def is_running(self, job: int) -> bool:
        """Whether a job is recorded as running."""
        return (
            self._select("SELECT 1 FROM jobs WHERE id = ? AND state = 'running'", (job,)).fetchone()
            is not None
        )

    def losses(self, job: int) -> dict[str, int]:
        """How many items of a job lost each thing, the most frequent first."""
        self.flush()
        counts: Counter[str] = Counter()
        for (dropped,) in self._select("SELECT dropped FROM losses WHERE job = ?", (job,)):
            counts.update(_decoded(dropped))
        return dict(counts.most_common())

    def failed_before(self, source: str, sink: str) -> set[str]:
        """The keys of the items whose last attempt from this source into this sink failed."""
        rows = self._select(
            "SELECT key, items.state, MAX(job) FROM items JOIN jobs ON jobs.id = items.job "
            "WHERE jobs.source = ? AND jobs.sink = ? GROUP BY key",
            (source, sink),
        )
        return {key for key, state, _ in rows if state == "failed"}

    def lossy(self, source: str, sink: str) -> frozenset[str]:
        """The keys of the items that lost something when they were last done from this source into this sink."""
        rows = self._select(
            "SELECT key FROM losses JOIN jobs ON jobs.id = losses.job "
            "WHERE jobs.source = ? AND jobs.sink = ? AND dropped != '[]' AND NOT EXISTS ("
            "SELECT 1 FROM jobs AS later JOIN items ON items.job = later.id AND items.key = losses.key "
            "WHERE later.source = jobs.source AND later.sink = jobs.sink AND later.id > losses.job "
            "AND items.state = 'done')",
            (source, sink),
        )
        return frozenset(key for (key,) in rows)

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
            (self.number(sink), self.number(source), item.key, item.fingerprint, self.number(recipe)),
        ).fetchall()

    def claim_of(self, sink: str, name: str) -> Claim | None:
        """The claim on an output name; None if there is none."""
        row = (
            self._claims.get((self.number(sink), name))
            or self._select(
                "SELECT sink, name, source, key, fingerprint, recipe, job, size FROM outputs "
                "WHERE sink = ? AND name = ?",
                (self.number(sink), name),
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
        seen: Claim | None = None,
    ) -> None:
        """Claim an output name for an item, with the output's size if it is already known.

        It takes effect with the next `flush`; if the ledger is shared, only if no other item has claimed it.

        Args:
            seen: the claim of another item that this one may take the place of.
        """
        place = self.number(sink)
        if (place, name) in self._done or (place, name) in self._released:
            self.flush()  # the pending row is about an older version of the item
        origin, meaning = self.number(source), self.number(recipe)
        self._claims[place, name] = (place, name, origin, item.key, item.fingerprint, meaning, job, size)
        if self.is_shared:
            self._seen[place, name] = (self.number(seen.source), seen.key) if seen else (origin, item.key)

    def record_done(
        self,
        job: int,
        sink: str,
        result: Result,
        attempts: int,
        worker: str,
        times: Mapping[str, int] | None = None,
        left_out: tuple[str, ...] = (),
    ) -> None:
        """Record an item whose outputs are published.

        Args:
            times: modification times of the published files by name, in nanoseconds, as far as they are known.
            left_out: names of claimed outputs that are not written. They have the size 0.
        """
        place, known = self.number(sink), times or {}
        self._done.update({(place, w.name): (w.size, known.get(w.name)) for w in result.written})
        self._done.update({(place, name): (0, None) for name in left_out})
        if result.dropped or result.warnings:
            self._losses[job, result.key] = _as_json(result.dropped), _as_json(result.warnings)
            self._has_losses = True
        self._add(item_row(job, "done", result, attempts, worker))

    def record_failed(
        self, job: int, sink: str, result: Result, attempts: int, worker: str, names: tuple[str, ...] = ()
    ) -> None:
        """Record a failed item. Names that this job has claimed but not filled are released."""
        self.release(job, sink, names)
        self._traces[job, result.key] = result.failure.trace if result.failure else ""
        self._add(item_row(job, "failed", result, attempts, worker))

    def release(self, job: int, sink: str, names: tuple[str, ...]) -> None:
        """Release claimed names that get no output, if this job was the first to claim them and has never filled
        them."""
        place = self.number(sink)
        self._released.update({(place, name): job for name in names})

    def outputs_of(self, source: str, sink: str) -> Iterator[tuple[str, str, int, int]]:
        """Name, item, size and modification time (0 if unknown) of the outputs in a sink that were made from a
        source, ordered by name."""
        self.flush()
        yield from self._select(
            "SELECT name, key, size, COALESCE(mtime, 0) FROM outputs "
            "WHERE sink = ? AND source = ? AND size IS NOT NULL ORDER BY name",
            (self.number(sink), self.number(source)),
        )

    def made(self, source: str, sink: str) -> Iterator[tuple[str, str, str, str, int]]:
        """Name, item, fingerprint of the item, meaning of the recipe and size of the outputs in a sink that were
        made from a source, ordered by name. The size is 0 if an output was left out."""
        self.flush()
        yield from self._select(
            "SELECT name, key, fingerprint, texts.text, size FROM outputs JOIN texts ON texts.id = recipe "
            "WHERE sink = ? AND source = ? AND size IS NOT NULL ORDER BY name",
            (self.number(sink), self.number(source)),
        )

    def forget_outputs(self, sink: str, names: Iterable[str]) -> None:
        """Delete the record of outputs that were removed from a sink."""
        place = self.number(sink)
        self.flush()
        with self._transaction():
            self._db.executemany(
                "DELETE FROM outputs WHERE sink = ? AND name = ?", [(place, name) for name in names]
            )

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
        with self._transaction(self._is_durable):
            if self.is_shared:
                self._db.executemany(
                    CLAIM_AMONG_OTHERS, [(*c, *self._seen[c[:2]]) for c in self._claims.values()]
                )
            else:
                self._db.executemany(CLAIM_ALONE, self._claims.values())
            self._db.executemany(
                "UPDATE outputs SET size = ?, mtime = ? WHERE sink = ? AND name = ?",
                [(*made, *name) for name, made in self._done.items()],
            )
            self._db.executemany(
                "DELETE FROM outputs WHERE sink = ? AND name = ? AND job = ? AND size IS NULL",
                [(*name, job) for name, job in self._released.items()],
            )
            self._db.executemany(
                f"INSERT OR REPLACE INTO items VALUES ({', '.join('?' * 14)})",
                self._items,
            )
            if self._has_losses:
                self._db.executemany(
                    "DELETE FROM losses WHERE job = ? AND key = ?", [item[:2] for item in self._items]
                )
                self._db.executemany(
                    "INSERT INTO losses VALUES (?, ?, ?, ?)",
                    [(*item, *losses) for item, losses in self._losses.items()],
                )
            self._db.executemany("DELETE FROM traces WHERE job = ? AND key = ?", self._traces)
            self._db.executemany(
                "INSERT INTO traces VALUES (?, ?, ?)",
                [(*item, trace) for item, trace in self._traces.items() if trace],
            )
        self._claims.clear()
        self._seen.clear()
        self._done.clear()
        self._released.clear()
        self._items.clear()
        self._traces.clear()
        self._losses.clear()

    def _select(self, query: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except sqlite3.Error as error:
            raise StorageError(f"cannot read the ledger {self.path}: {error}") from None

    def number(self, text: str) -> int:
        """The number of a text (an address or a recipe) in this ledger, always the same."""
        if text not in self._texts:
            with self._transaction():
                self._db.execute("INSERT OR IGNORE INTO texts (text) VALUES (?)", (text,))
            row = self._select("SELECT id FROM texts WHERE text = ?", (text,)).fetchone()
            self._texts[text] = row[0]
        return self._texts[text]

    def _transaction(self, to_disk: bool = False) -> Transaction:
        return Transaction(self._db, to_disk)


def _as_json(texts: tuple[str, ...]) -> str:
    return msgspec.json.encode(texts).decode()
