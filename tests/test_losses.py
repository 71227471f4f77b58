"""What outputs lack of their inputs is counted, recorded and shown; --strict-metadata makes it a failure."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image

from imageloom import Recipe, process
from imageloom.codecs.damage import DamageLog
from imageloom.model import (
    MISSING,
    MOST_WARNING,
    MOST_WARNINGS,
    Failure,
    Item,
    Job,
    Limits,
    Output,
    Result,
    Task,
    Work,
    Written,
)
from imageloom.records.events import Done
from imageloom.records.ledger import Ledger
from imageloom.records.losses import Losses
from imageloom.records.summary import Summary
from imageloom.scheduling.results import checked
from program import Run, draw, imageloom

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'


def with_metadata(path: Path, seed: int = 0) -> Path:
    """A photo with EXIF and XMP, which BMP cannot hold."""
    image = Image.open(io.BytesIO(draw(path, seed).read_bytes()))
    exif = Image.Exif()
    exif[0x010F] = "Loom"
    image.save(path, exif=exif, xmp=XMP)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos that lose EXIF and XMP on the way to BMP, and one with nothing to lose."""
    for number in range(2):
        with_metadata(tmp_path / "photos" / f"{number}.jpg", number)
    draw(tmp_path / "photos" / "plain.jpg", 3)
    return tmp_path / "photos"


@pytest.mark.parametrize("tile", ["never", "always"])
@pytest.mark.parametrize("engine", ["serial", "threads", "processes", "pipeline"])
def test_losses_are_reported_by_every_engine(engine: str, tile: str, photos: Path, tmp_path: Path) -> None:
    run = Run("invert", photos, tmp_path / "out", engine=engine, jobs=2, format="bmp", tile=tile)
    summary = run.summary
    assert (summary.lost, summary.dropped) == (2, {"EXIF": 2, "XMP": 2})
    assert str(summary).endswith("; 2 files lost something: 2 EXIF, 2 XMP")
    events = {event.result.key: event.result.dropped for event in run.events if isinstance(event, Done)}
    assert events == {"0.jpg": ("EXIF", "XMP"), "1.jpg": ("EXIF", "XMP"), "plain.jpg": ()}


def test_a_run_shows_records_and_does_not_repeat_losses(photos: Path, tmp_path: Path) -> None:
    command = ("run", "invert", photos, tmp_path / "out", "--format", "bmp", "--engine", "serial")
    ran = imageloom(*command)
    assert ran.stdout.rstrip().endswith("2 files lost something: 2 EXIF, 2 XMP")
    assert "list what was lost: imageloom jobs show 1 --lost" in ran.stderr
    shown = imageloom("jobs", "show", 1, "--lost").stdout
    assert "  lost: 2 EXIF, 2 XMP\n" in shown
    assert imageloom("jobs", "show", 1, "--failed").stdout.endswith("\nno item failed\n")
    assert shown.count("done  ") == shown.count("    lost: EXIF, XMP\n") == 2
    items = [json.loads(line) for line in imageloom("jobs", "show", 1, "--json").stdout.splitlines()]
    assert {item["key"]: item["dropped"] for item in items} == {
        "0.jpg": ["EXIF", "XMP"],
        "1.jpg": ["EXIF", "XMP"],
        "plain.jpg": [],
    }
    again = imageloom(*command, "--json")
    assert "lost something" not in again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["lost"] == 0


def test_json_has_what_each_item_lost(photos: Path, tmp_path: Path) -> None:
    ran = imageloom("run", "invert", photos, tmp_path / "out", "--format", "bmp", "--json")
    *items, summary = map(json.loads, ran.stdout.splitlines())
    assert {item["item"]: item.get("dropped") for item in items} == {
        "0.jpg": ["EXIF", "XMP"],
        "1.jpg": ["EXIF", "XMP"],
        "plain.jpg": None,
    }
    assert (summary["lost"], summary["dropped"]) == (2, {"EXIF": 2, "XMP": 2})


@pytest.mark.parametrize("tile", ["never", "always"])
def test_strict_metadata_fails_only_the_items_that_would_lose_something(
    tile: str, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = imageloom("run", "invert", photos, out, "--format", "bmp", "--strict-metadata", "--tile", tile)
    assert ran.returncode == 1
    wanted = (
        "failed: 0.jpg: MetadataLost: the output would lack what the input has: EXIF, XMP (--strict-metadata)"
    )
    assert wanted in ran.stderr
    assert [path.name for path in out.iterdir() if path.is_file()] == ["plain.bmp"]
    assert imageloom("run", "invert", photos, out, "--strict-metadata", "--metadata", "strip").returncode == 2


def test_a_watch_reports_losses(photos: Path, tmp_path: Path) -> None:
    command = ("watch", "invert", photos, tmp_path / "out", "--until-idle", 0, "--json")
    ran = imageloom(*command, "--format", "bmp", "--engine", "serial")
    items = {
        line["item"]: line for line in map(json.loads, ran.stdout.splitlines()) if line["event"] == "done"
    }
    assert items["0.jpg"]["dropped"] == ["EXIF", "XMP"]
    assert "; 2 files lost something: 2 EXIF, 2 XMP" in ran.stderr
    strict = imageloom(*command, "--format", "pnm", "--strict-metadata", "--engine", "serial")
    assert strict.stdout.count('"kind":"MetadataLost"') == 2


def test_strict_metadata_in_recipes_and_in_python(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "strict.yaml"
    recipe.write_text("metadata: strict\noutputs:\n  small: {pipeline: resize 50%, format: bmp}\n")
    assert "MetadataLost" in imageloom("run", recipe, photos, tmp_path / "out").stderr
    summary = process("invert", photos, tmp_path / "b", format="bmp", metadata="strict", engine="serial")
    assert (summary.done, summary.failed, summary.lost) == (1, 2, 0)


def test_what_an_earlier_run_lost_is_not_done_for_a_strict_one(photos: Path, tmp_path: Path) -> None:
    def run(**options: str) -> tuple[int, int, int]:
        run = Run("invert", photos, tmp_path / "out", format="bmp", engine="serial", **options)
        return run.numbers

    assert run() == (3, 0, 0)
    assert run(metadata="strict") == (0, 2, 1)
    assert run() == (2, 0, 1)
    assert run() == (0, 0, 3)


def test_plan_says_what_becomes_of_each_thing(tmp_path: Path) -> None:
    photo = with_metadata(tmp_path / "a.jpg")
    shown = imageloom("plan", "resize 50%", photo, "--format", "bmp").stdout
    assert "\nmetadata  dropped: EXIF, XMP\n" in shown.replace(", density", "")
    shown = imageloom("plan", "resize 50%", photo, "--format", "bmp", "--strict-metadata").stdout
    assert "\nmetadata  refused (--strict-metadata): EXIF, XMP\n" in shown.replace(", density", "")
    assert "\nmetadata  kept: EXIF, XMP" in imageloom("plan", "resize 50%", photo).stdout
    assert "the file has none" in imageloom("plan", "invert", draw(tmp_path / "b.png")).stdout


def result(**changed: object) -> Result:
    return Result("a.jpg", (Written("a.jpg", "1-1-1-0123456789ab-0", 1),), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lie",
    [
        {"dropped": ("the moon",)},
        {"dropped": ("XMP", "EXIF")},
        {"dropped": ("EXIF", "EXIF")},
        {"dropped": ("EXIF",) * 1000},
        {"warnings": ("w",) * (MOST_WARNINGS + 1)},
        {"written": (), "failure": Failure("CorruptImage", "so"), "dropped": ("EXIF",)},
        {"written": (), "failure": Failure("CorruptImage", "so"), "warnings": ("w",)},
    ],
)
def test_reported_losses_are_checked(lie: dict[str, object]) -> None:
    work = Work(Item("a.jpg"), ("a.jpg",), 1)
    task = Task(1, "1", "/in", "/out", Recipe((Output(()),)), Limits(), (work,))
    honest = result(dropped=("EXIF", "XMP"), warnings=("w\x1b[31m\n" + "x" * 1000,))
    (warning,) = checked(task, work, honest, "w").warnings
    assert len(warning) <= MOST_WARNING + 10, "after escapes"
    assert warning.startswith(r"w\x1b[31m\x0axxx")
    (failure,) = [checked(task, work, replaced(lie), "w").failure]
    assert failure is not None
    assert failure.kind == "InvalidResult"


def replaced(lie: dict[str, object]) -> Result:
    return replace(result(), **lie)


def test_the_ledger_keeps_losses_and_opens_old_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        job = ledger.begin("/in", "/out", "invert", "serial", 1)
        ledger.record_done(job, "/out", result(), 1, "w")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE losses")  # as in a ledger of an earlier program
    with Ledger(path) as ledger:
        assert [item.dropped for item in ledger.items(job)] == [()]
        ledger.record_done(job, "/out", result(dropped=("EXIF",), warnings=("w",)), 1, "w")
        (item,) = ledger.items(job, lost=True)
        assert (item.dropped, item.warnings) == (("EXIF",), ("w",))
        assert ledger.losses(job) == {"EXIF": 1}
        assert ledger.lossy("/in", "/out") == {"a.jpg"}
        ledger.record_done(job, "/out", result(), 1, "w")  # another version of the file
        assert list(ledger.items(job, lost=True)) == []
        assert ledger.lossy("/in", "/out") == frozenset()
        ledger.record_done(job, "/out", result(warnings=("w",)), 1, "w")
        assert ledger.lossy("/in", "/out") == frozenset()
        ledger.forget_items(job, 1e12)
        assert list(ledger.items(job)) == []
        assert ledger._db.execute("SELECT COUNT(*) FROM losses").fetchone() == (0,)


def test_the_last_line() -> None:
    summary = Summary(1, 12, 0, 0, 1.2, False, 12, {"gain map": 12, "EXIF": 3}, 2, 0, {".mov": 1, ".cr2": 2})
    assert str(summary) == (
        "12 of 12 done, 0 failed, 1.20 s, 10/s; 12 files lost something: 12 gain maps, 3 EXIF; "
        "2 files are damaged but complete; 3 files were left out: 2 .cr2, 1 .mov"
    )
    one = Summary(1, 1, 0, 0, 1.0, False, 1, {"gain map": 1}, 2, 1, {".mov": 1})
    assert str(one).partition("; ")[2] == (
        "1 file lost something: 1 gain map; 1 file is damaged but complete; "
        "1 file is damaged and lacks pixels; 1 file was left out: 1 .mov"
    )


def test_thumbnails_are_recorded_and_not_counted_as_losses() -> None:
    losses = Losses()
    for dropped in (("EXIF", "thumbnail"), ("thumbnail",), ()):
        losses.add(result(dropped=dropped))
    assert (losses.lost, losses.dropped) == (1, {"EXIF": 1, "thumbnail": 2})
    summary = Summary(1, 3, 0, 0, 1.0, False, losses.lost, dict(losses.dropped))  # type: ignore[arg-type]
    assert str(summary).endswith("; 1 file lost something: 1 EXIF")


def test_missing_pixels_are_told_from_other_damage() -> None:
    log = DamageLog("salvage")
    log.repaired("a stray byte")
    log.missing("the last 3 of 9 rows")
    assert log.warnings == ("a stray byte", f"{MISSING}the last 3 of 9 rows")


def test_the_report_lists_losses(photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    imageloom("run", "invert", photos, tmp_path / "out", "--format", "bmp", "--report", page)
    text = page.read_text()
    assert '<section id="losses"' in text
    assert '<tr><th scope="row">0.jpg</th><td>EXIF, XMP</td><td>–</td></tr>' in text
    assert "  lost: 2 EXIF, 2 XMP" in imageloom("report", "last", "--out", tmp_path / "b.html").stdout
    figures = json.loads(imageloom("report", "last", "--json").stdout)
    assert figures["dropped"] == {"EXIF": 2, "XMP": 2}
    imageloom("run", "invert", photos, tmp_path / "plain", "--report", page)
    assert '<section id="losses"' not in page.read_text()


def test_losses_in_the_metrics() -> None:
    from imageloom.engines import Settings
    from imageloom.engines.serial import Serial
    from imageloom.service.health import Tally, to_text

    tally = Tally()
    for one in (result(), result(dropped=("EXIF", "gain map")), result(dropped=("EXIF",), warnings=("w",))):
        tally(Done(one, 1, "w"))
    text = to_text(tally.of_run(Serial(Settings())))
    assert 'imageloom_losses_total{thing="EXIF"} 2\n' in text
    assert 'imageloom_losses_total{thing="gain map"} 1\n' in text
    assert 'imageloom_damaged_items_total{state="complete"} 1\n' in text
    assert to_text(Tally().of_run(Serial(Settings()))).count("imageloom_losses_total") == 2, (
        "help and type alone"
    )


def test_losses_through_a_server(tmp_path: Path) -> None:
    pb = pytest.importorskip("imageloom.engines.nodes.imageloom_pb2")
    from imageloom.service.jobs import RunningJob
    from imageloom.service.messages import to_event, to_item_receipt, to_job, to_request, to_summary

    outputs = (Output((), subsampling="444"),)
    recipe = Recipe(outputs, metadata="strict", damage="salvage", colors="srgb", gain_map="drop")
    job = Job(str(tmp_path), str(tmp_path / "out"), recipe, links="inside")
    request = to_request(job, "1", False)
    assert sorted(request.needs) == ["colors", "damage", "gain_map", "metadata", "subsampling"]
    assert to_job(request) == job
    usual = to_request(replace(job, recipe=Recipe((Output(()),), metadata="strip")), "1", False)
    assert not usual.needs, "an older server can do it"

    event = Done(result(dropped=("EXIF", "gain map"), warnings=(f"{MISSING}a row",)), 1, "w")
    receipt = to_item_receipt(event)
    assert receipt is not None
    received = to_event(receipt)
    assert isinstance(received, Done)
    assert (received.result.dropped, received.result.warnings) == (
        event.result.dropped,
        event.result.warnings,
    )
    running = RunningJob(pb.JobRequest(id="1"), job)
    for one in (event, event, Done(result(), 1, "w")):
        running._on_event(one)
    summary = to_summary(running.receipt())
    assert (summary.done, summary.lost, summary.dropped) == (3, 2, {"EXIF": 2, "gain map": 2})
    assert (summary.damaged, summary.incomplete) == (2, 2)
