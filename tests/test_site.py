"""The documentation site as it is built: no warning, nothing from other hosts, and readable for everybody."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chromium import browser
from imageloom import operators

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]  # a fixture
pytestmark = pytest.mark.timeout(300)  # the build takes 8 s of CPU
ROOT = Path(__file__).parent.parent
KINDS = ("start", "failures")
"""The long test takes all pages."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Broken links and anchors, and pages outside of the navigation, are errors."""
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    assert len(pages(site)) >= 30
    for page in pages(site):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"|<link[^>]* href="([^"]+)"', text)
        assert not [a or b for a, b in loaded if re.match(r"(https?:)?//", a or b)], page


def test_each_operator_has_its_picture(site: Path) -> None:
    page = (site / "operators" / "index.html").read_text()
    for name in (
        one.name for one in operators.operators() if one.function.__module__.startswith("imageloom.")
    ):
        assert f'id="{name}"' in page
        assert (site / "assets" / "operators" / f"{name}.jpg").stat().st_size > 500


def test_each_page_is_in_the_menu_of_each(site: Path) -> None:
    """So it is at most two clicks away: its tab, and its line in the list of the tab."""
    menu = re.findall(r'<a href="([^"]+)" class="md-nav__link', (site / "index.html").read_text())
    assert {name.strip("./") for name in menu if not name.startswith("#")} >= {
        path.parent.relative_to(site).as_posix().strip(".") for path in pages(site)
    }


def violations(browser: Browser, address: str, names: list[str]) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    found = []
    for name in names:
        page.goto(f"{address}/{name}")
        page.wait_for_load_state("networkidle")
        for one in Axe().run(page).response["violations"]:
            found.append(f"{name}: {one['id']}: {one['nodes'][0]['html'][:200]}")
    page.close()
    assert all(url.startswith((address, "data:")) for url in asked)
    return found


def test_axe_finds_nothing(browser: Browser, address: str) -> None:
    assert not violations(browser, address, [f"{name}/" for name in KINDS])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_axe_finds_nothing_on_any_page(browser: Browser, address: str, site: Path) -> None:
    names = [path.parent.relative_to(site).as_posix() + "/" for path in pages(site)]
    assert not violations(browser, address, names)
