"""Whole runs through the Python interface: what is done, what is left alone, what fails by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imageloom.api import process
from imageloom.driver import window
from imageloom.driver.run import Driver
from imageloom.engines import Settings
from imageloom.engines.threads import Threads
from imageloom.errors import SinkBusy, UsageError
from imageloom.model import Job, Output, Recipe
from imageloom.recipes.pipeline import Pipeline
from imageloom.records.events import Done, Event
from imageloom.records.ledger import Ledger
from imageloom.records.summary import Summary
from imageloom.testing.scripted import ScriptedEngine
from program import Run, contents, draw, names


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "FIRST_PAUSE", 0.005)


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
    assert f"its output a.png is already the output of {winner}" in first.reason(loser)
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
        with pytest.raises(UsageError, match="where imageloom never writes"):
            process("grayscale", photos, sink)
    with pytest.raises(UsageError, match="where imageloom never writes"):
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
    monkeypatch.setattr(window, "FIRST_PAUSE", 0.0)
    photos, count = tmp_path / "photos", 1500
    first = draw(photos / "0.png", width=4, height=3)
    for number in range(1, count):
        os.link(first, photos / f"{number}.png")
    threads = Threads(Settings(2))
    engine = ScriptedEngine(threads, lost=range(1, 1 + -(-count // 64)))
    job = Job(str(photos), str(tmp_path / "out"), Recipe((Output(Pipeline("invert").steps),)))
    with Ledger(tmp_path / "ledger.db") as ledger:
        summary = Driver(job, engine, ledger).run()
    threads.close()
    assert (summary.done, summary.failed) == (count, 0)


def test_the_summary_reads_well() -> None:
    assert str(Summary(1, 1198, 2, 0, 1.52)) == "1198 of 1200 done, 2 failed, 1.52 s, 789/s"
    assert Summary(1, 0, 0, 0, 0.1).exit_code == 3
    assert Summary(1, 5, 0, 0, 0.1).exit_code == 0
    assert Summary(1, 5, 1, 0, 0.1).exit_code == 1
    assert Summary(1, 5, 1, 0, 0.1, interrupted=True).exit_code == 130
