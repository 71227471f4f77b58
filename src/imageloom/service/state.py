"""What a service remembers: jobs, what is to be tried again or was set aside, logins, and webhooks that
are to be sent. In SQLite, beside the
ledger, which has the items.

Every change is on the disk before the caller goes on. So a service that was killed continues as it was.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from imageloom.errors import StorageError
from imageloom.model import Plain
from imageloom.records.database import closed_on_errors
from imageloom.records.transaction import Transaction
from imageloom.system.private import private_database

VERSION = 1
SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    flow TEXT NOT NULL, text TEXT NOT NULL,     -- the flow's file when the job was started
    state TEXT NOT NULL, wanted TEXT NOT NULL, message TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL, ended REAL,          -- seconds since the epoch
    is_listed INTEGER NOT NULL DEFAULT 0,       -- whether all items of the source were seen
    total INTEGER, done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_by_flow ON jobs (flow, id);
CREATE TABLE runs (job INTEGER NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (job, run)) WITHOUT ROWID;
CREATE TABLE retries (job INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY (job, key)) WITHOUT ROWID;
CREATE TABLE asides (flow TEXT NOT NULL, key TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (flow, key))
    WITHOUT ROWID;
CREATE TABLE sessions (digest TEXT PRIMARY KEY, role TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID
"""
ADDED = (  # times are in seconds since the epoch
    "CREATE TABLE IF NOT EXISTS drained (node TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS secrets (flow TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, url TEXT NOT NULL, "
    "kind TEXT NOT NULL, body BLOB NOT NULL, tries INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL)",
)
"""Added later: a file without them is made complete, and an older program ignores them."""
JobState = Literal["queued", "running", "paused", "done", "cancelled", "error"]
Wanted = Literal["run", "pause", "cancel"]
ENDED = ("done", "cancelled", "error")
MOST_JOBS = 10_000
"""Number of ended jobs that are kept."""
MOST_SESSIONS = 1000
MOST_NOTICES = 10_000
"""Maximum number of things that wait to be sent to one webhook."""
MOST_ID = 2**63 - 1
"""SQLite has no larger numbers, and no job has this one."""


class JobRow(Plain, frozen=True):
    """A job: one run of a flow, which may be interrupted and continued."""

    id: int
    flow: str
    text: str
    state: JobState
    wanted: Wanted
    message: str
    """Why it ended, if it could not run."""
    created: float
    ended: float | None
    is_listed: int
    total: int | None
    """Number of items in the source when the job began; None if it was not counted."""
    done: int
    failed: int
    skipped: int


_FIELDS = ", ".join(JobRow.__struct_fields__)


class Notice(NamedTuple):
    """Something that a webhook is to be told."""

    id: int
    body: bytes
    tries: int
    """Number of attempts that failed."""
    due: float


class ServiceState:
    """The database. It may be used from several threads.

    Args:
        path: path of the file.

    Raises:
        StorageError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self.webhooks: tuple[str, ...] = ()
        """The addresses of webhooks."""
        try:
            private_database(path, has_own_folder=True)
            self._db = sqlite3.connect(path, 30.0, isolation_level=None, check_same_thread=False)
            with closed_on_errors(self._db):
                self._create_tables()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"cannot use {path} (--state): {error}") from None

    def _create_tables(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise StorageError(f"it has version {version}, this program needs {VERSION}")
        if not version:
            with self._transaction():
                for statement in SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
        for statement in ADDED:
            self._db.execute(statement)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # Jobs

    def add_job(self, flow: str, text: str) -> JobRow:
        """Record a new job, which waits. Old ended jobs are forgotten."""
        with self._lock, self._transaction():
            cursor = self._db.execute(
                "INSERT INTO jobs (flow, text, state, wanted, created) VALUES (?, ?, 'queued', 'run', ?)",
                (flow, text, time.time()),
            )
            self._db.execute(
                "DELETE FROM jobs WHERE ended IS NOT NULL AND id NOT IN "
                "(SELECT id FROM jobs ORDER BY id DESC LIMIT ?)",
                (MOST_JOBS,),
            )
            self._db.execute("DELETE FROM runs WHERE job NOT IN (SELECT id FROM jobs)")
        found = self.job(int(cursor.lastrowid or 0))
        assert found is not None
        return found

    def job(self, id: int) -> JobRow | None:
        rows = self._jobs("WHERE id = ?", (min(id, MOST_ID),))
        return rows[0] if rows else None

    def jobs(self, flow: str = "", before: int = 0, most: int = 50) -> list[JobRow]:
        """Jobs, the latest first.

        Args:
            flow: only jobs of this flow.
            before: only jobs before this one; 0 for all.
        """
        return self._jobs(
            "WHERE (? = '' OR flow = ?) AND (? = 0 OR id < ?) ORDER BY id DESC LIMIT ?",
            (flow, flow, before, before, most),
        )

    def open_jobs(self) -> list[JobRow]:
        """The jobs that have not ended, the oldest first."""
        return self._jobs("WHERE ended IS NULL ORDER BY id", ())

    def set_job(self, id: int, **values: object) -> None:
        """Change columns of a job. If it ends, the webhooks about it are recorded in the same transaction."""
        names = ", ".join(f"{name} = ?" for name in values)
        with self._lock, self._transaction():
            self._db.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*values.values(), id))
            if values.get("ended") is not None and self.webhooks and (row := self.job(id)):
                told = ("id", "flow", "state", "message", "created", "ended", "done", "failed", "skipped")
                self._add_notice("job.ended", {name: getattr(row, name) for name in told})

    def add_run(self, job: int, run: int) -> None:
        """Record that a run of the ledger belongs to a job."""
        with self._lock, self._transaction():
            self._db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?)", (job, run))

    def runs(self, job: int) -> list[int]:
        """The runs of a job in the ledger, the first one first."""
        return [run for (run,) in self._select("SELECT run FROM runs WHERE job = ? ORDER BY run", (job,))]

    # Items

    def add_retries(self, job: int, keys: Iterable[str]) -> None:
        with self._lock, self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO retries VALUES (?, ?)", [(job, key) for key in keys])

    def remove_retries(self, job: int, keys: Iterable[str]) -> None:
        with self._lock, self._transaction():
            self._db.executemany(
                "DELETE FROM retries WHERE job = ? AND key = ?", [(job, key) for key in keys]
            )

    def retries(self, job: int) -> list[str]:
        """The keys of a job's items that are to be tried again."""
        return [key for (key,) in self._select("SELECT key FROM retries WHERE job = ? ORDER BY key", (job,))]

    def set_aside(self, flow: str, key: str, is_aside: bool) -> None:
        """Set an item aside: the flow does not process it. Or put it back."""
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM asides WHERE flow = ? AND key = ?", (flow, key))
            if is_aside:
                self._db.execute("INSERT INTO asides VALUES (?, ?, ?)", (flow, key, time.time()))

    def asides(self, flow: str) -> list[str]:
        """The keys of a flow's items that are set aside, sorted."""
        return [key for (key,) in self._select("SELECT key FROM asides WHERE flow = ? ORDER BY key", (flow,))]

    # Secrets of notifications

    def set_secret(self, flow: str, digest: str) -> None:
        """Replace the digest of the secret with which a store may notify a flow."""
        with self._lock, self._transaction():
            self._db.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?)", (flow, digest))

    def secret(self, flow: str) -> str:
        """The digest of a flow's secret; empty if it has none."""
        rows = self._select("SELECT digest FROM secrets WHERE flow = ?", (flow,))
        return str(rows[0][0]) if rows else ""

    # Webhooks

    def add_notice(self, kind: str, data: dict[str, Any]) -> None:
        """Record that all webhooks are to be told something. The oldest of too many are forgotten."""
        with self._lock, self._transaction():
            self._add_notice(kind, data)

    def _add_notice(self, kind: str, data: dict[str, Any]) -> None:
        now = time.time()
        moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        body = msgspec.json.encode({"type": kind, "timestamp": moment, "data": data})
        for url in self.webhooks:
            self._db.execute(
                "INSERT INTO outbox (url, kind, body, due) VALUES (?, ?, ?, ?)", (url, kind, body, now)
            )
            self._db.execute(
                "DELETE FROM outbox WHERE url = ? AND id <= (SELECT id FROM outbox WHERE url = ? "
                "ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (url, url, MOST_NOTICES),
            )

    def next_notice(self, url: str) -> Notice | None:
        """What is to be sent next to an address; None if it has been told all."""
        rows = self._select(
            "SELECT id, body, tries, due FROM outbox WHERE url = ? ORDER BY due, id LIMIT 1", (url,)
        )
        return Notice(*rows[0]) if rows else None

    def put_off(self, notice: Notice, due: float) -> None:
        """Send something again later, at a time in seconds since the epoch."""
        with self._lock, self._transaction():
            self._db.execute("UPDATE outbox SET tries = tries + 1, due = ? WHERE id = ?", (due, notice.id))

    def remove_notice(self, notice: Notice) -> None:
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM outbox WHERE id = ?", (notice.id,))

    # Nodes

    def set_drained(self, node: str, is_drained: bool) -> None:
        """Record whether a node gets no tasks."""
        with self._lock, self._transaction():
            if is_drained:
                self._db.execute("INSERT OR REPLACE INTO drained VALUES (?)", (node,))
            else:
                self._db.execute("DELETE FROM drained WHERE node = ?", (node,))

    def drained(self) -> list[str]:
        """The nodes that get no tasks, sorted."""
        return [node for (node,) in self._select("SELECT node FROM drained ORDER BY node", ())]

    # Logins

    def add_session(self, digest: str, role: str, expires: float) -> None:
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM sessions WHERE expires < ?", (time.time(),))
            self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", (digest, role, expires))
            self._db.execute(
                "DELETE FROM sessions WHERE digest NOT IN "
                "(SELECT digest FROM sessions ORDER BY expires DESC LIMIT ?)",
                (MOST_SESSIONS,),
            )

    def session(self, digest: str) -> str:
        """The role of a session; empty if there is none."""
        rows = self._select(
            "SELECT role FROM sessions WHERE digest = ? AND expires > ?", (digest, time.time())
        )
        return str(rows[0][0]) if rows else ""

    def remove_session(self, digest: str) -> None:
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM sessions WHERE digest = ?", (digest,))

    def _jobs(self, condition: str, values: tuple[object, ...]) -> list[JobRow]:
        return [JobRow(*row) for row in self._select(f"SELECT {_FIELDS} FROM jobs {condition}", values)]

    def _select(self, query: str, values: tuple[object, ...]) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StorageError(f"cannot read the service's state: {error}") from None

    def _transaction(self) -> Transaction:
        return Transaction(self._db, to_disk=True)
