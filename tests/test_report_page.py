"""The report in a real browser: it moves, it is for everybody, and what is hostile in it does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from chromium import Watched, browser
from imageloom.records.timeline import FAILED, RETRIED
from imageloom.report import page as pages
from imageloom.report.figures import FailedItem, figures
from imageloom.report.pictures import Sample, of_failed
from recorded import attempt, crowd_of, job_of, timeline_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]  # a fixture

_BAITS = (
    "<script>window.ran=1</script>",
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "<svg onload=window.ran=1>",
    '"><img src=x onerror=window.ran=1>',
    "' onmouseover='window.ran=1",
    "javascript:window.ran=1",
    "<iframe src=javascript:parent.ran=1></iframe>",
    "<!--<script>window.ran=1//-->",
    "${window.ran=1}{{constructor.constructor('window.ran=1')()}}",
    "&lt;img src=x onerror=window.ran=1&gt;",
    "<style>*{display:none}</style>",
    "<meta http-equiv=refresh content=0;url=data:text/html,x>",
    "<base href=//evil.example/>",
    "<a href=//evil.example id=data>",
    "<form id=timeline-canvas action=//evil.example>",
    "\u202egpj.exe",
    "\x00\x1b[2J\x07\u2028\u2029",
    "]]></style></title></textarea><img src=//evil.example/x.png onerror=window.ran=1>",
    "\\u003cimg src=x onerror=window.ran=1\\u003e",
    "a" * 5000,
    "__proto__",
    "\ud7ff\ufffe\U0001f4a9",
    '=HYPERLINK("http://evil.example")',
    "<template><img src=x onerror=window.ran=1></template>",
)
HOSTILE = (*_BAITS, *(f"photos/{bait}.jpg" for bait in _BAITS))


def plain(colour: tuple[int, int, int]) -> str:
    """A picture of one colour (RGB) as a data URI."""
    import base64

    image = np.full((120, 160, 3), colour[::-1], np.uint8)
    return "data:image/jpeg;base64," + base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all that there can be: many items, deaths, retries, failures, before and after."""
    timeline = crowd_of(6000)
    died = [
        attempt(
            "fatal.png", 0, 500_000 + n, FAILED if n == 3 else RETRIED, kind="WorkerLost", number=n, lost=9000
        )
        for n in (1, 2, 3)
    ]
    timeline.attempts += died
    found = figures(job_of(timeline), timeline)
    samples = [Sample(f"{n}.jpg", f"{n}.jpg", plain((250, 10, 10)), plain((10, 10, 250))) for n in range(4)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(pages.to_html(found, timeline, samples, {"fatal.png": plain((9, 200, 9))}))
    return path


def test_the_timeline_zooms_and_moves_by_wheel_drag_keys_and_buttons(browser: Browser, report: Path) -> None:
    with Watched(browser, report) as watched:
        page, canvas = watched.page, watched.page.locator("canvas")
        canvas.scroll_into_view_if_needed()
        whole = watched.range
        assert whole[0] == 0
        before = watched.picture("canvas")
        box = canvas.bounding_box()
        assert box
        middle = box["x"] + 112 + (box["width"] - 112) / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        scrolled = page.evaluate("scrollY")
        page.mouse.wheel(0, -200)
        page.wait_for_timeout(200)
        assert watched.range == whole, "the wheel is the page's until the timeline is clicked"
        canvas.scroll_into_view_if_needed()
        page.evaluate("(y) => scrollTo(0, y)", scrolled)
        page.mouse.click(*middle)
        page.mouse.wheel(0, -200)
        page.wait_for_function("document.querySelector('canvas').dataset.from > 0")
        near = watched.range
        assert near[1] - near[0] == pytest.approx(whole[1] * np.exp(-0.5), rel=0.01)
        assert sum(near) / 2 == pytest.approx(whole[1] / 2, rel=0.02), "what is under the pointer stays there"
        assert (watched.picture("canvas") != before).any()
        page.mouse.down()
        page.mouse.move(middle[0] + 150, middle[1], steps=4)
        page.mouse.up()
        moved = watched.range
        assert moved[0] < near[0]
        assert moved[1] - moved[0] == pytest.approx(near[1] - near[0])
        page.keyboard.press("ArrowRight")
        assert watched.range[0] > moved[0]
        page.keyboard.press("+")
        assert watched.range[1] - watched.range[0] == pytest.approx((near[1] - near[0]) * 0.6)
        page.keyboard.press("0")
        assert watched.range == whole
        page.get_by_role("button", name="Zoom in").click()
        page.get_by_role("button", name="Later").click()
        assert watched.range[1] - watched.range[0] == pytest.approx(whole[1] * 0.6)
        for _ in range(60):
            page.keyboard.press("Enter")
        page.get_by_role("button", name="All").click()
        assert watched.range == whole


def test_what_is_under_the_pointer_is_told(browser: Browser, report: Path) -> None:
    with Watched(browser, report) as watched:
        canvas = watched.page.locator("canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box
        watched.page.mouse.move(box["x"] + 400, box["y"] + 20)
        tip = watched.page.locator("#tip")
        tip.wait_for(state="visible")
        text = tip.inner_text()
        assert "thread 0, attempt 1: done" in text
        assert ".jpg" in text.splitlines()[0]
        assert "decode" in text
        watched.page.mouse.move(box["x"] + 5, box["y"] + 20)
        tip.wait_for(state="hidden")


def test_the_slider_slides(browser: Browser, report: Path) -> None:
    with Watched(browser, report) as watched:

        def red() -> float:
            """The part of the picture's middle row that shows the input."""
            row = watched.picture(".pair")[100].astype(int)
            return float((row[:, 2] > row[:, 0] + 100).mean())

        assert red() == pytest.approx(0.5, abs=0.04)
        slider = watched.page.locator(".sample input").first
        slider.focus()
        watched.page.keyboard.press("End")
        assert red() == pytest.approx(1, abs=0.04)
        watched.page.keyboard.press("Home")
        assert red() == pytest.approx(0, abs=0.04)
        box = watched.page.locator(".pair").first.bounding_box()
        assert box
        watched.page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 20)
        assert red() == pytest.approx(0.25, abs=0.04)
        assert slider.input_value() == "25"


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_for_everybody_in_every_size_and_light(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    with Watched(browser, report, width, scheme) as watched:
        watched.must_suit_everybody(width, scheme)


def test_light_and_dark_can_be_chosen(browser: Browser, report: Path) -> None:
    with Watched(browser, report) as watched:
        before = watched.picture("canvas").mean()
        watched.page.get_by_role("button", name="Dark").click()
        watched.page.wait_for_timeout(50)
        assert watched.picture("canvas").mean() < before - 40
        watched.page.get_by_role("button", name="Light").click()
        watched.page.wait_for_timeout(50)
        assert watched.picture("canvas").mean() == pytest.approx(before, abs=1)


def test_the_timelines_colours_are_those_of_the_stages(browser: Browser, tmp_path: Path) -> None:
    """One long item: its stages stand in the canvas in the order, and with the widths, of its times."""
    one = attempt("a", 0, 0, read=100_000, decode=200_000, filter=300_000, encode=400_000, write=500_000)
    timeline = timeline_of([one], ["w"], 1.5)
    path = tmp_path / "one.html"
    path.write_text(pages.to_html(figures(job_of(timeline), timeline), timeline, [], {}))
    with Watched(browser, path) as watched:
        row = watched.picture("canvas")[24, 114:]
        colours = [tuple(int(value) for value in pixel) for pixel in row]
        runs: list[list[Any]] = []
        for colour in colours:
            if runs and runs[-1][0] == colour:
                runs[-1][1] += 1
            else:
                runs.append([colour, 1])
        widths = [count for _, count in runs if count > 20]
        assert [width / sum(widths) for width in widths] == pytest.approx(
            [n / 15 for n in range(1, 6)], abs=0.01
        )


def test_hostile_names_and_reasons_run_nothing(browser: Browser, tmp_path: Path) -> None:
    assert len(set(HOSTILE)) == 50
    attempts = [
        attempt(
            bait,
            n % 3,
            20_000 * n,
            FAILED if n % 2 else 0,
            **({"kind": bait, "reason": bait} if n % 2 else {}),
        )
        for n, bait in enumerate(HOSTILE)
    ]
    timeline = timeline_of(attempts, [_BAITS[2], _BAITS[3], _BAITS[4]], 1.1)
    found = figures(job_of(timeline, _BAITS[1], _BAITS[8], _BAITS[12]), timeline)
    samples = [Sample(bait, bait, plain((1, 2, 3)), plain((3, 2, 1))) for bait in _BAITS[:4]]
    path = tmp_path / "hostile.html"
    path.write_text(pages.to_html(found, timeline, samples, {bait: plain((5, 5, 5)) for bait in HOSTILE}))
    with Watched(browser, path) as watched:
        page = watched.page
        canvas = page.locator("canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box
        for step in range(0, 1000, 10):
            page.mouse.move(
                box["x"] + 112 + step * (box["width"] - 112) / 1000, box["y"] + 20 + step % 3 * 36
            )
        assert page.evaluate("window.ran") is None
        risky = "script,style,iframe,meta,base,form,a,template"
        counts = page.evaluate(f"[...document.querySelectorAll('{risky}')].map(e => e.tagName)")
        assert sorted(counts) == ["META", "META", "META", "SCRIPT", "SCRIPT", "STYLE"]
        assert page.evaluate("document.images.length") == 8 + min(len(found.failures), 200)
        names = page.locator(".failures b").all_inner_texts()
        assert {bait for bait in HOSTILE[1::2] if bait.isprintable() and len(bait) < 100} <= set(names)
        assert page.title() == "imageloom, job 1"


def test_no_script_but_the_pages_own_could_run(browser: Browser, report: Path, tmp_path: Path) -> None:
    """If escaping failed, the policy would still hold: scripts that are put into the file do nothing."""
    broken = tmp_path / "broken.html"
    bait = "<script>window.ran=1</script><img src=x onerror=window.ran=1><img src=http://127.0.0.1:9/x.png>"
    broken.write_text(report.read_text().replace("<main>", f"<main>{bait}"))
    page = browser.new_page()
    refused: dict[str, str | None] = {}
    page.on("requestfailed", lambda request: refused.update({request.url: request.failure}))
    page.goto(broken.as_uri())
    page.wait_for_selector("canvas[data-ready=yes]")
    assert page.evaluate("window.ran") is None
    assert refused["http://127.0.0.1:9/x.png"] == "csp"
    page.close()


@pytest.mark.timeout(120)
def test_a_hundred_thousand_items_can_be_opened_and_moved(browser: Browser, tmp_path: Path) -> None:
    timeline = crowd_of(100_000)
    path = tmp_path / "many.html"
    path.write_text(pages.to_html(figures(job_of(timeline), timeline), timeline, [], {}))
    with Watched(browser, path) as watched:
        whole = watched.range
        watched.page.locator("canvas").focus()
        for _ in range(8):
            watched.page.keyboard.press("+")
        assert watched.range[1] - watched.range[0] == pytest.approx(whole[1] * 0.6**8)


def test_an_input_that_kills_its_decoder_costs_no_report(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    cv2.imwrite(str(tmp_path / "red.png"), np.full((60, 80, 3), (0, 0, 255), np.uint8))
    failed = [FailedItem(key, "WorkerLost", "", 1, "w", 0) for key in ("bad.jpg", "red.png", "gone.jpg")]
    assert of_failed(str(tmp_path), failed).keys() == {"red.png"}
