"""Pages in a real headless Chromium, watched for all that they say or ask for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
if not os.path.exists(CHROMIUM) and "CI" not in os.environ:
    pytest.skip("there is no chromium here: apt-get install chromium", allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe  # noqa: E402  a module that is skipped needs none
from playwright.sync_api import Browser, Dialog, Page, sync_playwright  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page in the browser, and all that it says or asks for."""

    def __init__(
        self,
        browser: Browser,
        path: Path,
        width: int = 1280,
        scheme: Any = "light",
        ready: str = "canvas[data-ready=yes]",
    ) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(ready, state="attached")

    def _dismiss(self, dialog: Dialog) -> None:
        self.said.append(dialog.message)
        dialog.dismiss()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.page.close()
        if kind is None:
            assert self.said == []
            assert [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))] == []

    @property
    def range(self) -> tuple[float, float]:
        """What the timeline shows, in seconds."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        canvas = self.page.locator("canvas")
        return float(canvas.get_attribute("data-from") or -1), float(canvas.get_attribute("data-to") or -1)

    def must_suit_everybody(self, width: int, scheme: str) -> None:
        """It fits the width, is light or dark as asked, its letters can be read, and axe finds nothing grave."""
        page = self.page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(ground[4:].split(",")[0]) < 60) == (scheme == "dark")
        found = Axe().run(page).response["violations"]
        grave = [(v["id"], v["nodes"][0]["target"]) for v in found if v["impact"] in ("serious", "critical")]
        assert grave == []
        small = page.evaluate(
            "[...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().width)"
            ".map(t => t.getBoundingClientRect().height).reduce((a, b) => Math.min(a, b), 99)"
        )
        assert small > 10, "the letters of the drawings can be read"

    def picture(self, selector: str) -> np.ndarray:
        found = cv2.imdecode(np.frombuffer(self.page.locator(selector).first.screenshot(), np.uint8), 1)
        assert found is not None
        return found
