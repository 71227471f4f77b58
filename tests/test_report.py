"""Figures, drawings and forms of a report, without a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from imageloom.model import STAGES
from imageloom.records.ledger import Ledger, default_path
from imageloom.records.timeline import ASSEMBLED, FAILED, PART, RETRIED, Attempt, Timeline, path_of
from imageloom.report import charts, page, recorded
from imageloom.report.columns import MOST_BARS, NARROW, WIDE, columns
from imageloom.report.drawing import PALETTE, Bars, Drawing, Text, to_png, to_svg
from imageloom.report.figures import Figures, bin_width, figures, spread
from imageloom.report.text import duration, size, summary, table
from program import Run, imageloom
from recorded import attempt, crowd_of, job_of, timeline_of


def figures_of(attempts: list[Attempt], workers: list[str], seconds: float) -> Figures:
    timeline = timeline_of(attempts, workers, seconds)
    return figures(job_of(timeline), timeline)


# Figures


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[int]) -> None:
    found = spread(values)
    for percent, value in ((50, found.p50), (90, found.p90), (99, found.p99)):
        enough = [v for v in values if sum(w <= v for w in values) * 100 >= percent * len(values)]
        assert value == min(enough) / 1e6
    assert found.max == max(values) / 1e6
    assert found.total == pytest.approx(sum(values) / 1e6)


def test_imbalance_and_utilization_are_those_of_the_busy_times() -> None:
    attempts = [attempt("a", 0), attempt("b", 0, 15_000), attempt("c", 0, 30_000), attempt("d", 1)]
    found = figures_of(attempts, ["7/thread_0", "7/thread_1"], 0.1)
    assert [round(w.busy, 6) for w in found.workers] == [0.045, 0.015]
    assert found.imbalance == pytest.approx(0.045 / 0.030)
    assert found.utilization == pytest.approx(0.060 / 0.2)
    assert figures_of(attempts[:3], ["7/thread_0"], 0.1).imbalance is None


def test_waits_are_what_lies_between_the_stages() -> None:
    late = attempt("a", 0, 50_000, submitted=20_000, collected=90_000)
    found = figures_of([late], ["w"], 0.1)
    assert found.waits["for a worker"].max == pytest.approx(0.030)
    assert found.waits["for the driver"].max == pytest.approx(0.090 - 0.050 - 0.015)
    another_clock = attempt("a", 0, 10_000, submitted=20_000)
    assert figures_of([another_clock], ["w"], 0.1).waits["for a worker"].max == 0


def test_a_dead_workers_attempts_share_its_row() -> None:
    died = attempt(
        "b", 1, 15_000, RETRIED, kind="WorkerLost", read=0, decode=0, filter=0, encode=0, write=0, lost=7000
    )
    found = figures_of(
        [attempt("a", 0), died, attempt("b", 2, 40_000, number=2)], ["11/Main", "11", "12/Main"], 0.1
    )
    assert [(w.name, w.attempts, w.died) for w in found.workers] == [
        ("11/Main", 2, True),
        ("12/Main", 1, False),
    ]
    assert found.workers[0].busy == pytest.approx(0.022)
    assert (found.deaths, found.retries, found.done, found.failed) == (1, 1, 2, 0)


def test_parts_count_for_workers_and_their_sum_for_items() -> None:
    parts = [
        attempt("a", n % 2, 20_000 * n, made_at=PART, part=f"0.0.{n}", written=0, pixels=0) for n in range(4)
    ]
    whole = attempt(
        "a", 1, 60_000, made_at=ASSEMBLED, read=4000, decode=8000, filter=12_000, encode=16_000, write=20_000
    )
    found = figures_of([*parts, whole], ["x", "y"], 0.1)
    assert (found.done, found.pixels) == (1, 90_000)
    assert found.item.max == pytest.approx(0.060)
    assert [w.attempts for w in found.workers] == [2, 2]
    assert sum(w.busy for w in found.workers) == pytest.approx(0.060)


def test_throughput_counts_each_item_once_where_it_was_published() -> None:
    attempts = [attempt(str(n), 0, n * 1000, FAILED if n % 10 == 9 else 0) for n in range(1000)]
    found = figures_of(attempts, ["w"], 1.03)
    bins = found.throughput
    assert (sum(bins.done), sum(bins.failed)) == (900, 100)
    for place, count in enumerate(bins.done):
        low, high = place * bins.width * 1e6, (place + 1) * bins.width * 1e6
        assert count == sum(low <= a.collected + a.publish < high and not a.outcome for a in attempts)


@given(st.floats(0.2, 1e6), st.integers(0, 10**6))
def test_a_run_is_cut_into_enough_pieces_and_not_too_many(seconds: float, items: int) -> None:
    assert seconds / bin_width(seconds, items) <= 121
    if items > 12:
        assert seconds / bin_width(seconds, items) >= min(items, 120) / 2.6


def test_the_figures_of_a_run_are_those_of_its_ledger(photos: Path, out: Path) -> None:
    (photos / "cut.jpg").write_bytes((photos / "1.jpg").read_bytes()[:900])
    Run("gaussian_blur 2 | resize 50%", photos, out, engine="threads", jobs=2)
    ran = imageloom("report", "last", "--json")
    assert ran.returncode == 0
    found = json.loads(ran.stdout)
    with closing(sqlite3.connect(default_path())) as db:
        for stage in STAGES:
            times = [t for (t,) in db.execute(f"SELECT {stage} FROM items WHERE state = 'done' ORDER BY 1")]
            assert found["stages"][stage]["total"] == pytest.approx(sum(times), abs=1e-5)
            assert found["stages"][stage]["p50"] == pytest.approx(times[len(times) // 2 - 1], abs=2e-6)
            assert found["stages"][stage]["max"] == pytest.approx(times[-1], abs=2e-6)
        states = dict(db.execute("SELECT state, COUNT(*) FROM items GROUP BY state"))
        busy = dict(
            db.execute(
                "SELECT worker, SUM(read + decode + filter + encode + write) FROM items GROUP BY worker"
            )
        )
        (pixels,) = db.execute("SELECT SUM(pixels) FROM items WHERE state = 'done'").fetchone()
        (written,) = db.execute("SELECT SUM(size) FROM outputs").fetchone()
    assert (found["done"], found["failed"]) == (states["done"], states["failed"]) == (6, 1)
    assert {w["name"]: pytest.approx(w["busy"], abs=2e-5) for w in found["workers"]} == busy
    assert (found["pixels"], found["written_bytes"]) == (pixels, written)


# Drawings


def crowd_figures(count: int = 3000) -> tuple[Timeline, Figures]:
    timeline = crowd_of(count)
    return timeline, figures(job_of(timeline), timeline)


def boxes(svg: str, role: str) -> Iterator[tuple[float, float, float, float]]:
    """The rectangles of one colour: x, y, width, height."""
    for path in re.findall(rf'<path d="([^"]*)" class="f-{role}"', svg):
        for box in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)", path):
            x, y, w, h = map(float, box)
            yield x, y, w, h


def test_the_drawn_bars_are_as_high_as_the_figures_say() -> None:
    _, found = crowd_figures()
    svg = to_svg(charts.throughput(found, 900))
    heights = [h for _, _, _, h in boxes(svg, "accent")]
    counts = [n for n in found.throughput.done if n]
    assert len(heights) == len(counts)
    for height, number in zip(heights, counts, strict=True):
        assert height / max(heights) == pytest.approx(number / max(counts), abs=0.01)


def test_the_workers_bars_are_as_long_as_their_stages() -> None:
    _, found = crowd_figures()
    svg = to_svg(charts.workers(found, 900))
    for stage in STAGES:
        drawn = [w for _, _, w, _ in boxes(svg, stage)]
        assert drawn == pytest.approx(
            [(900 - 128 - 14) * w.stages[stage] / found.seconds for w in found.workers], abs=0.02
        )


def test_the_static_timeline_covers_the_area_of_the_time_spent() -> None:
    timeline, found = crowd_figures(400)
    svg = to_svg(charts.timeline(found, timeline, 900))
    per_second = (900 - 128 - 14) * 28 / found.seconds
    for stage in STAGES:
        area = sum(w * h for _, _, w, h in boxes(svg, stage))
        spent = sum(w.stages[stage] for w in found.workers)
        assert area == pytest.approx(spent * per_second, rel=0.05)


@pytest.mark.parametrize("width", [900, 340])
def test_all_drawings_are_well_formed_and_stay_in_their_frame(width: int) -> None:
    timeline, found = crowd_figures()
    made = {**charts.drawings(found, width), "timeline": charts.timeline(found, timeline, width)}
    assert made.keys() == {"throughput", "latency", "workers", "cores", "memory", "timeline"}
    for drawing in made.values():
        root = ElementTree.fromstring(to_svg(drawing))
        assert root.attrib["aria-label"] == f"{drawing.title}: {drawing.summary}"
        for shape in drawing.shapes:
            if isinstance(shape, Bars):
                assert all(x >= 0 and x + w <= width + 0.5 and h >= 0 for x, _, w, h in shape.boxes)
        png = cv2.imdecode(np.frombuffer(to_png(drawing), np.uint8), cv2.IMREAD_COLOR)
        assert png is not None
        assert png.shape[:2] == (round(2 * drawing.height), 2 * width)


def test_a_png_has_the_colours_where_the_shapes_are() -> None:
    drawing = Drawing("t", "s", 40, 20, (Bars(((10, 5, 20, 10),), "decode"), Text(2, 18, "µ", "ink")))
    png = cv2.imdecode(np.frombuffer(to_png(drawing), np.uint8), cv2.IMREAD_COLOR)
    assert png is not None
    assert bytes(png[20, 40, ::-1].tolist()).hex() == PALETTE["decode"][1:]
    assert png[2, 70].tolist() == [255, 255, 255]


# The page's columns


def unpacked(data: dict[str, object]) -> tuple[dict[str, np.ndarray], list[str]]:
    block = zlib.decompress(base64.b64decode(str(data["block"])))
    count = int(str(data["count"]))
    found, at = {}, 0
    for names, kind, width in ((WIDE, "<u4", 4), (NARROW, "u1", 1)):
        for name in names:
            found[name] = np.frombuffer(block, kind, count, at)
            at += width * count
    return found, block[at:].decode().split("\n")


def test_the_pages_columns_hold_every_attempt() -> None:
    timeline, found = crowd_figures()
    data = columns(found, timeline)
    table, keys = unpacked(data)
    assert data["count"] == len(timeline.attempts) == len(keys)
    by_key = {a.key: a for a in timeline.attempts}
    for place, key in enumerate(keys):
        one = by_key[key]
        assert [int(table[stage][place]) for stage in STAGES] == [getattr(one, stage) for stage in STAGES]
        assert (int(table["started"][place]), int(table["outcome"][place])) == (one.started, one.outcome)
        assert data["rows"][table["row"][place]] == f"thread {one.worker}"
    order = list(zip(table["row"].tolist(), table["started"].tolist(), strict=True))
    assert order == sorted(order)


def test_a_run_of_hours_is_told_in_coarser_units() -> None:
    timeline = timeline_of([attempt("a", 0, 10 * 3600 * 10**6)], ["w"], 36_001.0)
    data = columns(figures(job_of(timeline), timeline), timeline)
    table, _ = unpacked(data)
    assert data["unit"] == 10
    assert int(table["started"][0]) * data["unit"] == 10 * 3600 * 10**6


@pytest.mark.timeout(120)
def test_a_page_of_a_hundred_thousand_items_is_small() -> None:
    timeline = crowd_of(100_000)
    found = figures(job_of(timeline), timeline)
    assert len(page.to_html(found, timeline, [], {})) < 10_000_000


def test_of_too_many_attempts_some_are_shown_and_all_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_BARS >= 100_000
    monkeypatch.setattr("imageloom.report.columns.MOST_BARS", 1000)
    timeline, found = crowd_figures(5000)
    data = columns(found, timeline)
    table, _ = unpacked(data)
    assert 1000 <= data["count"] <= 1010
    assert int((table["outcome"] > 0).sum()) == found.failed + found.retries == 6


# Text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (412e-6, "412 µs"),
        (0.99996e-3, "1 ms"),
        (3.1e-3, "3.1 ms"),
        (4.25, "4.25 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_have_the_unit_that_suits_them() -> None:
    assert [size(n) for n in (0, 812, 999_600, 4.25e6, 2e12)] == ["0 B", "812 B", "1 MB", "4.25 MB", "2 TB"]


def test_the_table_has_every_attempt_and_no_formula() -> None:
    keys = ["=cmd|calc.jpg", "+1.jpg", "-a.jpg", "@b.jpg", "plain, with comma.jpg", 'quo"te\n.jpg']
    timeline = timeline_of([attempt(k, 0, reason="=1+1") for k in keys], ["w"], 1)
    rows = list(csv.DictReader(io.StringIO("".join(table(timeline)))))
    assert [row["key"] for row in rows] == [
        "'=cmd|calc.jpg", "'+1.jpg", "'-a.jpg", "'@b.jpg", "plain, with comma.jpg", 'quo"te\\x0a.jpg',
    ]  # fmt: skip
    assert {row["reason"] for row in rows} == {"'=1+1"}
    assert float(rows[0]["encode"]) == 0.004


def test_the_summary_drives_no_terminal() -> None:
    timeline = timeline_of([attempt("a")], ["w"], 1)
    text = summary(figures(job_of(timeline, pipeline="\x1b[2Jgone", source="/\x07"), timeline))
    assert "\x1b" not in text
    assert "\x07" not in text


# The command


def test_the_command_makes_what_is_asked_for(photos: Path, out: Path, tmp_path: Path) -> None:
    assert imageloom("run", "grayscale", photos, out, "--report", tmp_path / "run.html").returncode == 0
    made = imageloom("report", "last", "--svg", "plots", "--png", "plots", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "job 1: done" in made.stdout
    assert made.stdout.rstrip().endswith("report-1.html")
    assert {p.name for p in (tmp_path / "plots").iterdir()} >= {"timeline.svg", "timeline.png", "latency.png"}
    html = (tmp_path / "report-1.html").read_text()
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert html.count("data:image/jpeg;base64,") == 8, "four samples, before and after"
    assert (tmp_path / "run.html").read_text().count("data:image/jpeg") == 8
    rows = imageloom("report", "1", "--csv", cwd=tmp_path).stdout.splitlines()
    assert len(rows) == 7


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "9"], 2, "there is no job 9"),
        (["report", "first"], 2, "is neither a job's number"),
        (["report", "1", "--json", "--csv"], 2, "give --json or --csv, not both"),
        (["report", "1", "--out", "no/where.html"], 4, "cannot write"),
        (["report", "2"], 4, "--no-timeline"),
    ],
)
def test_what_cannot_be_reported_says_why(
    arguments: list[str], code: int, message: str, photos: Path, out: Path, tmp_path: Path
) -> None:
    Run("grayscale", photos, out)
    Run("grayscale", photos, tmp_path / "other", timeline=False)
    ran = imageloom(*arguments, cwd=tmp_path)
    assert ran.returncode == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_without_a_job_there_is_nothing_to_report() -> None:
    ran = imageloom("report", "last")
    assert ran.returncode == 2
    assert "there is no job yet" in ran.stderr


def test_a_timeline_of_an_older_ledger_is_not_taken_for_this_ones(photos: Path, out: Path) -> None:
    Run("grayscale", photos, out)
    default_path().rename(default_path().with_suffix(".old"))
    with Ledger() as ledger:
        job = ledger.begin("/in", "/out", "grayscale", "serial", 1)
        assert path_of(ledger.path, job).exists()
        ledger._db.execute("UPDATE jobs SET started = started + 3600")
        with pytest.raises(OSError, match="no timeline of job 1"):
            recorded(ledger, job)


def test_samples_are_of_files_that_are_still_as_they_were(photos: Path, out: Path) -> None:
    from imageloom.report.pictures import samples

    Run("grayscale", photos, out)
    with Ledger() as ledger:
        job, timeline = recorded(ledger, None)
        assert len(samples(ledger, job, timeline)) == 4
        for photo in photos.rglob("*.jpg"):
            photo.write_bytes(photo.read_bytes() + b"more")
        assert samples(ledger, job, timeline) == []


def test_hostile_text_stays_text() -> None:
    bad = "</script><script>x()</script><!--\u2028\u202e\x00&quot;'\""
    timeline = timeline_of([attempt(bad, 0, 0, FAILED, kind=bad, reason=bad)], [bad], 1)
    timeline.closing = replace(timeline.closing, versions={bad: bad})  # type: ignore[type-var]
    html = page.to_html(figures(job_of(timeline, bad, bad, bad), timeline), timeline, [], {})
    assert html.count("<script") == 2
    assert html.count("</script") == 2
    assert "<!--" not in html
    assert not {"\u2028", "\u202e", "\x00"} & set(html)
