"""Whole runs through the Python interface: what is done, what is left alone, what fails by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imageloom import run
from imageloom.api import process
from imageloom.engines import Settings
from imageloom.engines.threads import Threads
from imageloom.errors import SinkBusy, StorageError, UsageError
from imageloom.events import Done, Event, Failed, Skipped
from imageloom.ledger import Ledger
from imageloom.model import Job, Limits, Output, Recipe
from imageloom.pipeline import Pipeline
from imageloom.run import Driver, Summary
from imageloom.testing.scripted import ScriptedEngine
from program import contents, draw, names


class Run:
    """One run, its events sorted out."""

    def __init__(self, pipeline: str, source: Path, sink: Path, **options: Any) -> None:
        self.events: list[Event] = []
        self.summary: Summary = process(pipeline, source, sink, listeners=[self.events.append], **options)

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.summary.done, self.summary.failed, self.summary.skipped

    @property
    def done(self) -> list[str]:
        return sorted(event.result.key for event in self.events if isinstance(event, Done))

    @property
    def skipped(self) -> dict[str, str]:
        return {event.item.key: event.reason for event in self.events if isinstance(event, Skipped)}

    @property
    def failed(self) -> dict[str, str]:
        """The kind of each failure, by key."""
        return {
            event.result.key: event.result.failure.kind
            for event in self.events
            if isinstance(event, Failed) and event.result.failure
        }

    def reason(self, key: str) -> str:
        (reason,) = [
            event.result.failure.message
            for event in self.events
            if isinstance(event, Failed) and event.result.failure and event.result.key == key
        ]
        return reason


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.005)


# What is done, and what is not done again


def test_the_tree_is_kept_and_equal_file_names_keep_their_own_pixels(photos: Path, tmp_path: Path) -> None:
    """All items in one task; each output equals that of a run over the one file alone."""
    together = Run("resize 50% | grayscale", photos, tmp_path / "out", jobs=1)
    assert together.numbers == (6, 0, 0)
    for key, data in contents(tmp_path / "out").items():
        alone = tmp_path / "alone" / key
        process("resize 50% | grayscale", photos / key, alone.parent)
        assert data == alone.read_bytes(), key
    assert names(tmp_path / "out") == names(photos)


def test_a_second_run_does_nothing(photos: Path, out: Path) -> None:
    Run("grayscale", photos, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = Run("grayscale", photos, out)
    assert again.numbers == (0, 0, 6)
    assert set(again.skipped.values()) == {"done before"}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("options", [{"quality": 50}, {"decode": "exact"}, {"format": "png"}])
def test_another_recipe_is_done_anew(photos: Path, out: Path, options: dict[str, Any]) -> None:
    Run("resize 50%", photos, out)
    assert Run("resize 50%", photos, out, **options).numbers == (6, 0, 0)
    assert Run("resize 50%", photos, out, **options).numbers == (0, 0, 6)
    process("resize 50%", photos, out.parent / "fresh", **options)
    fresh = contents(out.parent / "fresh")
    assert {key: data for key, data in contents(out).items() if key in fresh} == fresh


def test_only_a_changed_input_is_done_anew(photos: Path, out: Path) -> None:
    Run("grayscale", photos, out)
    draw(photos / "a" / "1.jpg", seed=99)
    draw(photos / "new.jpg", seed=100)
    again = Run("grayscale", photos, out)
    assert again.done == ["a/1.jpg", "new.jpg"]
    assert again.numbers == (2, 0, 5)


def test_an_output_that_is_gone_or_of_another_size_is_made_again(photos: Path, out: Path) -> None:
    Run("grayscale", photos, out)
    whole = contents(out)
    (out / "1.jpg").unlink()
    (out / "a" / "1.jpg").write_bytes(b"cut")
    again = Run("grayscale", photos, out)
    assert again.done == ["1.jpg", "a/1.jpg"]
    assert contents(out) == whole


def test_retry_failed_does_only_what_failed_when_it_was_last_tried(photos: Path, out: Path) -> None:
    good = (photos / "b" / "1.jpg").read_bytes()
    (photos / "b" / "1.jpg").write_bytes(good[:-300])
    assert Run("grayscale", photos, out).failed == {"b/1.jpg": "CorruptImage"}
    (photos / "b" / "1.jpg").write_bytes(good)
    draw(photos / "new.jpg")
    again = Run("grayscale", photos, out, retry_failed=True)
    assert again.done == ["b/1.jpg"]
    assert set(again.skipped.values()) == {"not failed before"}
    assert Run("grayscale", photos, out, retry_failed=True).numbers == (0, 0, 7)
    assert Run("grayscale", photos, out).done == ["new.jpg"]


def test_a_redo_that_fails_leaves_the_old_output_ours(photos: Path, out: Path) -> None:
    """The input breaks after a run, and is mended: its output is not taken for a stranger's file."""
    Run("grayscale", photos, out)
    before = contents(out)
    good = (photos / "1.jpg").read_bytes()
    (photos / "1.jpg").write_bytes(good[:-300])
    assert Run("grayscale", photos, out).failed == {"1.jpg": "CorruptImage"}
    assert contents(out) == before
    (photos / "1.jpg").write_bytes(good)
    assert Run("grayscale", photos, out).done == ["1.jpg"]
    assert contents(out) == before


# Files of others


def test_a_file_of_others_is_never_replaced_unasked(photos: Path, out: Path) -> None:
    out.mkdir()
    (out / "1.jpg").write_bytes(b"mine")
    first = Run("grayscale", photos, out)
    assert first.failed == {"1.jpg": "OutputExists"}
    assert "--if-exists" in first.reason("1.jpg")
    assert (out / "1.jpg").read_bytes() == b"mine"
    skipped = Run("grayscale", photos, out, if_exists="skip")
    assert skipped.skipped["1.jpg"] == "output exists"
    assert skipped.summary.exit_code == 0
    assert (out / "1.jpg").read_bytes() == b"mine"
    assert Run("grayscale", photos, out).failed == {"1.jpg": "OutputExists"}
    assert Run("grayscale", photos, out, if_exists="overwrite").done == ["1.jpg"]
    assert Run("grayscale", photos, out).numbers == (0, 0, 6)


def test_a_failed_overwrite_makes_nothing_ours(photos: Path, out: Path) -> None:
    out.mkdir()
    (out / "1.jpg").write_bytes(b"mine")
    (photos / "1.jpg").write_bytes((photos / "1.jpg").read_bytes()[:-300])
    assert Run("grayscale", photos, out, if_exists="overwrite").failed == {"1.jpg": "CorruptImage"}
    draw(photos / "1.jpg")
    assert Run("grayscale", photos, out).failed == {"1.jpg": "OutputExists"}
    assert (out / "1.jpg").read_bytes() == b"mine"


def test_outputs_of_another_source_are_not_replaced_unasked(photos: Path, out: Path, tmp_path: Path) -> None:
    draw(tmp_path / "other" / "1.jpg", seed=7)
    Run("grayscale", photos, out)
    other = Run("grayscale", tmp_path / "other", out)
    assert other.failed == {"1.jpg": "OutputExists"}
    assert str(photos / "1.jpg") in other.reason("1.jpg")


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_second_item_of_an_output_name_fails_by_name_each_time(jobs: int, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    draw(photos / "a.jpg", 1)
    draw(photos / "a.png", 2)
    first = Run("grayscale", photos, out, format="png", jobs=jobs)
    ((loser, kind),) = first.failed.items()
    (winner,) = first.done
    assert {winner, loser} == {"a.jpg", "a.png"}
    assert kind == "DuplicateOutput"
    assert f"its output a.png is that of {winner}" in first.reason(loser)
    made = contents(out)
    again = Run("grayscale", photos, out, format="png", jobs=jobs)
    assert again.failed == {loser: "DuplicateOutput"}
    assert again.skipped == {winner: "done before"}
    assert contents(out) == made
    (photos / winner).unlink()
    assert Run("grayscale", photos, out, format="png", if_exists="overwrite").done == [loser]


# The input is never written to


def test_a_sink_in_the_source_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "inner").symlink_to(photos / "a")
    before = contents(photos)
    for sink in (
        photos,
        photos / "out",
        photos / "a",
        tmp_path / "link",
        tmp_path / "link" / "x",
        tmp_path / "inner",
    ):
        with pytest.raises(UsageError, match="never writes into its input"):
            process("grayscale", photos, sink)
    with pytest.raises(UsageError, match="never writes into its input"):
        process("grayscale", tmp_path / "link", photos)
    assert contents(photos) == before


def test_a_folder_of_the_sink_that_leads_into_the_source_is_not_written_to(photos: Path, out: Path) -> None:
    out.mkdir()
    (out / "a").symlink_to(photos / "a")
    before = contents(photos)
    made = Run("grayscale", photos, out, if_exists="overwrite")
    assert made.failed == {"a/1.jpg": "OutputExists", "a/2.jpg": "OutputExists"}
    assert contents(photos) == before


def test_a_link_in_the_sink_is_replaced_and_not_followed(photos: Path, out: Path) -> None:
    out.mkdir()
    (out / "1.jpg").symlink_to(photos / "1.jpg")
    before = contents(photos)
    assert Run("grayscale", photos, out).failed == {"1.jpg": "OutputExists"}
    assert Run("grayscale", photos, out, if_exists="overwrite").numbers == (1, 0, 5)
    assert contents(photos) == before
    assert not (out / "1.jpg").is_symlink()


def test_a_link_to_its_own_output_is_not_replaced_by_it(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    original = draw(out / "1.jpg").read_bytes()
    (photos / "1.jpg").symlink_to(out / "1.jpg")
    made = Run("grayscale", photos, out, if_exists="overwrite")
    assert made.failed == {"1.jpg": "OutputExists"}
    assert "read from" in made.reason("1.jpg")
    assert (out / "1.jpg").read_bytes() == original


def test_a_file_beside_its_output(photos: Path) -> None:
    """The input is the file: its folder may be the sink, as long as the names differ."""
    assert Run("grayscale", photos / "1.jpg", photos).failed == {"1.jpg": "OutputExists"}
    assert Run("grayscale", photos / "1.jpg", photos, if_exists="overwrite").failed == {
        "1.jpg": "OutputExists"
    }
    assert Run("grayscale", photos / "1.jpg", photos, format="png").done == ["1.jpg"]
    assert (photos / "1.png").exists()


def test_a_sink_around_the_source_does_not_touch_it(photos: Path, tmp_path: Path) -> None:
    """The output of photos/photos/1.jpg would be photos/1.jpg."""
    draw(photos / "photos" / "1.jpg", seed=50)
    before = contents(photos)
    made = Run("grayscale", photos, tmp_path, if_exists="overwrite")
    assert made.failed == {"photos/1.jpg": "OutputExists"}
    assert contents(photos) == before


# What cannot be done


def test_whatever_lies_in_the_source_the_others_are_done(photos: Path, out: Path) -> None:
    good = (photos / "1.jpg").read_bytes()
    size = good.index(b"\xff\xc0") + 5
    png = draw(photos / "x.png").read_bytes()
    (photos / "broken-link.jpg").symlink_to("nowhere.jpg")
    (photos / "circle.jpg").symlink_to("circle.jpg")
    (photos / "cut-header.jpg").write_bytes(good[:100])
    (photos / "cut.jpg").write_bytes(good[: len(good) // 2])
    (photos / "cut.png").write_bytes(png[: len(png) // 2])
    (photos / "empty.jpg").touch()
    (photos / "folder.jpg").mkdir()
    draw(photos / "folder.jpg" / "inside.jpg")
    (photos / "lies.jpg").write_bytes(good[:size] + b"\x7f\x00\x7f\x00" + good[size + 4 :])
    (photos / "link-to-folder.jpg").symlink_to(photos / "a")
    (photos / "link.jpg").symlink_to(photos / "1.jpg")
    (photos / "no-pixels.jpg").write_bytes(good[:size] + b"\0\0\0\0" + good[size + 4 :])
    (photos / "text.jpg").write_text("This is no image.")
    os.mkfifo(photos / "pipe.jpg")
    Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.jpg")).write_bytes(good)
    os.mkdir(os.fsencode(photos) + b"/f\xff.jpg")
    ran = Run("grayscale", photos, out)
    assert ran.failed == {
        "broken-link.jpg": "UnreadableItem",
        "caf\\xe9.jpg": "InvalidName",
        "circle.jpg": "UnreadableItem",
        "cut-header.jpg": "CorruptImage",
        "cut.jpg": "CorruptImage",
        "cut.png": "CorruptImage",
        "empty.jpg": "CorruptImage",
        "f\\xff.jpg": "UnreadableItem",
        "folder.jpg": "UnreadableItem",
        "lies.jpg": "LimitExceeded",
        "link-to-folder.jpg": "UnreadableItem",
        "no-pixels.jpg": "CorruptImage",
        "pipe.jpg": "UnreadableItem",
        "text.jpg": "UnsupportedImage",
    }
    assert "--max-pixels" in ran.reason("lies.jpg")
    assert "broken link" in ran.reason("broken-link.jpg")
    assert ran.numbers == (9, 14, 0)
    assert ran.summary.exit_code == 1
    assert {"folder.jpg/inside.jpg", "link.jpg", "x.png"} <= set(contents(out))
    assert not any(".imageloom" in name for name in names(out))
    with Ledger() as ledger:
        assert {item.key for item in ledger.items(ran.summary.job, "failed")} == set(ran.failed)


def test_a_folder_that_cannot_be_listed_is_reported(photos: Path, out: Path) -> None:
    """One whose path is longer than the system takes: even the superuser cannot list it by name."""
    descriptor = os.open(photos, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=descriptor)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    ran = Run("grayscale", photos, out)
    assert ran.summary.done == 6
    ((key, kind),) = ran.failed.items()
    assert key.startswith("d" * 250 + "/")
    assert kind == "UnreadableItem"
    assert "cannot list" in ran.reason(key)


def test_include_takes_files_and_no_folders(photos: Path, out: Path) -> None:
    (photos / "a" / "noext").write_bytes((photos / "1.jpg").read_bytes())
    assert Run("grayscale", photos, out, include=["*"]).numbers == (7, 0, 0)
    assert (out / "a" / "noext.jpg").exists()


def test_patterns_choose_by_name_or_by_path(photos: Path, out: Path) -> None:
    assert Run("grayscale", photos, out, include=["2.*", "b/*"]).done == [
        "2.jpg",
        "a/2.jpg",
        "b/1.jpg",
        "b/2.jpg",
    ]
    assert Run("grayscale", photos, out, exclude=["a/*", "b/*", "1.jpg"]).numbers == (0, 0, 1)


def test_long_names_are_staged_and_published(photos: Path, out: Path) -> None:
    name = "\N{GRINNING FACE}" * 62 + ".jpg"
    draw(photos / name)
    Run("grayscale", photos, out)
    assert (out / name).exists()


def test_limits_are_refused_with_value_and_flag(photos: Path, out: Path) -> None:
    ran = Run("grayscale", photos / "1.jpg", out, limits=Limits(max_file_size=1000))
    assert ran.failed == {"1.jpg": "LimitExceeded"}
    assert "1,000 (--max-file-size)" in ran.reason("1.jpg")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no file or folder"):
        process("grayscale", tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_that_are_not_utf8_are_refused_by_name(photos: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(strange)
    draw(Path(strange) / "1.jpg")
    odd = os.fsdecode(os.fsencode(photos) + b"/\xff.jpg")
    draw(Path(odd))
    for source, sink in ((strange, tmp_path / "out"), (odd, tmp_path / "out"), (photos, strange)):
        with pytest.raises(StorageError, match=r"\\x.* is not UTF-8"):
            process("grayscale", source, sink)


def test_a_sink_that_cannot_be_prepared_is_free_again(photos: Path, out: Path) -> None:
    draw(out / "x.jpg")
    (out / ".imageloom").write_text("in the way")
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot write to"):
            process("grayscale", photos, out)
    (out / ".imageloom").unlink()
    assert process("grayscale", photos, out).done == 6


def test_an_output_name_that_is_a_folder_fails_that_item(photos: Path, out: Path) -> None:
    (out / "1.jpg").mkdir(parents=True)
    ran = Run("grayscale", photos, out, if_exists="overwrite")
    assert ran.failed == {"1.jpg": "UnwritableOutput"}
    assert ran.summary.done == 5
    assert names(out) == names(photos)


# One run at a time


def test_a_sink_has_one_run_at_a_time(photos: Path, out: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def start_another(event: Event) -> None:
        if isinstance(event, Done) and not refused:
            with pytest.raises(SinkBusy) as error:
                process("invert", photos, out)
            refused.append(str(error.value))

    assert process("grayscale", photos, out, listeners=[start_another]).done == 6
    assert f"process {os.getpid()}" in refused[0]
    assert str(out) in refused[0]
    assert process("invert", photos, tmp_path / "out2").done == 6


def test_runs_into_different_sinks_share_a_ledger(photos: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from imageloom import process; sys.exit(process('grayscale', *sys.argv[1:]).exit_code)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(photos), str(tmp_path / f"out{number}")])
        for number in range(3)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    with Ledger() as ledger:
        assert [job.done for job in ledger.jobs()] == [6, 6, 6]


# The driver


def test_a_great_many_retries_at_once_are_worked_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item fails at first: their second attempts are all due together."""
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.0)
    photos, count = tmp_path / "photos", 1500
    first = draw(photos / "0.png", width=4, height=3)
    for number in range(1, count):
        os.link(first, photos / f"{number}.png")
    engine = ScriptedEngine(Threads(Settings(2)), lost=range(1, 1 + -(-count // 64)))
    job = Job(str(photos), str(tmp_path / "out"), Recipe((Output(Pipeline("invert").steps),)))
    with Ledger(tmp_path / "ledger.db") as ledger:
        summary = Driver(job, engine, ledger).run()
    engine.close()
    assert (summary.done, summary.failed) == (count, 0)


def test_the_summary_reads_well() -> None:
    assert str(Summary(1, 1198, 2, 0, 1.52)) == "1198 of 1200 done, 2 failed, 1.52 s, 789/s"
    assert Summary(1, 0, 0, 0, 0.1).exit_code == 3
    assert Summary(1, 5, 0, 0, 0.1).exit_code == 0
    assert Summary(1, 5, 1, 0, 0.1).exit_code == 1
    assert Summary(1, 5, 1, 0, 0.1, interrupted=True).exit_code == 130
