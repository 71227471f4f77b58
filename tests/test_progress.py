"""Progress and last lines: one rate, one remaining time, and what has happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageloom.cli.progress import Lines, Tally, duration
from imageloom.model import Item, Result
from imageloom.records.events import Advanced, Done, Failed, Skipped, Started
from imageloom.records.summary import Summary, per_second
from program import Run, draw, imageloom


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("imageloom.cli.progress.time.monotonic", lambda: now[0])
    return now


def done(number: int) -> Done:
    return Done(Result(f"{number}.jpg"), 1, "w")


def test_skipped_items_are_no_speed(clock: list[float]) -> None:
    tally = Tally()
    tally.total = 1000
    for number in range(900):
        tally(Skipped(Item(f"{number}.png"), "done before"))
    clock[0] += 60
    assert tally.speed() == ""
    tally(Started(1, 20, 1))
    clock[0] += 4
    for number in range(20):
        tally(done(number))
    assert (tally.seen, tally.speed()) == (920, "5/s, about 16 s left")


def test_a_large_image_counts_by_its_tiles(clock: list[float]) -> None:
    tally = Tally()
    tally.total = 1
    tally(Started(1, 1, 1))
    clock[0] += 30
    tally(Advanced("huge.tif", 30, 40, 1, 3))
    assert tally.tiles() == "huge.tif: step 1 of 3, tile 30 of 40"
    assert tally.speed() == "0.0083/s, about 90 s left" or tally.speed() == "0.0083/s, about 2 min left"
    tally(Advanced("other.tif", 1, 2, 1, 1))
    assert tally.tiles() == "huge.tif: step 1 of 3, tile 30 of 40 and 1 more"
    tally(Failed(Result("huge.tif"), 1, "w"))
    assert tally.tiles() == "other.tif: tile 1 of 2"


def test_lines_for_a_log(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(None)
    lines(Skipped(Item("0.jpg"), "done before"))
    lines(Started(1, 1, 1))
    clock[0] += 5
    lines(done(1))
    clock[0] += 4
    lines(done(2))
    clock[0] += 1
    lines(Failed(Result("3.jpg"), 1, "w"))
    assert capsys.readouterr().err.splitlines() == [
        "1 done (1 skipped), 0 failed, 0.2/s",
        "2 done (1 skipped), 1 failed, 0.3/s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12000, "3 h 20 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(789.4, "789/s"), (10, "10/s"), (5.04, "5/s"), (0.02148, "0.021/s")]
)
def test_rates(rate: float, text: str) -> None:
    assert per_second(rate) == text


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (Summary(1, 0, 0, 40, 0.5, unchanged=40), "all 40 are up to date, 0.50 s"),
        (Summary(1, 0, 0, 1, 0.5, unchanged=1), "1 of 1 is up to date, 0.50 s"),
        (Summary(1, 0, 0, 40, 0.5, unchanged=30), "0 of 40 done (40 skipped), 0 failed, 0.50 s, 0/s"),
        (Summary(1, 2, 0, 38, 0.5, unchanged=38), "2 of 40 done (38 skipped), 0 failed, 0.50 s, 4/s"),
        (
            Summary(1, 186, 1, 0, 2.0, interrupted=True),
            "interrupted: 186 done, 1 failed, 2.00 s, 94/s; repeat the command to go on",
        ),
    ],
)
def test_the_last_line(summary: Summary, text: str) -> None:
    assert str(summary) == text


def test_a_repeated_run_is_up_to_date(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / "photos" / f"{number}.jpg", number, 40, 30)
    run = ("run", "flip", tmp_path / "photos", tmp_path / "out", "--ledger", tmp_path / "ledger.db")
    imageloom(*run)
    assert imageloom(*run).stdout.startswith("all 3 are up to date, ")
    retried = imageloom(*run, "--retry-failed")
    assert retried.stdout.startswith("0 of 3 done (3 skipped)")
    assert "no item failed in an earlier run; without --retry-failed" in retried.stderr


def test_tiles_are_told(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "large.png", 1, 900, 700)
    ran = Run(
        "gaussian_blur 2", tmp_path / "photos", tmp_path / "out", tile="always", ledger=tmp_path / "l.db"
    )
    told = [event for event in ran.events if isinstance(event, Advanced)]
    shares = [event.share for event in told]
    assert told
    assert shares == sorted(shares)
    assert all(event.key == "large.png" and 0 < event.share < 1 for event in told)
