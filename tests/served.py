"""The command `imageloom serve`, and its pages in a browser."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser, Locator, Page

from program import free_port, start


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


@contextmanager
def page_of(
    browser: Browser,
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
    log_in(page, url, served.token(role))
    try:
        yield page
        assert said == []
        own = url, f"blob:{url.removesuffix('images/')}"
        assert [one for one in asked if not one.startswith(own)] == []
    finally:
        context.close()


def log_in(page: Page, url: str, token: str) -> None:
    page.goto(url)
    page.fill("input[name=token]", token)
    page.click("main button")
    page.wait_for_url(url)


def press(within: Page | Locator, name: str) -> None:
    within.get_by_role("button", name=name, exact=True).click()


def drop(page: Page, selector: str, *files: Path) -> None:
    """Drop files on an element."""
    data = page.evaluate_handle("() => new DataTransfer()")
    for file in files:
        page.evaluate(
            "([data, name, bytes]) => data.items.add(new File([new Uint8Array(bytes)], name))",
            [data, file.name, list(file.read_bytes())],
        )
    page.dispatch_event(selector, "drop", {"dataTransfer": data})
