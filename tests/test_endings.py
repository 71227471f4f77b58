"""How runs end: nothing is waited for in vain, and no run that did not come to its end is recorded as done."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from guests import keys
from imageloom.errors import StorageError
from imageloom.records.events import Done, Event
from imageloom.records.ledger import Ledger
from imageloom.stores.local import LocalStore
from imageloom.testing.engines import HARMFUL
from program import Run, draw, free_port, imageloom, names, start


def states() -> list[str]:
    with Ledger() as ledger:
        return [job.state for job in ledger.jobs()]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_rerun_over_an_archive_looks_at_every_item(count: int, tmp_path: Path, out: Path) -> None:
    photo = draw(tmp_path / "photo.png").read_bytes()
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(count):
            file.writestr(f"{number}.png", photo)
    for skipped in (0, count):
        done = imageloom("run", "invert", f"zip://{archive}", out, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["skipped"] == skipped
    assert states() == ["done", "done"]


def test_an_existing_cluster_is_asked_for_its_size_again_and_again(photos: Path, out: Path) -> None:
    """Dask tells what is done in a thread of its own, in which it answers nothing."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        code = (
            "import imageloom.engines.dask as dask\ndask.FRESH = 0.0\nfrom imageloom.cli import main\nmain()"
        )
        command = ["run", "invert", photos, out, "--engine", "dask", "--connect", cluster.scheduler_address]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command), "--items-at-once", "1"],
            capture_output=True,
            check=False,
            timeout=60,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert "6 of 6 done" in done.stdout


def test_a_source_that_fails_on_the_way_ends_the_run_as_failed(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    for number in range(30):
        draw(source / f"{number:02}.png", number)
    items = LocalStore.items

    def fail(store: LocalStore, *more: Any) -> Iterator[Any]:
        for number, item in enumerate(items(store, *more)):
            if number == 25:
                raise StorageError("cannot list it: Input/output error")
            yield item

    monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 3)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "items", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            Run("invert", source, out, engine="threads", jobs=2)
    assert states() == ["failed"]
    with Ledger() as ledger:
        (job,) = ledger.jobs()
        recorded = [item.key for item in ledger.items(job.id, "done")]
    assert sorted(recorded) == names(out)
    assert len(recorded) >= 3, "what was in hand is finished"
    run = Run("invert", source, out)
    assert run.numbers == (30 - len(recorded), 0, len(recorded))


@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_a_run_that_an_error_ends_is_not_recorded_as_done(engine: str, photos: Path, out: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Done) and event.result.key == "b/2.jpg":
            raise RuntimeError("it is broken")

    from imageloom.api import process

    with pytest.raises(RuntimeError, match="it is broken"):
        process("invert", photos, out, engine=engine, jobs=2, listeners=[fail])
    assert states() == ["failed"]


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    for number in range(200):
        draw(source / f"a-rather-long-name-{number:03}.png", number, 20, 20)
    running = start("run", "invert", source, out, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout
    assert running.stderr
    running.stdout.readline()
    running.stdout.close()
    with running.stderr:
        said = running.stderr.read()
    assert running.wait(60) == 0, said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert len(names(out)) == 200
    assert states() == ["done"]


def test_nobody_to_work_is_no_reason_to_ignore_a_signal(photos: Path, out: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    command = ["run", "invert", photos, out, "--engine", "zeromq", "--bind", address, "--keys", keys()[0]]
    running = start(*command, "--items-at-once", 1, stderr=subprocess.PIPE)
    try:
        assert running.stderr
        assert next(line for line in running.stderr if "waiting for workers at" in line)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 130
    assert states() == ["interrupted"]


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_kill_loses_no_results_of_a_task_that_goes_on(engine: str, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    for number in range(12):
        draw(source / f"{number:02}.png", number, 20, 20)
    command = ["run", "toil 0.3", source, out, "--operators", HARMFUL, "--engine", engine, "-j", 1]
    running = start(*command)
    try:
        while len(list(out.glob("*.png"))) < 3:
            assert running.poll() is None
    finally:
        running.kill()
        running.wait()
    assert len(list(out.glob("*.png"))) < 12


class Watched(sqlite3.Connection):
    """Explains each statement, and counts the steps of SQLite's machine."""

    steps = 0
    wrong: ClassVar[list[str]] = []

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_progress_handler(self._count, 10)

    @staticmethod
    def _count() -> int:
        Watched.steps += 1
        return 0

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        self._explain(statement, values)
        return super().execute(statement, values)

    def executemany(self, statement: str, values: Iterable[Any]) -> sqlite3.Cursor:
        rows = list(values)
        self._explain(statement, rows[0] if rows else None)
        return super().executemany(statement, rows)

    def _explain(self, statement: str, values: Any) -> None:
        if values is None or not statement.startswith(("SELECT", "UPDATE", "DELETE")):
            return
        for *_, step in super().execute(f"EXPLAIN QUERY PLAN {statement}", values):
            reads_all = "SCAN" in step and any(table in step for table in ("outputs", "items", "texts"))
            reads_sink = "outputs" in step and "(sink=?)" in step and "LIMIT 1" not in statement
            if reads_all or reads_sink:
                self.wrong.append(f"{step}: {statement}")


def test_a_rerun_with_nothing_to_do_costs_the_same_for_each_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **o: connect(*a, **o, factory=Watched))
    monkeypatch.setattr(Watched, "wrong", [])
    spent = []
    for count in (40, 240):
        source, out = tmp_path / f"source-{count}", tmp_path / f"out-{count}"
        photo = draw(tmp_path / "photo.png", 0, 16, 16).read_bytes()
        source.mkdir()
        for number in range(count):
            (source / f"{number}.png").write_bytes(photo)
        Run("invert", source, out)
        Watched.steps = 0
        assert Run("invert", source, out).numbers == (0, 0, count)
        spent.append(Watched.steps / count)
    assert Run("invert", source, out, retry_failed=True).numbers == (0, 0, count)
    with Ledger() as ledger:
        assert len(list(ledger.items(1, "done"))) == 40
    assert Watched.wrong == []
    assert spent[1] < 1.5 * spent[0]
