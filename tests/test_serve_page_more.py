"""The pages in Chromium: behind nginx, with nodes, large images, by keyboard, and how soon they change."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from playwright.sync_api import expect

from chromium import Browser, browser  # noqa: F401
from program import draw, free_port, names, wait_until
from served import Served, drop, page_of, press
from service import Program

pytestmark = pytest.mark.long

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("page"))
    yield served
    served.end()


CONFIG = """
daemon off;
pid {folder}/pid;
error_log {folder}/error;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 100m;
  server {{
    listen 127.0.0.1:{port};
    location /images/ {{
      proxy_pass http://127.0.0.1:{target}/;
      proxy_set_header Host $http_host;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


@contextmanager
def _nginx(folder: Path, port: int, target: int) -> Iterator[None]:
    """nginx with the service below a prefix."""
    if not os.path.exists(NGINX):
        pytest.skip("there is no nginx here: apt-get install nginx-light")
    folder.mkdir()
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, target=target))
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", f"{folder}/log"]
    )
    try:
        wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip())
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_pages_work_below_a_prefix_behind_nginx(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    port = free_port()
    served = Served(tmp_path, 0, "--host", f"127.0.0.1:{port}")
    try:
        with _nginx(tmp_path / "nginx", port, served.port):
            draw(served.write("below") / "a.jpg")
            with page_of(browser, served, url=f"http://127.0.0.1:{port}/images/") as page:
                page.click("h2 >> text=below")
                expect(page.locator("#shown .pair img")).to_have_count(2, timeout=30_000)
                press(page, "Start")
                expect(page.locator("#now .figures")).to_contain_text("1", timeout=20_000)
                assert "/images/jobs/" in page.url
                page.get_by_role("link", name="a.jpg").click()
                wait_until(lambda: page.evaluate("document.querySelector('.pair .before').naturalWidth > 0"))
                page.get_by_role("link", name="imageloom").click()
                drop(page, "[data-flow=below]", draw(tmp_path / "b.jpg", 2))
                expect(page.locator("#notice")).to_have_text("1 uploaded to below", timeout=20_000)
                press(page, "Start below")
                page.go_back()
                done = page.locator("[data-flow=below] .figures")
                expect(done).to_contain_text("1", timeout=20_000)  # by the event stream, through nginx
                press(page, "Log out")
                page.wait_for_url("**/images/login")
    finally:
        served.end()


def test_a_file_is_shown_as_done_within_a_second(browser: Browser, served: Served, tmp_path: Path) -> None:  # noqa: F811
    """From a file in a watched folder to its count on an open page, at the 95th percentile."""
    source = served.write("soon", when="watched")
    with page_of(browser, served) as page:
        figures = page.locator("[data-flow=soon] .figures div", has_text="done").locator("dd")
        draw(source / "first.jpg")
        expect(figures).to_have_text("1", timeout=20_000)
        photos = [draw(tmp_path / f"{number}.jpg", number, 640, 480) for number in range(30)]
        seconds = []
        for number, photo in enumerate(photos, 2):
            time.sleep(0.05 * (number % 7))  # not in step with any period
            began = time.time()
            os.rename(photo, source / photo.name)
            page.wait_for_function(
                "wanted => document.querySelector('[data-flow=soon] .figures dd').textContent === wanted",
                arg=str(number),
                timeout=20_000,
            )
            seconds.append(time.time() - began)
    found = sorted(seconds)
    assert found[28] <= 1.0, found


def test_the_tiles_of_a_large_image_fill_its_map(browser: Browser, served: Served) -> None:  # noqa: F811
    source = served.write("scans", recipe="bilateral 9")
    noise = np.random.default_rng(1).integers(0, 255, (750, 1000, 3), np.uint8)
    cv2.imwrite(str(source / "map.tif"), cv2.resize(noise, (5000, 4000)))
    with page_of(browser, served) as page:
        page.goto(f"{served.url}flows/scans")
        press(page, "Start")
        expect(page.locator("#maps")).to_contain_text("map.tif", timeout=60_000)
        expect(page.locator("#maps")).to_contain_text("4\u202f000 pixels")
        seen = {page.locator("#maps .t-done").count()}
        while len(seen) < 3 and page.locator("#maps").count():
            seen.add(page.locator("#maps .t-done").count())
        assert len(seen) == 3, seen
        expect(page.locator("#hand .lanes li")).to_have_count(1)
        expect(page.locator("#maps")).to_have_count(0, timeout=120_000)
        expect(page.locator("#items")).to_contain_text("map.tif", timeout=20_000)


def test_times_are_those_of_the_reader(browser: Browser, served: Served) -> None:  # noqa: F811
    draw(served.write("timed") / "a.jpg")
    with page_of(browser, served, timezone_id="Asia/Tokyo", locale="en-GB") as page:
        page.goto(f"{served.url}flows/timed")
        press(page, "Start")
        moment = page.locator("#now time").first
        said = moment.get_attribute("datetime") or ""
        expected = page.evaluate(
            "said => new Intl.DateTimeFormat('en-GB', {dateStyle: 'medium', timeStyle: 'medium',"
            " timeZone: 'Asia/Tokyo'}).format(new Date(said))",
            said,
        )
        expect(moment).to_have_text(expected)


def test_files_are_chosen_by_keyboard(browser: Browser, served: Served, tmp_path: Path) -> None:  # noqa: F811
    served.write("chosen")
    with page_of(browser, served) as page:
        chooser = page.get_by_label("Upload images to chosen")
        chooser.focus()
        expect(chooser).to_be_focused()
        chooser.set_input_files([draw(tmp_path / "a.jpg"), draw(tmp_path / "b.jpg", 2)])
        expect(page.locator("#notice")).to_have_text("2 uploaded to chosen", timeout=20_000)
        button = page.get_by_role("button", name="Start chosen")
        button.focus()
        page.keyboard.press("Enter")
        wait_until(lambda: names(served.root / "out-chosen") == ["a.jpg", "b.jpg"])


def test_all_is_reached_by_the_tab_key(browser: Browser, served: Served) -> None:  # noqa: F811
    served.write("tabbed")
    with page_of(browser, served) as page:
        page.goto(f"{served.url}flows/tabbed")
        wanted = page.locator("a, button, input:not([type=hidden]), textarea, select, summary")
        shown = wanted.evaluate_all(
            "all => all.filter(one => one.checkVisibility() && one.type !== 'radio').length + 1"
        )
        reached = set()
        for _ in range(2 * shown):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.outerHTML"))
        assert len(reached) >= 0.9 * shown  # some buttons have equal texts


def test_nodes_are_shown_and_drained(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "root"
    root.mkdir()
    node = Program("node", "--root", root, "--listen", f"127.0.0.1:{free_port()}", "--sandbox", "off")
    gone = f"127.0.0.1:{free_port()}"
    config = tmp_path / "nodes.yaml"
    config.write_text(yaml.safe_dump({"nodes": [node.address, gone], "choice": "two-choices"}))
    served = Served(tmp_path, 0, "--nodes", str(config), "--sandbox", "off")
    try:
        with page_of(browser, served) as page:
            page.get_by_role("link", name="Nodes").click()
            row = page.locator("tr", has_text=node.address)
            expect(row).to_contain_text("connected", timeout=20_000)
            expect(page.locator("tr", has_text=gone)).to_contain_text("not connected", timeout=20_000)
            expect(page.locator("#nodes")).to_contain_text("two-choices")
            source = served.write("noded")
            for number in range(4):
                draw(source / f"{number}.jpg", number)
            page.goto(f"{served.url}flows/noded")
            expect(page.locator("#shown .pair img")).to_have_count(2, timeout=30_000)
            press(page, "Start")
            expect(page.locator("#now")).to_contain_text("done", timeout=60_000)
            wait_until(lambda: len(names(served.root / "out-noded")) == 4)

            page.goto(f"{served.url}nodes")
            press(row, f"Drain {node.address}")
            expect(row).to_contain_text("drained", timeout=20_000)
            served.end(kill=True)
            served.begin()
            page.goto(f"{served.url}nodes")
            expect(row).to_contain_text("drained")
            draw(source / "late.jpg", 9)
            page.goto(f"{served.url}flows/noded")
            press(page, "Start")
            expect(page.locator("#now")).to_contain_text("running", timeout=20_000)
            page.goto(f"{served.url}nodes")
            press(row, f"Use again {node.address}")
            wait_until(lambda: len(names(served.root / "out-noded")) == 5)
    finally:
        served.end()
        node.kill()
