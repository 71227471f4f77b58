"""The bench: its figures against other ways to come to them, and what it does about what is wrong."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from benched import bench_of
from imageloom.bench import Wanted, laws, programs, rounds, run_bench, write
from imageloom.bench.charts import drawings
from imageloom.bench.configurations import WAYS, configurations
from imageloom.bench.records import Bench
from imageloom.bench.rounds import Rounds
from imageloom.bench.samples import draw_photos
from imageloom.bench.table import fits, serial_part, table
from imageloom.bench.text import notes, summary, tables
from imageloom.bench.work import FEW, Work, difference, digests, set_aside
from imageloom.engines import ENGINES
from imageloom.errors import ImageloomError, UsageError
from imageloom.report.drawing import Bars, Dot, to_png
from program import imageloom, wait_until
from recorded import attempt, job_of, timeline_of

COUNT = 40
LITTLE = Wanted(names=("serial", "threads", "processes"), workers=(1, 2), repeats=1, count=COUNT, kills=0)


def quiet(text: str) -> None:
    """What a bench says is not looked at."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Path]:
    """A bench of three engines with a sweep and kills, and the folder that it was written to."""
    wanted = msgspec.structs.replace(
        LITTLE, sizes=(100_000, 4_000_000), large=(1200, 800), kills=1, count=100
    )
    out = tmp_path_factory.mktemp("bench") / "out"
    found = run_bench(wanted, None, quiet)
    write(found, out)
    return found, out


# The laws


def test_the_laws_give_what_a_hand_gives() -> None:
    assert laws.amdahl(0.1, 4) == pytest.approx(1 / (0.1 + 0.9 / 4))
    assert laws.amdahl(0.0, 7) == 7
    assert laws.amdahl(1.0, 7) == 1
    # Karp and Flatt: a speed-up of 3 on 4 workers: (1/3 - 1/4) / (1 - 1/4) = 1/9.
    assert laws.karp_flatt(3.0, 4) == pytest.approx(1 / 9)
    assert laws.karp_flatt(4.0, 4) == pytest.approx(0)
    assert laws.karp_flatt(1.0, 1) is None


def test_a_fit_finds_the_serial_part_that_times_were_made_of() -> None:
    times = {n: 8.0 / laws.amdahl(0.25, n) for n in (1, 2, 4, 8)}
    assert laws.fit(times) == pytest.approx(0.25)
    assert laws.fit({1: 10.0, 2: 7.0}) == pytest.approx(0.4), "Karp and Flatt's, where there is one pair"
    noisy = {1: 10.0, 2: 6.0, 4: 5.0, 8: 3.0}
    found = laws.fit(noisy)
    assert found is not None

    def error(part: float) -> float:
        return sum((10 / laws.amdahl(part, n) - t) ** 2 for n, t in noisy.items())

    assert error(found) == pytest.approx(min(error(part) for part in np.linspace(0, 1, 2001)), rel=1e-4)
    assert laws.fit({2: 5.0, 4: 3.0}) is None
    assert laws.fit({1: 5.0}) is None


# One program


@pytest.mark.parametrize(
    ("part", "text"), [(0.123, "12%"), (-0.001, "0%"), (-0.2, "under 0%"), (1.0, "100%"), (1.2, "slower")]
)
def test_a_serial_part_above_all_of_the_work_is_none(part: float, text: str) -> None:
    assert serial_part(part) == text


def test_the_best_may_be_what_is_planned() -> None:
    bench = bench_of()
    sweep = bench.sweep
    assert sweep
    slow = replace(sweep, planned=replace(sweep.planned, seconds=[9.0]))
    assert ". Best: " in notes(replace(bench, sweep=slow))["Tile sizes"]
    fast = replace(sweep, planned=replace(sweep.planned, seconds=[0.01]))
    assert notes(replace(bench, sweep=fast))["Tile sizes"].endswith("0.01 s, the best.")
    assert tables(replace(bench, sweep=fast))["Tile sizes"][-1][-1] == "planned, best"


def test_a_program_is_charged_with_its_orphans_too() -> None:
    """A child that outlives its parent, for half a second of CPU, as a fork server's workers do."""
    spin = "import time\nwhile time.process_time() < 0.5: pass"
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {spin!r}])"
    taken = programs.take([sys.executable, "-c", code])
    assert (taken.code, taken.left) == (0, 0)
    assert 0.5 <= taken.cpu < 3
    alone = programs.take([sys.executable, "-c", spin])
    assert 0.5 <= alone.cpu < 3
    assert alone.seconds >= 0.5


def test_a_program_is_charged_with_children_that_nobody_waits_for() -> None:
    """The kernel adds the time of such a child to no one's, as of Ray's workers."""
    spin = "import time\nwhile time.process_time() < 3: pass"
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {spin!r}])\n"
        "child.wait()\n"
    )
    taken = programs.take([sys.executable, "-c", code])
    assert taken.code == 0
    assert 1.5 <= taken.cpu < 5


def test_memory_that_processes_share_counts_once() -> None:
    """Three processes that share 90 MB, of which one has 30 MB for itself."""
    code = (
        "import mmap, os, time\n"
        "shared = mmap.mmap(-1, 90_000_000)\n"
        "shared.write(b'x' * 90_000_000)\n"
        "for n in range(2):\n"
        "    if os.fork() == 0:\n"
        "        own = b'y' * 30_000_000 if n else b''\n"
        "        total = sum(shared[i] for i in range(0, 90_000_000, 4096))\n"
        "        time.sleep(0.6); os._exit(0)\n"
        "os.wait(); os.wait()\n"
    )
    taken = programs.take([sys.executable, "-c", code], memory=True)
    assert taken.code == 0
    assert 120e6 <= taken.memory < 190e6, "not the 300 MB that the resident sets add up to"
    assert programs.take([sys.executable, "-c", code]).memory == 0, "it was not looked at"


def test_what_hangs_is_ended_with_all_that_it_started() -> None:
    code = "import subprocess, sys, time\nsubprocess.Popen(['sleep', '611']); time.sleep(60)"
    taken = programs.take([sys.executable, "-c", code], patience=1.0)
    assert taken.code == -signal.SIGKILL
    assert taken.seconds < 30
    assert taken.left >= 1
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "611"]]


def test_a_bench_that_is_killed_leaves_no_program_behind() -> None:
    code = "from imageloom.bench.programs import take\ntake(['sleep', '613'])"
    bench = subprocess.Popen([sys.executable, "-c", code])

    def left() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "613"]]

    wait_until(lambda: bool(left()))
    bench.kill()
    bench.wait(10)
    wait_until(lambda: not left())


def test_a_program_that_fails_says_why() -> None:
    taken = programs.take([sys.executable, "-c", "import sys; sys.exit('no such luck')"])
    assert (taken.code, taken.errors) == (1, "no such luck\n")


# The rounds


@pytest.mark.timeout(300)  # the bench itself
def test_everything_is_run_in_turn_and_equal(made: tuple[Bench, Path]) -> None:
    found, _ = made
    assert found.wrong == {}
    assert [m.configuration.label for m in found.measured] == [
        "serial 1", "threads 1", "threads 2", "processes 1", "processes 2",
    ]  # fmt: skip
    for one in found.measured:
        assert len(one.runs) == 1
        assert all(run.start > 0 and run.seconds > 0 for run in one.runs)
        assert one.memory > 10e6
        assert one.item.p50 <= one.item.p90 <= one.item.p99 <= one.item.max
        assert one.stay.p50 >= one.item.p50
        assert sum(one.stages.values()) == pytest.approx(one.item.total, rel=0.2)
        assert 0 < one.activity.offset < one.activity.seconds
        assert len(one.activity.rows) <= one.configuration.workers
    processes, threads = found.find("processes", 2), found.find("threads", 2)
    assert processes
    assert threads
    assert processes.memory > threads.memory


def test_the_table_is_what_the_json_says(made: tuple[Bench, Path]) -> None:
    """The table's numbers, worked out of bench.json without any of our code."""
    found, out = made
    raw = json.loads((out / "bench.json").read_text())
    times: dict[tuple[str, int], float] = {}
    for one in raw["measured"]:
        way = one["configuration"]
        times[way["name"], way["workers"]] = statistics.median(run["seconds"] for run in one["runs"])
    serial = times["serial", 1]
    rows = {(row[0], int(row[1].rstrip("*"))): row for row in tables(found)["Engines"][1:]}
    assert rows.keys() == times.keys()
    for (name, workers), seconds in times.items():
        row = dict(zip(tables(found)["Engines"][0], rows[name, workers], strict=True))
        assert row["time"] == f"{seconds:.2f} s"
        assert float(row["images/s"].replace(",", "")) == pytest.approx(raw["images"] / seconds, rel=0.006)
        assert float(row["speed-up"]) == pytest.approx(serial / seconds, abs=0.006)
        assert float(row["efficiency"].rstrip("%")) == pytest.approx(
            100 * serial / seconds / workers, abs=0.6
        )
        assert row["workers"].endswith("*") == (workers > raw["machine"]["cores"])
        if workers == 2:
            ratio = seconds / times[name, 1]
            assert row["serial part"] == serial_part(2 * ratio - 1)
            if raw["machine"]["cores"] >= 2:
                assert fits(found)[name] == pytest.approx(2 * ratio - 1)
    spent = {r.name + str(r.workers): r.cpu for r in table(found)}
    for one in raw["measured"]:
        cpu = statistics.median(run["cpu"] for run in one["runs"])
        assert spent[one["configuration"]["name"] + str(one["configuration"]["workers"])] == cpu


def test_workers_are_killed_and_nothing_is_lost(made: tuple[Bench, Path]) -> None:
    (fault,) = made[0].faults
    assert (fault.configuration.name, fault.killed) == ("processes", 1)
    assert (fault.done, fault.failed, fault.equal) == (100, 0, True)
    assert fault.again >= 1


def test_tile_sizes_are_those_asked_for(made: tuple[Bench, Path]) -> None:
    sweep = made[0].sweep
    assert sweep
    assert {(cell.pixels, cell.workers) for cell in sweep.cells} == {
        (pixels, workers) for pixels in (100_000, 4_000_000) for workers in (1, 2)
    }
    parts = {cell.pixels: cell.parts for cell in sweep.cells}
    assert parts[100_000] >= 8
    assert parts[4_000_000] <= 2
    assert sweep.planned.pixels == 4_000_000
    assert statistics.median(sweep.best.seconds) == min(
        statistics.median(cell.seconds) for cell in (*sweep.cells, sweep.planned)
    )


def test_a_bench_that_is_read_back_makes_the_same_page(made: tuple[Bench, Path]) -> None:
    found, out = made
    read = msgspec.json.decode((out / "bench.json").read_bytes(), type=Bench)
    assert read == found
    from imageloom.bench.page import to_html

    assert (out / "bench.html").read_text() == to_html(read)
    assert summary(read) == summary(found)


def test_every_second_round_goes_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program that does nothing but count: what is run, in which order."""
    ran: list[tuple[str, str, bool]] = []

    def counting(command: Any, *, memory: bool = False, **_: Any) -> programs.Taken:
        engine = command.index("--engine")
        ran.append((command[engine + 1], command[engine + 2], memory))
        return programs.Taken(1.0, 1.0, time.time(), 0, 5, 5, 0, "")

    timeline = timeline_of([attempt("a")], ["7/x"], 1.0)
    monkeypatch.setattr(programs, "take", counting)
    monkeypatch.setattr(rounds, "Ledger", lambda path: nullcontext())
    monkeypatch.setattr(rounds, "recorded", lambda ledger, job: (job_of(timeline), timeline))
    monkeypatch.setattr(rounds, "digests", lambda folder: {"a": "1"})
    work = Work("grayscale", None, 1, tmp_path)
    Rounds(work, configurations(["threads"], [1, 2]), quiet).run(2)
    ways = [("serial", "-j1"), ("threads", "-j1"), ("threads", "-j2")]
    probes, memory = ways[:2], ways
    twice = [way for way in (*ways, *reversed(ways)) for _ in range(2)]  # one photo, then all
    assert [way[:2] for way in ran] == [*probes, *memory, *twice]
    assert [way[2] for way in ran] == [False] * 2 + [True] * 3 + [False] * 12


def test_workers_that_follow_each_other_share_a_lane() -> None:
    """An attempt takes 15 ms: of four threads two at a time."""
    attempts = [attempt("a", 0, 0), attempt("b", 1, 5_000), attempt("c", 2, 15_000), attempt("d", 3, 40_000)]
    timeline = timeline_of([*attempts, attempt("e", 0, 16_000)], ["7/a", "7/b", "7/c", "7/d"], 0.1)
    assert rounds.lanes_of(timeline) == {"7/a": 0, "7/b": 1, "7/c": 2, "7/d": 0}


# What is wrong


def test_an_output_that_was_tampered_with_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = programs.take

    def tampering(command: Any, **options: Any) -> programs.Taken:
        """One byte of one output of the threads is another one."""
        taken = take(command, **options)
        if "threads" in command and str(command[command.index("run") + 2]).endswith("photos"):
            path = sorted(Path(command[command.index("run") + 3]).iterdir())[7]
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        return taken

    monkeypatch.setattr(programs, "take", tampering)
    wanted = msgspec.structs.replace(LITTLE, names=("threads",), workers=(2,), repeats=1, count=12)
    found = run_bench(wanted, None, quiet)
    assert found.wrong == {"threads 2": "1 outputs are not the serial engine's bytes, as 000007.jpg"}
    assert [m.configuration.name for m in found.measured] == ["serial"]
    write(found, tmp_path / "out")
    assert "something is wrong" in (tmp_path / "out" / "bench.html").read_text()
    assert "WRONG: threads 2: 1 outputs" in summary(found)


def test_differences_are_named() -> None:
    expected = {"a": "1", "b": "2", "c": "3"}
    assert difference(expected, dict(expected)) == ""
    assert difference(expected, {"a": "1", "b": "9", "d": "4"}) == (
        "1 outputs are missing, as c; 1 outputs are not the serial engine's bytes, as b; 1 files too many, as d"
    )


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    take = programs.take

    def without_zmq(command: Any, **options: Any) -> programs.Taken:
        code = "import sys; sys.modules['zmq'] = None; from imageloom.cli import main; main()"
        return take([sys.executable, "-c", code, *command[3:]], **options)

    monkeypatch.setattr(programs, "take", without_zmq)
    wanted = msgspec.structs.replace(LITTLE, names=("zeromq",), workers=(1,), repeats=1, count=3)
    found = run_bench(wanted, None, quiet)
    assert "pip install 'imageloom[zeromq]'" in found.missing["zeromq"]
    assert found.wrong == {}
    assert "not run: zeromq" in summary(found)


def test_what_the_serial_engine_cannot_do_ends_the_bench(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(ImageloomError, match="the engine serial"):
        run_bench(msgspec.structs.replace(LITTLE, count=0), tmp_path / "photos", quiet)


def test_ways_and_numbers_that_there_are_not_are_refused() -> None:
    with pytest.raises(UsageError, match="there is no 'thread'; there are: serial, threads"):
        configurations(["thread"], [1])
    assert {engine for engine, _ in WAYS.values()} == set(ENGINES.built_in), "every engine is benched"


def test_photos_are_given_again_until_there_are_enough(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos" / "deep", 3)
    (tmp_path / "place").mkdir()
    work = Work("grayscale", tmp_path / "photos", 8, tmp_path / "place")
    assert (work.count, work.different) == (8, 3)
    kept = digests(work.photos)
    assert len(kept) == 8
    assert len(set(kept.values())) == 3


def test_a_timed_run_never_follows_the_deletion_of_many_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for count in (FEW + 1, FEW + 2, 1):
        out.mkdir()
        for number in range(count):
            (out / f"{number}").touch()
        set_aside(out)
        assert not out.exists()
    set_aside(out)
    kept = {
        folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir() if folder.name != "state"
    }
    assert kept == {"out.used-0": FEW + 1, "out.used-1": FEW + 2}, "a few files may be deleted"


# The command


def test_the_command_writes_a_report_and_shows_the_table(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 5)
    ran = imageloom(
        *("bench", tmp_path / "photos", "--quick", "--engines", "serial,threads", "--workers", "2"),
        *("--no-sweep", "--peers", "--out", tmp_path / "out"),
    )
    assert ran.returncode == 0, ran.stderr
    assert "threads" in ran.stdout
    assert "OpenCV script" in ran.stdout
    assert str(tmp_path / "out" / "bench.html") in ran.stdout
    read = msgspec.json.decode((tmp_path / "out" / "bench.json").read_bytes(), type=Bench)
    assert read.images == 5
    assert str(tmp_path) not in (tmp_path / "out" / "bench.json").read_text(), "no path of this machine"
    assert {peer.name for peer in read.peers} >= {"OpenCV script", "simplejpeg script", "Pillow script"}
    assert set(read.missing) <= {"vipsthumbnail", "mogrify", "gm"}


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    ran = imageloom("bench", tmp_path, "--quick")
    assert ran.returncode == 3
    assert "no image" in ran.stderr


# The drawings


def test_the_drawings_show_the_tables_values(made: tuple[Bench, Path]) -> None:
    found, _ = made
    shown = drawings(found, 920)
    rows = table(found)
    bars = [box for shape in shown["throughput"].shapes if isinstance(shape, Bars) for box in shape.boxes]
    widths = {round(y): w for _, y, w, _ in bars}
    scale = max(row.rate for row in rows) / max(widths.values())
    ordered = [w * scale for _, w in sorted(widths.items())]
    assert ordered == pytest.approx([row.rate for row in rows], rel=1e-6)
    dots = [shape for shape in shown["efficiency"].shapes if isinstance(shape, Dot)]
    assert len(dots) == len(rows) - 1
    for each in shown.values():
        assert to_png(each, 1).startswith(b"\x89PNG")
