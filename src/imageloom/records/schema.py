"""The tables of the ledger, and its rows as plain data."""

from __future__ import annotations

from typing import Literal

import msgspec

from imageloom.model import Failure, Plain, Result, Times

VERSION = 1

SCHEMA = """
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
    mtime INTEGER,                              -- of the published file, in ns; not in ledgers of earlier programs
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

CLAIM = (
    "INSERT INTO outputs (sink, name, source, key, fingerprint, recipe, job, size) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sink, name) DO UPDATE SET "
    "job = CASE WHEN size IS NULL THEN {job} ELSE 0 END, "  # a filled name is never released
    "size = excluded.size, mtime = NULL, source = excluded.source, key = excluded.key, "
    "fingerprint = excluded.fingerprint, recipe = excluded.recipe"
)
CLAIM_ALONE = CLAIM.format(job="job")
CLAIM_AMONG_OTHERS = CLAIM.format(job="excluded.job") + (
    " WHERE (source, key) IN ((excluded.source, excluded.key), (?, ?))"
)
"""A claim that takes the place only of its own item's, and of that of another item that was seen before."""

TRACES = """
CREATE TABLE IF NOT EXISTS traces (             -- tracebacks of failed items: not in ledgers of earlier programs
    job INTEGER NOT NULL, key TEXT NOT NULL, trace TEXT NOT NULL, PRIMARY KEY (job, key)
) WITHOUT ROWID
"""

LOSSES = """
CREATE TABLE IF NOT EXISTS losses (             -- only items that lost something or are damaged, see Result
    job INTEGER NOT NULL, key TEXT NOT NULL, dropped TEXT NOT NULL, warnings TEXT NOT NULL, -- JSON
    PRIMARY KEY (job, key)
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
    dropped: tuple[str, ...] = ()
    """What the input has and an output lacks."""
    warnings: tuple[str, ...] = ()
    """Accepted damage of the input."""


class Claim(Plain, frozen=True):
    """The item that has claimed an output name of a sink."""

    source: str
    key: str
    job: int
    is_filled: bool
    """Whether its output was published."""


def item_row(job: int, state: str, result: Result, attempts: int, worker: str) -> tuple[object, ...]:
    """The row of an item that is done or has failed."""
    reason: tuple[str, str] | tuple[None, None] = (None, None)
    if failure := result.failure:  # the message may contain invalid Unicode, from a name or a library
        reason = failure.kind, failure.message.encode("utf-8", "backslashreplace").decode()
    times = msgspec.structs.astuple(result.times)
    return job, result.key, state, attempts, *reason, worker, result.started, result.pixels, *times
