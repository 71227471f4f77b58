"""The bench's page in a real browser: for everybody, in every size, and hostile texts do nothing in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from benched import bench_of
from chromium import Watched, browser
from imageloom.bench.page import to_html
from imageloom.report import html

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]  # a fixture

READY = "#theme:not([hidden])"
BAIT = "</script><img src=x onerror=window.ran=1><svg onload=window.ran=1>'\"><script>window.ran=1</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all that there can be: eleven ways, up to 8 workers, a sweep, kills, peers."""
    path = tmp_path_factory.mktemp("bench") / "bench.html"
    path.write_text(to_html(bench_of()))
    return path


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_for_everybody_in_every_size_and_light(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    with Watched(browser, report, width, scheme, READY) as watched:
        watched.must_suit_everybody(width, scheme)
        drawings = watched.page.locator(".wide svg" if width > 640 else ".narrow svg")
        assert drawings.count() == 9
        for number in range(9):
            assert drawings.nth(number).is_visible()


def test_light_and_dark_can_be_chosen(browser: Browser, report: Path) -> None:
    with Watched(browser, report, ready=READY) as watched:
        before = watched.picture("#throughput").mean()
        watched.page.get_by_role("button", name="Dark").click()
        assert watched.picture("#throughput").mean() < before - 100
        watched.page.get_by_role("button", name="Light").click()
        assert watched.picture("#throughput").mean() == pytest.approx(before, abs=1)


def test_no_text_leaves_its_drawing_or_lies_on_another(browser: Browser, report: Path) -> None:
    for width in (1280, 400):
        with Watched(browser, report, width, ready=READY) as watched:
            found = watched.page.evaluate(
                """() => [...document.querySelectorAll('svg[role=img]')].flatMap((svg) => {
                  const frame = svg.getBoundingClientRect();
                  if (!frame.width) return [];
                  const texts = [...svg.querySelectorAll('text')];
                  const boxes = texts.map((t) => [t.textContent, t.getBoundingClientRect()]);
                  const out = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1);
                  const over = boxes.filter(([, a], i) => boxes.some(([, b], j) => i < j && a.left < b.right - 2 &&
                    b.left < a.right - 2 && a.top < b.bottom - 5 && b.top < a.bottom - 5));
                  return [...out, ...over].map(([text]) => `${svg.ariaLabel.slice(0, 20)}: ${text}`);
                })"""
            )
            assert found == []


def test_hostile_texts_run_nothing(browser: Browser, tmp_path: Path) -> None:
    bench = bench_of()
    machine = replace(bench.machine, processor=BAIT, system=BAIT, versions={BAIT: BAIT})
    fault = replace(bench.faults[0], configuration=replace(bench.faults[0].configuration, name=BAIT))
    path = tmp_path / "hostile.html"
    path.write_text(
        to_html(
            replace(
                *(bench,),
                pipeline=BAIT,
                machine=machine,
                missing={BAIT: BAIT},
                wrong={BAIT: BAIT},
                faults=[fault],
            )
        )
    )
    with Watched(browser, path, ready=READY) as watched:
        assert watched.page.evaluate("window.ran") is None
        assert watched.page.evaluate("document.images.length") == 0
        assert watched.page.evaluate("document.scripts.length") == 1
        assert BAIT in watched.page.locator("#wrong").inner_text()


def test_a_table_escapes_its_cells() -> None:
    assert "<b>" not in html.table("<b>", ["<b>"], [["<b>", "<b>"]])
