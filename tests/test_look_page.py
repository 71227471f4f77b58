"""The pages of `look` in Chromium: they have the layout of the report, and tables show that they scroll."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chromium import Browser, Watched, browser
from imageloom.report import html
from program import draw, imageloom

__all__ = ["browser"]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("look")
    for number in range(2):
        draw(folder / f"photos/{number}.jpg", number, 320, 240)
    (folder / "web.yaml").write_text("outputs:\n  small: resize 50%\n  lines: canny 60 150\n")
    ran = imageloom("look", folder / "photos", folder / "web.yaml", "--to", folder / "look.html")
    assert ran.returncode == 0, ran.stderr
    yield folder / "look.html"


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_a_look_is_for_everybody(browser: Browser, looked: Path, width: int, scheme: str) -> None:
    with Watched(browser, looked, width, scheme, ready=".sample") as watched:
        watched.must_suit_everybody(width, scheme)
        assert watched.page.locator(".sample").count() == 4
        slider = watched.page.locator(".sample input").first
        slider.focus()
        slider.press("Home")
        clip = watched.page.locator(".before").first.evaluate("one => getComputedStyle(one).clipPath")
        assert clip == "inset(0px 100% 0px 0px)"


def test_a_table_that_is_too_wide_shows_it(browser: Browser, tmp_path: Path) -> None:
    rows = [[f"row {number}", *("1,000.0 ms" for _ in range(9))] for number in range(6)]
    made = html.section("wide", "Wide", html.table("A table", [f"column {n}" for n in range(10)], rows))
    page = tmp_path / "page.html"
    page.write_text(html.document("A page", [html.brand(), made], html.script()))
    with Watched(browser, page, 400, "light", ready=".scroll") as watched:
        cut = watched.picture(".scroll")
        watched.page.locator(".scroll").evaluate("one => { one.scrollLeft = one.scrollWidth }")
        end = watched.picture(".scroll")
    assert cut[5, -2].mean() < cut[5, 100].mean() - 20, "the edge on the right is darker"
    assert end[5, -2].mean() > end[5, 1].mean() + 20, "at the end, the edge on the left is"
