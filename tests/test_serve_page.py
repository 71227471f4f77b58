"""The pages in Chromium, against the whole service as people start it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from chromium import Axe, Browser, browser  # noqa: F401
from program import draw, names, wait_until
from served import Served, drop, page_of, press


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("page"))
    yield served
    served.end()


def test_make_a_flow_drop_files_and_mend_what_fails(browser: Browser, served: Served, tmp_path: Path) -> None:  # noqa: F811
    source, sink = served.root / "inbox", served.root / "web"
    draw(source / "first.jpg", 1, 200, 150)
    with page_of(browser, served) as page, page_of(browser, served) as other:
        page.get_by_role("link", name="New flow").click()
        page.fill("input[name=name]", "photos")
        page.fill("input[name=source]", str(source))
        page.fill("input[name=sink]", str(sink))
        page.fill("#recipe", "graysc")
        page.press("#recipe", "ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#recipe")).to_be_focused()
        expect(page.locator("#recipe")).to_have_value("grayscale ")
        expect(page.locator("#about")).to_contain_text("Convert to gray")
        picture = "document.querySelector('#about img').naturalWidth > 0"
        wait_until(lambda: page.evaluate(picture))
        expect(page.locator("#shown .pair img")).to_have_count(2, timeout=30_000)
        page.fill("#recipe", "grayscale | blurr 3")
        expect(page.locator("#problem-recipe")).to_contain_text("blurr", timeout=20_000)
        page.fill("#recipe", "grayscale | resize 50%")
        expect(page.locator("#problem-recipe")).to_be_hidden(timeout=20_000)
        expect(page.locator("#plan pre")).to_contain_text("resize")
        page.check("input[value=watched]")
        press(page, "Save")
        expect(page.locator("h1")).to_have_text("photos")
        wait_until(lambda: names(sink)[-1:] == ["first.jpg"])

        card = other.locator("[data-flow=photos]")
        expect(card).to_contain_text("1", timeout=10_000)
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"no image")
        drop(other, "[data-flow=photos]", draw(tmp_path / "second.jpg", 2), bad)
        expect(other.locator("#notice")).to_have_text("2 uploaded to photos", timeout=20_000)
        expect(card.locator(".figures")).to_contain_text(re.compile(r"done\s*2|2\s*done"), timeout=20_000)
        card.get_by_role("link", name="Job 1").click()
        row = other.locator(".failures li")
        expect(row).to_contain_text("bad.jpg")
        expect(row).to_contain_text("not an image")
        expect(other.get_by_role("img", name=re.compile("2 items ended|3 items ended"))).to_be_visible()
        other.locator("#items").get_by_role("link", name="first.jpg").click()
        expect(other.locator("h1")).to_have_text("first.jpg")
        wait_until(lambda: other.evaluate("document.querySelector('.pair .before').naturalWidth > 0"))
        slider = other.get_by_role("slider")
        slider.focus()
        slider.press("Home")
        assert other.evaluate("getComputedStyle(document.querySelector('.pair .before')).clipPath") in (
            "inset(0px 100% 0px 0px)",
            "inset(0px calc(100%) 0px 0px)",
        )
        other.go_back()
        draw(source / "third.jpg", 3)
        expect(other.locator("#items")).to_contain_text("third.jpg", timeout=20_000)
        (source / "bad.jpg").write_bytes(draw(tmp_path / "good.jpg").read_bytes())
        expect(other.locator("#failures")).to_have_count(0, timeout=20_000)
        press(other, "Pause")
        expect(other.locator("#now")).to_contain_text("paused", timeout=20_000)
        press(other, "Resume")
        expect(other.locator("#now")).to_contain_text("running", timeout=20_000)
        press(other, "Cancel")
        expect(other.locator("#now")).to_contain_text("cancelled", timeout=20_000)


@pytest.mark.long
def test_retry_is_one_click(browser: Browser, served: Served) -> None:  # noqa: F811
    with page_of(browser, served) as page:
        source = served.write("retried")
        (source / "bad.jpg").write_bytes(b"no image")
        page.goto(f"{served.url}flows/retried")
        press(page, "Start")
        row = page.locator(".failures li")
        expect(row).to_contain_text("bad.jpg", timeout=20_000)
        press(row, "Set aside bad.jpg")
        expect(row.get_by_role("button", name="Put back bad.jpg")).to_be_visible()
        draw(source / "bad.jpg")
        press(row, "Retry bad.jpg")
        expect(page.locator("#failures")).to_have_count(0, timeout=20_000)
        assert names(served.root / "out-retried")[-1] == "bad.jpg"


@pytest.mark.long
def test_an_open_page_goes_on_after_a_kill(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    served = Served(tmp_path)
    try:
        source = served.write("kept", when="watched")
        with page_of(browser, served) as page:
            draw(source / "a.jpg")
            figures = page.locator("[data-flow=kept] .figures")
            expect(figures).to_contain_text("1", timeout=20_000)
            served.end(kill=True)
            expect(page.locator("#connection")).to_have_text("not connected", timeout=20_000)
            draw(source / "b.jpg")
            served.begin()
            expect(figures).to_contain_text("2", timeout=30_000)
            expect(page.locator("#connection")).to_have_text("", timeout=20_000)
    finally:
        served.end()


@pytest.mark.long
def test_a_reader_has_no_buttons_and_pages_need_no_script(browser: Browser, served: Served) -> None:  # noqa: F811
    source = served.write("plain")
    draw(source / "a.jpg")
    with page_of(browser, served, java_script_enabled=False) as page:
        page.goto(f"{served.url}flows/plain")
        press(page, "Start")
        wait_until(lambda: names(served.root / "out-plain")[-1:] == ["a.jpg"])
        wait_until(lambda: page.reload() and "a.jpg" in page.locator("#items").inner_text())
        expect(page.locator("#items")).to_contain_text("a.jpg")
        url = page.url
        page.goto(f"{served.url}flows/plain")
        page.fill("#recipe", "blurr 3")
        press(page, "Save")
        expect(page.locator("#problem-recipe")).to_contain_text("blurr")
    with page_of(browser, served, "reader") as page:
        page.goto(url)
        expect(page.locator("#items")).to_contain_text("a.jpg")
        assert page.locator("main form[method=post]").count() == 0
        page.goto(f"{served.url}flows/plain")
        assert page.get_by_role("button", name="Save").count() == 0


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (400, "light"),
        pytest.param(1280, "dark", marks=pytest.mark.long),
        pytest.param(1920, "light", marks=pytest.mark.long),
    ],
)
def test_pages_suit_everybody(width: int, scheme: str, browser: Browser, served: Served) -> None:  # noqa: F811
    source = served.write("wide")
    (source / f"{'a-long-name-' * 8}.jpg").write_bytes(b"no image")
    with page_of(browser, served, width=width, scheme=scheme) as page:
        draw(source / "good.jpg")
        page.goto(f"{served.url}flows/wide")
        press(page, "Start")
        expect(page.locator(".failures li")).to_be_visible(timeout=20_000)
        expect(page.locator("#items")).to_contain_text("good.jpg", timeout=20_000)
        job = page.url.removeprefix(served.url)
        for path in ("", "new", "flows/wide", job, f"{job}/item?key=good.jpg", "none"):
            page.goto(served.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") == width, path
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (int(ground[4:].split(",")[0]) < 60) == (scheme == "dark")
            violations = Axe().run(page).response["violations"]
            assert [(one["id"], one["nodes"][0]["target"]) for one in violations] == [], path


@pytest.mark.long
def test_a_page_is_small(browser: Browser, served: Served) -> None:  # noqa: F811
    """All that a page loads, with its style and scripts."""
    with page_of(browser, served) as page:
        page.goto(f"{served.url}new")
        page.wait_for_load_state("load")
        sizes = page.evaluate(
            "['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))"
            ".filter(one => !one.name.includes('/api/')).map(one => one.decodedBodySize)"
        )
        assert len(sizes) >= 4
        assert 20_000 < sum(sizes) < 150_000
