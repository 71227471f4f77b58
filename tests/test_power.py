"""A power cut at any moment leaves no torn output, loses nothing recorded as done, and touches no other file.

Real runs are recorded, and every state that a power cut may leave of them is rebuilt: `imageloom.testing.power`.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import sys
from collections import defaultdict
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imageloom.errors import StorageError
from imageloom.records.ledger import Ledger
from imageloom.stores.names import STAGING
from imageloom.testing.power import States, Trace, record
from imageloom.testing.power.states import Content, Look, Tree
from program import draw

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None,
    reason="declared: strace, which records the system calls, is not installed",
)

RUN = """
import sys
from imageloom.driver import rounds
from imageloom.system import disk
rounds.MOST, rounds.LONGEST = 2, 60.0
sys.stdout.reconfigure(line_buffering=True)
if sys.argv.pop(1) == "each file":
    disk.flushes_at_once = lambda folder: False
from imageloom.cli import main
main()
"""
"""The program, with rounds of two outputs. It tells at once what is done."""


SERIAL = ("--engine", "serial", "--no-timeline")


class InLedger(NamedTuple):
    """What a restarted program reads in the ledger."""

    error: str
    claimed: frozenset[str] = frozenset()
    """The names of outputs that are imageloom's."""
    filled: frozenset[tuple[str, str]] = frozenset()
    """The names of those that are made, each with its recipe."""
    done: frozenset[tuple[int, str]] = frozenset()
    """The items that are done: number of the job, key."""


def log_part(log: bytes) -> bytes:
    """The part of SQLite's log that counts: up to the last transaction whose checksums are right.

    The format is documented (sqlite.org/fileformat2.html, "The Write-Ahead Log"). States that differ only in what
    SQLite ignores are opened once.
    """
    if len(log) < 32:
        return b""
    sums = _checksum(log[:24], 0, 0)
    if log[:4] != b"\x37\x7f\x06\x82" or log[24:32] != struct.pack(">II", *sums):
        return b""
    size, salt, end = struct.unpack(">I", log[8:12])[0], log[16:24], 32
    for at in range(32, len(log) - 24 - size + 1, 24 + size):
        head, page = log[at : at + 24], log[at + 24 : at + 24 + size]
        sums = _checksum(head[:8] + page, *sums)
        if head[8:16] != salt or head[16:24] != struct.pack(">II", *sums):
            break
        if head[4:8] != bytes(4):
            end = at + 24 + size
    return log[:end]


@lru_cache(maxsize=10_000)
def _checksum(data: bytes, first: int, second: int) -> tuple[int, int]:
    for one, other in struct.iter_unpack("<II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


class _Fast(Ledger):
    """A ledger that is not flushed."""

    def _open(self, is_usual: bool) -> sqlite3.Connection:
        db = super()._open(is_usual)
        db.execute("PRAGMA synchronous=OFF")
        return db


def ledger_look(folder: Path) -> Look:
    """Opens a ledger as the program does after a power cut. `folder`: where to put it."""
    (folder / "new").mkdir(parents=True, exist_ok=True)
    known: dict[tuple[tuple[str, bytes], ...], InLedger] = {}

    def look(tree: Tree) -> InLedger:
        parts = (
            (name, log_part(data) if name.endswith("-wal") else data) for name, (data, _) in tree.items()
        )
        key = tuple(sorted(parts))
        if key not in known:
            known[key] = opened(tree)
        return known[key]

    def opened(tree: Tree) -> InLedger:
        for path in (folder / "new").iterdir():
            path.unlink()
        for name, (data, _) in tree.items():
            (folder / name).write_bytes(data)
        try:
            with _Fast(folder / "new" / "ledger.db") as ledger:
                if (text := ledger._select("PRAGMA integrity_check").fetchone()[0]) != "ok":
                    return InLedger(text)
                outputs = ledger._select(
                    "SELECT name, size, text FROM outputs JOIN texts ON texts.id = outputs.recipe"
                ).fetchall()
                done = ledger._select("SELECT job, key FROM items WHERE state = 'done'").fetchall()
        except (StorageError, sqlite3.Error) as error:
            return InLedger(str(error))
        claimed = frozenset(name for name, _, _ in outputs)
        filled = frozenset((name, recipe) for name, size, recipe in outputs if size is not None)
        return InLedger("", claimed, filled, frozenset(done))

    return look


def files_look(tree: Tree) -> frozenset[tuple[str, Hashable]]:
    """All files that are not staged. An array is one file, whose content is that of all its files."""
    found: dict[str, Hashable] = {}
    arrays: defaultdict[str, set[tuple[str, Content]]] = defaultdict(set)
    for path, content in tree.items():
        name, is_array, _ = path.partition(".zarr/")
        if f"/{STAGING}/" in f"/{path}":
            continue
        if is_array:
            arrays[f"{name}.zarr"].add((path, content))
        else:
            found[path] = content
    return frozenset({**found, **{name: frozenset(files) for name, files in arrays.items()}}.items())


class Recorded:
    """A recorded run of imageloom, beside files that are not its own.

    Args:
        sink: the folder of the outputs below `data`, with a slash at its end.
        command: the command with all arguments but the ledger.
        flushes: "at once" or "each file".
    """

    def __init__(self, folder: Path, sink: str, *command: object, flushes: str = "at once") -> None:
        self.sink = sink
        state = folder / "state"
        state.mkdir(exist_ok=True)
        arguments = (*map(str, command), "--ledger", str(state / "new" / "ledger.db"), "--json")
        program = [sys.executable, "-c", RUN, flushes, *arguments]
        self.trace = record(
            program, (state, folder / "data"), folder / "strace", ignore=r"-shm$|/in-hand(/|$)"
        )
        empty = Trace(self.trace.roots, self.trace.devices, self.trace.folders, self.trace.files)
        self.look = ledger_look(folder / "look")
        before, after = (dict(files_look(States.final(trace, 1))) for trace in (empty, self.trace))
        self.before, self.after = before, after
        in_ledger = self.look(States.final(self.trace, 0))
        assert isinstance(in_ledger, InLedger)
        self.job = max(job for job, _ in in_ledger.done)
        earlier = self.look(States.final(empty, 0))
        assert isinstance(earlier, InLedger)
        self.recipes = {recipe for _, recipe in in_ledger.filled - earlier.filled}
        """What this run was asked for."""
        self.states = States(self.trace, (self.look, files_look), self.law)

    def law(self, found: tuple[object, ...], said: frozenset[str]) -> str:
        """What is wrong with a state, as a sentence."""
        ledger, files = found
        assert isinstance(ledger, InLedger)
        there: dict[str, Hashable] = dict(files)  # type: ignore[call-overload]
        if ledger.error:
            return f"the ledger cannot be used: {ledger.error}"
        filled, done = dict(ledger.filled), {key for job, key in ledger.done if job == self.job}
        for name in self.before.keys() | self.after.keys() | there.keys():
            output, now = name.removeprefix(self.sink), there.get(name)
            old, new = self.before.get(name), self.after.get(name)
            if old == new:
                if now != old:
                    return f"{name}, which this run has no right to change, has changed"
            elif now is None and name.endswith(".zarr") and output not in filled.keys() | done:
                pass  # the old array is moved away before the new one gets its name
            elif now not in (old, new) or (now is None and output in done):
                return f"{name} is torn or lost"
            elif now == new and output not in ledger.claimed:
                return f"{name} is there and not claimed: it looks like another program's file"
            elif self.is_wrong(filled.get(output, ""), output in done, now == new):
                return f"{name} is not what is recorded as done"
        told = {line["item"] for line in map(json.loads, said) if line["event"] == "done"}
        return f"{min(told - done)} was told to be done and is not recorded" if told - done else ""

    def is_wrong(self, recipe: str, is_done: bool, is_new: bool) -> bool:
        """Whether an output is not what the ledger says.

        Args:
            recipe: of which the ledger says that the output is made; empty for none.
            is_done: whether the item is recorded as done in this run.
            is_new: whether the output is what this run makes.
        """
        return not is_new if is_done or recipe in self.recipes else bool(recipe) and is_new

    def not_found(self) -> list[str]:
        """The flushes without which the check finds nothing wrong, by their calls and names."""
        left = [flush for flush in self.trace.flushes if not self.states.check(flush).fault]
        return [f"{flush.call} {Path(flush.path).name}" for flush in left]


class InPlace(Recorded):
    """A recorded run with --in-place. Its record of an output is true of a file with this content only."""

    def is_wrong(self, recipe: str, is_done: bool, is_new: bool) -> bool:
        return (is_done and not is_new) or (is_new and recipe not in self.recipes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three photos, in two folders, and a file of somebody else where the outputs go."""
    for number, key in enumerate(("1.png", "2.png", "a/3.png")):
        draw(tmp_path / "data" / "in" / key, number, 16, 12)
    (tmp_path / "data" / "out").mkdir()
    (tmp_path / "data" / "out" / "letter.txt").write_text("Dear Sir")
    return tmp_path / "data"


def check(ran: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    found = ran.states.check()
    with capsys.disabled():
        sys.stdout.write(f" {found.states:,} states, {found.looked_at} differ ")
    assert not found.fault


SQLITE = ["fdatasync ledger.db-wal", "fdatasync ledger.db-wal"]
"""Flushes of SQLite's that these runs do not need: of the header of a new log (it matters when a log is used
again), and of the log before it is copied into the database (its end has no claims and nothing done)."""
SQLITE_FIRST = ["fdatasync ledger.db-journal", "fdatasync new", "fdatasync ledger.db"]
"""The same while the ledger is made: its change to a log changes two bytes of one page."""


def test_outputs_flushed_at_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger is there before, and on another file system. One name is taken."""
    draw(data / "in" / "4.png", 4, 16, 12)
    (data / "out" / "2.png").write_text("Somebody else's.")
    with Ledger(data.parent / "state" / "new" / "ledger.db"):
        pass
    options = ("--durable", "--if-exists", "skip", *SERIAL)
    ran = Recorded(data.parent, "out/", "run", "invert", data / "in", data / "out", *options)
    ran.trace.devices[0] += 1
    assert ran.after["out/2.png"] == ran.before["out/2.png"]
    assert ran.after.keys() - ran.before.keys() == {"out/1.png", "out/4.png", "out/a/3.png"}
    check(ran, capsys)
    assert {flush.call for flush in ran.trace.flushes} == {"syncfs", "fdatasync"}
    assert ran.not_found() == SQLITE


def test_outputs_flushed_each(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ledger and sink are made by the run."""
    command = ("run", "invert", data / "in", data / "new" / "out", "--durable", *SERIAL)
    ran = Recorded(data.parent, "new/out/", *command, flushes="each file")
    check(ran, capsys)
    assert {flush.call for flush in ran.trace.flushes} == {"fsync", "fdatasync"}
    assert ran.not_found() == [*SQLITE_FIRST, *SQLITE]


def test_replaced_in_place(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(data.parent / "state" / "new" / "ledger.db"):
        pass
    (data / "in" / "1.png").chmod(0o640)
    ran = InPlace(data.parent, "in/", "run", "invert", data / "in", "--in-place", *SERIAL)
    ran.trace.devices[0] += 1
    check(ran, capsys)
    assert ran.not_found() == SQLITE


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [("--format", "png"), ("--format", "tiff"), ("--format", "zarr")], ids=" ".join
)
def test_large_outputs(options: tuple[str, ...], data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Made in tiles, and then made anew by another pipeline: the old outputs are replaced."""
    draw(data / "in" / "1.png", 1, 300, 200)
    for pipeline in ("invert", "flip horizontal"):
        command = (
            "run",
            pipeline,
            data / "in",
            data / "out",
            *options,
            "--tile",
            "always",
            "--durable",
            *SERIAL,
        )
        ran = Recorded(data.parent, "out/", *command)
        check(ran, capsys)
    assert set(ran.not_found()) <= {*SQLITE, "fdatasync new"}


@pytest.mark.long
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_several_workers(engine: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--durable", "--no-timeline", "--engine", engine, "-j", "2")
    check(Recorded(data.parent, "out/", "run", "invert", data / "in", data / "out", *options), capsys)


@pytest.mark.long
def test_a_watch(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--durable", "--until-idle", "0", "--engine", "serial", "--poll", "1")
    check(Recorded(data.parent, "out/", "watch", "invert", data / "in", data / "out", *options), capsys)


@pytest.mark.long
def test_without_flushes_a_power_cut_tears(data: Path) -> None:
    """The check finds what --no-durable leaves out."""
    options = ("--no-durable", *SERIAL)
    ran = Recorded(data.parent, "out/", "run", "invert", data / "in", data / "out", *options)
    assert "is torn or lost" in ran.states.check().fault


JOBS = """
import sys
from pathlib import Path
from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.service.jobs import JobFiles
sys.stdout.reconfigure(line_buffering=True)
files = JobFiles(Path(sys.argv[1]))
for id in ("first", "second"):
    files.accept(pb.JobRequest(id=id, source="/in", sink="/out"))
    print(f"accepted {id}")
files.finish(pb.JobReceipt(id="first", status=pb.JOB_SUCCESS, done=3))
print("finished first")
"""


def test_a_job_that_a_server_has_accepted_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("grpc")
    from google.protobuf.json_format import ParseError

    from imageloom.service.jobs import JobFiles

    (tmp_path / "state").mkdir()
    (tmp_path / "look" / "jobs").mkdir(parents=True)
    command = [sys.executable, "-c", JOBS, str(tmp_path / "state" / "jobs")]
    trace = record(command, [tmp_path / "state"], tmp_path / "strace")

    def look(tree: Tree) -> tuple[frozenset[str], frozenset[str]]:
        """The jobs that a restarted server resumes, and those that it knows as finished."""
        for path in (tmp_path / "look" / "jobs").iterdir():
            path.unlink()
        for name, (content, _) in tree.items():
            (tmp_path / "look" / name).write_bytes(content)
        files = JobFiles(tmp_path / "look" / "jobs")
        unfinished = frozenset(request.id for request in files.unfinished() if request.sink == "/out")
        try:
            ended = {id for id in ("first", "second") if (found := files.receipt(id)) and found.done == 3}
        except ParseError:
            ended = {"torn"}
        return unfinished, frozenset(ended)

    def law(found: tuple[Any, ...], said: frozenset[str]) -> str:
        ((unfinished, ended),) = found
        if "torn" in ended:
            return "a receipt is torn"
        for line in said:
            what, id = line.split()
            if id not in unfinished | ended or (what == "finished" and id in unfinished):
                return f"the job {id} was {what} and is not"
        return ""

    states = States(trace, (look,), law)
    found = states.check()
    with capsys.disabled():
        sys.stdout.write(f" {found.states:,} states, {found.looked_at} differ ")
    assert not found.fault
    assert [flush.call for flush in trace.flushes if not states.check(flush).fault] == []
