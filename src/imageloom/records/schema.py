"""The tables of the ledger, and its rows as plain data."""

from __future__ import annotations

from typing import Literal

from imageloom.model import Failure, Plain, Times

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
