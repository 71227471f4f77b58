"""The ledger: what it records, and what it refuses to be."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from imageloom.errors import StorageError
from imageloom.model import Failure, Item, Result, Times, Written
from imageloom.records.ledger import MOST_NOTED, Ledger, default_path

SOURCE, SINK, RECIPE = "/photos", "/out", "grayscale"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "folder" / "ledger.db"


def begin(ledger: Ledger, sink: str = SINK) -> int:
    return ledger.begin(SOURCE, sink, RECIPE, "serial", 1)


def result(key: str = "a.jpg", size: int = 7) -> Result:
    return Result(key, (Written(key, "token", size),), None, Times(1, 2, 3, 4, 5), 99.5, 1234)


def test_what_is_done_is_known_to_the_next_ledger(path: Path) -> None:
    item = Item("a.jpg", 10, 20)
    with Ledger(path) as ledger:
        job = begin(ledger)
        ledger.claim(job, SOURCE, SINK, item, RECIPE, "a.jpg")
        assert ledger.done(SOURCE, SINK, item, RECIPE) == []
        ledger.record_done(job, SINK, result(), 2, "7/main")
        ledger.finish(job, "done", 1, 0, 0)
    with Ledger(path) as ledger:
        assert ledger.done(SOURCE, SINK, item, RECIPE) == [("a.jpg", 7)]
        assert ledger.done(SOURCE, SINK, Item("a.jpg", 10, 21), RECIPE) == []
        assert ledger.done(SOURCE, SINK, Item("a.jpg", 11, 20), RECIPE) == []
        assert ledger.done(SOURCE, SINK, item, "invert") == []
        assert ledger.done("/others", SINK, item, RECIPE) == []
        assert ledger.done(SOURCE, "/elsewhere", item, RECIPE) == []
        (record,) = ledger.items(job)
        assert (record.key, record.state, record.attempts, record.worker) == ("a.jpg", "done", 2, "7/main")
        assert (record.times, record.started, record.pixels) == (Times(1, 2, 3, 4, 5), 99.5, 1234)
        (found,) = ledger.jobs()
        assert (found.id, found.state, found.done, found.failed, found.skipped) == (job, "done", 1, 0, 0)


def test_what_is_done_anew_in_the_same_job_is_not_done_before_it_is(path: Path) -> None:
    """A watch does many versions of an item in one job: what is noted of one is not about the next."""
    first, second = Item("a.jpg", 10, 20), Item("a.jpg", 10, 30)
    with Ledger(path) as ledger:
        job = begin(ledger)
        ledger.claim(job, SOURCE, SINK, first, RECIPE, "a.jpg")
        ledger.flush()
        ledger.record_done(job, SINK, result(), 1, "w")
        ledger.claim(job, SOURCE, SINK, second, RECIPE, "a.jpg")
        ledger.flush()
        assert ledger.done(SOURCE, SINK, second, RECIPE) == []
        ledger.record_failed(job, SINK, Result("a.jpg", failure=Failure("E", "")), 1, "w", ("a.jpg",))
        ledger.flush()
        claim = ledger.claim_of(SINK, "a.jpg")
        assert claim is not None  # the output of the first version is there, and is ours
        ledger.claim(job, SOURCE, SINK, second, RECIPE, "b.jpg")
        ledger.record_failed(job, SINK, Result("a.jpg", failure=Failure("E", "")), 1, "w", ("b.jpg",))
        ledger.claim(job, SOURCE, SINK, second, RECIPE, "b.jpg")
        ledger.flush()
        assert ledger.claim_of(SINK, "b.jpg") is not None


def test_how_far_a_job_is_and_the_history_that_is_dropped(path: Path) -> None:
    with Ledger(path) as ledger:
        other_sink, earlier, job = begin(ledger, "/elsewhere"), begin(ledger), begin(ledger)
        for other_job in (other_sink, earlier):
            ledger.record_done(other_job, SINK, result("old.jpg"), 1, "w")
        ledger.record_done(job, SINK, result("old.jpg"), 1, "w")
        ledger.record_done(job, SINK, replace(result("new.jpg"), started=200.0), 1, "w")
        ledger.note_progress(job, 2, 0, 3)
        with Ledger(path) as other:
            found = next(other.jobs())
            assert (found.state, found.done, found.failed, found.skipped) == ("running", 2, 0, 3)
            assert len(list(other.items(job))) == 2
        ledger.forget_items(job, 100.0)
        left = {j: [item.key for item in ledger.items(j)] for j in (other_sink, earlier, job)}
        assert left == {other_sink: ["old.jpg"], earlier: [], job: ["new.jpg"]}


def traces(ledger: Ledger, job: int) -> dict[str, str]:
    return {item.key: item.failure.trace for item in ledger.items(job) if item.failure}


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        count: int = db.execute("SELECT COUNT(*) FROM traces").fetchone()[0]
    return count


def test_the_traceback_of_the_last_failure_of_an_item_is_kept(path: Path) -> None:
    """A watch has several versions of an item in one job."""

    def fail(key: str, trace: str, started: float = 99.5) -> None:
        failed = Result(key, failure=Failure("ValueError", "no", trace=trace), started=started)
        ledger.record_failed(job, SINK, failed, 1, "w")

    with Ledger(path) as ledger:
        job, other = begin(ledger), begin(ledger, "/elsewhere")
        fail("a.jpg", "line 1\nline 2")
        fail("b.jpg", "the first")
        fail("b.jpg", "the second")
        fail("c.jpg", "it had one")
        assert traces(ledger, job) == {
            "a.jpg": "line 1\nline 2",
            "b.jpg": "the second",
            "c.jpg": "it had one",
        }
        assert traces(ledger, other) == {}
        fail("b.jpg", "the third", started=200.0)
        fail("c.jpg", "", started=200.0)
        assert traces(ledger, job) == {"a.jpg": "line 1\nline 2", "b.jpg": "the third", "c.jpg": ""}
        fail("d.jpg", "it is done afterwards", started=200.0)
        ledger.record_done(job, SINK, replace(result("d.jpg"), started=200.0), 1, "w")
        assert "d.jpg" not in traces(ledger, job)
        ledger.forget_items(job, 100.0)
        assert traces(ledger, job) == {"b.jpg": "the third", "c.jpg": ""}
        assert rows(path) == 1


def test_a_ledger_without_tracebacks_gets_a_table_of_them(path: Path) -> None:
    failed = Result("a.jpg", failure=Failure("ValueError", "no", trace="line 1"))
    with Ledger(path) as ledger:
        before = begin(ledger)
        ledger.record_failed(before, SINK, failed, 1, "w")
    with closing(sqlite3.connect(path)) as db:  # as an earlier program has left it
        db.execute("DROP TABLE traces")
        version = db.execute("PRAGMA user_version").fetchone()[0]
    with Ledger(path) as ledger:
        assert traces(ledger, before) == {"a.jpg": ""}
        job = begin(ledger)
        ledger.record_failed(job, SINK, failed, 1, "w")
        assert traces(ledger, job) == {"a.jpg": "line 1"}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == version


def test_a_claim_is_in_force_at_once_and_lasts_after_a_flush(path: Path) -> None:
    with Ledger(path) as ledger:
        job = begin(ledger)
        ledger.claim(job, SOURCE, SINK, Item("a.jpg"), RECIPE, "a.png")
        claim = ledger.claim_of(SINK, "a.png")
        assert claim is not None
        assert (claim.source, claim.key) == (SOURCE, "a.jpg")
        assert ledger.claim_of("/elsewhere", "a.png") is None
        ledger.flush()
        assert ledger.claim_of(SINK, "a.png") == claim
    with Ledger(path) as ledger:
        assert ledger.claim_of(SINK, "a.png") == claim


def test_a_failure_frees_a_name_that_was_claimed_and_never_filled(path: Path) -> None:
    failed = Result("a.jpg", failure=Failure("CorruptImage", "cut off"))
    with Ledger(path) as ledger:
        job = begin(ledger)
        ledger.claim(job, SOURCE, SINK, Item("a.jpg"), RECIPE, "a.jpg")
        ledger.record_failed(job, SINK, failed, 1, "7/main", ("a.jpg",))
        ledger.flush()
        assert ledger.claim_of(SINK, "a.jpg") is None
        ledger.claim(job, SOURCE, SINK, Item("a.jpg"), RECIPE, "a.jpg")
        ledger.record_done(job, SINK, result(), 1, "7/main")
        later = begin(ledger)
        ledger.claim(later, SOURCE, SINK, Item("a.jpg", 5), RECIPE, "a.jpg")
        ledger.record_failed(later, SINK, failed, 1, "7/main", ("a.jpg",))
        ledger.flush()
        assert ledger.claim_of(SINK, "a.jpg") is not None
        assert ledger.done(SOURCE, SINK, Item("a.jpg"), RECIPE) == []
        assert [record.failure for record in ledger.items(later)] == [Failure("CorruptImage", "cut off")]


def test_what_failed_before_is_what_failed_last(path: Path) -> None:
    failed = Result("a.jpg", failure=Failure("CorruptImage", "cut off"))
    with Ledger(path) as ledger:
        job = begin(ledger)
        ledger.record_failed(job, SINK, failed, 1, "")
        ledger.record_done(job, SINK, result("b.jpg"), 1, "")
        ledger.flush()
        assert ledger.failed_before(SOURCE, SINK) == {"a.jpg"}
        assert ledger.failed_before(SOURCE, "/elsewhere") == set()
        job = begin(ledger)
        ledger.record_done(job, SINK, result("a.jpg"), 1, "")
        ledger.flush()
        assert ledger.failed_before(SOURCE, SINK) == set()


def test_rows_are_written_in_bundles(path: Path) -> None:
    """Another connection sees them as soon as there are enough, before the run ends."""
    with Ledger(path) as ledger, Ledger(path) as other:
        job = begin(ledger)
        for number in range(MOST_NOTED + 1):
            ledger.record_done(job, SINK, result(f"{number}.jpg"), 1, "")
        assert sum(1 for _ in other.items(job)) == MOST_NOTED


def test_a_job_whose_process_is_gone_was_killed(path: Path) -> None:
    with Ledger(path) as ledger:
        first = begin(ledger)
        assert [job.state for job in ledger.jobs()] == ["running"]
        begin(ledger, "/elsewhere")
        begin(ledger)
        assert {job.id: job.state for job in ledger.jobs()}[first] == "killed"
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE jobs SET pid = 2147483646, state = 'running'")
        db.commit()
    with Ledger(path) as ledger:
        assert {job.state for job in ledger.jobs()} == {"killed"}


def test_a_scratch_ledger_knows_all_and_writes_nothing(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.claim(begin(ledger), SOURCE, SINK, Item("a.jpg"), RECIPE, "a.jpg")
    before = path.read_bytes()
    with Ledger(path, scratch=True) as scratch:
        assert scratch.claim_of(SINK, "a.jpg") is not None
        begin(scratch)
    assert path.read_bytes() == before
    with Ledger(path.parent / "none.db", scratch=True) as scratch:
        assert list(scratch.jobs()) == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_default_lies_in_the_users_state_directory(tmp_path: Path) -> None:
    assert default_path() == tmp_path / "state" / "imageloom" / "ledger.db"


def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("These are my notes. " * 100)
    database = tmp_path / "photos.db"
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
        db.commit()
    later = tmp_path / "later.db"
    Ledger(later).close()
    with closing(sqlite3.connect(later)) as db:
        db.execute("PRAGMA user_version = 99")
    for path, message in (
        (text, "not a database"),
        (database, "another program's database"),
        (later, "version 99, this program needs version 1"),
        (tmp_path, "unable to open"),
        (text / "ledger.db", "Not a directory|File exists"),
        (Path("/proc/none/ledger.db"), "No such file|Permission|Operation not permitted"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(StorageError, match=message) as error:
            Ledger(path)
        assert "(--ledger)" in str(error.value)
        assert str(path) in str(error.value)
        assert (path.read_bytes() if path.is_file() else b"") == before
