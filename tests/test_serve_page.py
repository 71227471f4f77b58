"""The pages in Chromium, against the whole service as people start it."""

from __future__ import annotations

import http.client
import re
import select
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from chromium import browser  # noqa: F401
from program import draw, free_port, names, start, wait_until


class Served:
    """The command `imageloom serve`."""

    def __init__(self, folder: Path, port: int = 0, *options: str) -> None:
        self.root, self.home, self.port = folder / "root", folder / "home", port or free_port()
        self.root.mkdir(exist_ok=True)
        self.url = f"http://127.0.0.1:{self.port}/"
        self.options = options
        self.begin()

    def begin(self) -> None:
        self.process = start(
            "serve", "--root", self.root, "--state", self.home, "--listen", f"127.0.0.1:{self.port}", "-j", "1",
            *self.options, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stderr is not None
        ready, _, _ = select.select([self.process.stderr], [], [], 60)
        line = self.process.stderr.readline() if ready else "nothing"
        assert line.startswith("serving http"), line
        self.link = line.split()[1]

    def end(self, kill: bool = False) -> None:
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(60)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def token(self, role: str) -> str:
        return (self.home / f"{role}.token").read_text().strip()

    def write(self, name: str, **data: Any) -> Path:
        """Write a flow's file, as people do. Returns its source."""
        source = self.root / f"in-{name}"
        source.mkdir(exist_ok=True)
        data = {"source": str(source), "sink": str(self.root / f"out-{name}"), "recipe": "resize 50%", **data}
        (self.home / "flows" / f"{name}.yaml").write_text(yaml.safe_dump(data))
        return source


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("page"))
    yield served
    served.end()


@contextmanager
def _page(
    browser: Browser,  # noqa: F811
    served: Served,
    role: str = "operator",
    width: int = 1280,
    scheme: Any = "light",
    url: str = "",
    **options: Any,
) -> Iterator[Page]:
    """A page that is logged in. It loads nothing from elsewhere, and its scripts say nothing."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    page, said, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "console", lambda message: said.append(message.text) if "Content Security" in message.text else None
    )
    page.on("request", lambda request: asked.append(request.url))
    url = url or served.url
    _log_in(page, url, served.token(role))
    try:
        yield page
        assert said == []
        own = url, f"blob:{url.removesuffix('images/')}"
        assert [one for one in asked if not one.startswith(own)] == []
    finally:
        context.close()


def _log_in(page: Page, url: str, token: str) -> None:
    page.goto(url)
    page.fill("input[name=token]", token)
    page.click("main button")
    page.wait_for_url(url)


def _press(within: Page | Locator, name: str) -> None:
    within.get_by_role("button", name=name, exact=True).click()


def _drop(page: Page, selector: str, *files: Path) -> None:
    """Drop files on an element."""
    data = page.evaluate_handle("() => new DataTransfer()")
    for file in files:
        page.evaluate(
            "([data, name, bytes]) => data.items.add(new File([new Uint8Array(bytes)], name))",
            [data, file.name, list(file.read_bytes())],
        )
    page.dispatch_event(selector, "drop", {"dataTransfer": data})


def test_make_a_flow_drop_files_and_mend_what_fails(browser: Browser, served: Served, tmp_path: Path) -> None:  # noqa: F811
    source, sink = served.root / "inbox", served.root / "web"
    draw(source / "first.jpg", 1, 200, 150)
    with _page(browser, served) as page, _page(browser, served) as other:
        page.get_by_role("link", name="New flow").click()
        page.fill("input[name=name]", "photos")
        page.fill("input[name=source]", str(source))
        page.fill("input[name=sink]", str(sink))
        page.fill("#recipe", "graysc")
        page.click("#words >> text=grayscale")
        expect(page.locator("#shown .pair img")).to_have_count(2, timeout=30_000)
        page.fill("#recipe", "grayscale | blurr 3")
        expect(page.locator("#problem-recipe")).to_contain_text("blurr", timeout=20_000)
        page.fill("#recipe", "grayscale | resize 50%")
        expect(page.locator("#problem-recipe")).to_be_hidden(timeout=20_000)
        expect(page.locator("#plan pre")).to_contain_text("resize")
        page.check("input[value=watched]")
        _press(page, "Save")
        expect(page.locator("h1")).to_have_text("photos")
        wait_until(lambda: names(sink)[-1:] == ["first.jpg"])

        card = other.locator("[data-flow=photos]")
        expect(card).to_contain_text("1", timeout=10_000)
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"no image")
        _drop(other, "[data-flow=photos]", draw(tmp_path / "second.jpg", 2), bad)
        expect(other.locator("#notice")).to_have_text("2 uploaded to photos", timeout=20_000)
        expect(card.locator(".figures")).to_contain_text(re.compile(r"done\s*2|2\s*done"), timeout=20_000)
        card.get_by_role("link", name="Job 1").click()
        row = other.locator(".failures li")
        expect(row).to_contain_text("bad.jpg")
        expect(row).to_contain_text("not an image")
        draw(source / "third.jpg", 3)
        expect(other.locator("#items")).to_contain_text("third.jpg", timeout=20_000)
        (source / "bad.jpg").write_bytes(draw(tmp_path / "good.jpg").read_bytes())
        expect(other.locator("#failures")).to_have_count(0, timeout=20_000)
        _press(other, "Pause")
        expect(other.locator("#now")).to_contain_text("paused", timeout=20_000)
        _press(other, "Resume")
        expect(other.locator("#now")).to_contain_text("running", timeout=20_000)
        _press(other, "Cancel")
        expect(other.locator("#now")).to_contain_text("cancelled", timeout=20_000)


@pytest.mark.long
def test_retry_is_one_click(browser: Browser, served: Served) -> None:  # noqa: F811
    with _page(browser, served) as page:
        source = served.write("retried")
        (source / "bad.jpg").write_bytes(b"no image")
        page.goto(f"{served.url}flows/retried")
        _press(page, "Start")
        row = page.locator(".failures li")
        expect(row).to_contain_text("bad.jpg", timeout=20_000)
        _press(row, "Set aside bad.jpg")
        expect(row.get_by_role("button", name="Put back bad.jpg")).to_be_visible()
        draw(source / "bad.jpg")
        _press(row, "Retry bad.jpg")
        expect(page.locator("#failures")).to_have_count(0, timeout=20_000)
        assert names(served.root / "out-retried")[-1] == "bad.jpg"


@pytest.mark.long
def test_an_open_page_goes_on_after_a_kill(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    served = Served(tmp_path)
    try:
        source = served.write("kept", when="watched")
        with _page(browser, served) as page:
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
    with _page(browser, served, java_script_enabled=False) as page:
        page.goto(f"{served.url}flows/plain")
        _press(page, "Start")
        wait_until(lambda: names(served.root / "out-plain")[-1:] == ["a.jpg"])
        wait_until(lambda: page.reload() and "a.jpg" in page.locator("#items").inner_text())
        expect(page.locator("#items")).to_contain_text("a.jpg")
        url = page.url
        page.goto(f"{served.url}flows/plain")
        page.fill("#recipe", "blurr 3")
        _press(page, "Save")
        expect(page.locator("#problem-recipe")).to_contain_text("blurr")
    with _page(browser, served, "reader") as page:
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
    with _page(browser, served, width=width, scheme=scheme) as page:
        page.goto(f"{served.url}flows/wide")
        _press(page, "Start")
        expect(page.locator(".failures li")).to_be_visible(timeout=20_000)
        for path in ("", "new", "flows/wide", page.url.removeprefix(served.url), "none"):
            page.goto(served.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") == width, path
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (int(ground[4:].split(",")[0]) < 60) == (scheme == "dark")
            violations = Axe().run(page).response["violations"]
            assert [(one["id"], one["nodes"][0]["target"]) for one in violations] == [], path


class _Prefix(BaseHTTPRequestHandler):
    """A proxy that serves another server below a prefix, and removes it from the path."""

    target = 0

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        assert self.path.startswith("/images/"), self.path
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=5)
        with closing(connection):
            connection.request(
                self.command, self.path.removeprefix("/images"), self.rfile.read(size), dict(self.headers)
            )
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):  # a stream lasts until the time-out
                while data := answer.read1(65536):
                    self.wfile.write(data)
                    self.wfile.flush()

    do_POST = do_GET  # noqa: N815 as the library calls it

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.long
def test_pages_work_below_a_prefix(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    with ThreadingHTTPServer(("127.0.0.1", 0), _Prefix) as proxy:
        port = proxy.server_address[1]
        threading.Thread(target=proxy.serve_forever).start()
        served = Served(tmp_path, 0, "--host", f"127.0.0.1:{port}")
        _Prefix.target = served.port
        try:
            draw(served.write("below") / "a.jpg")
            with _page(browser, served, url=f"http://127.0.0.1:{port}/images/") as page:
                page.click("h2 >> text=below")
                expect(page.locator("#shown .pair img")).to_have_count(2, timeout=30_000)
                _press(page, "Start")
                expect(page.locator("#now .figures")).to_contain_text("1", timeout=20_000)
                assert "/images/jobs/" in page.url
                page.get_by_role("link", name="imageloom").click()
                _press(page, "Log out")
                page.wait_for_url("**/images/login")
        finally:
            served.end()
            proxy.shutdown()


@pytest.mark.long
def test_a_page_is_small(browser: Browser, served: Served) -> None:  # noqa: F811
    """All that a page loads, with its style and scripts."""
    with _page(browser, served) as page:
        page.goto(f"{served.url}new")
        page.wait_for_load_state("load")
        sizes = page.evaluate(
            "['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))"
            ".filter(one => !one.name.includes('/api/')).map(one => one.decodedBodySize)"
        )
        assert len(sizes) >= 4
        assert 20_000 < sum(sizes) < 150_000
