"""The pages as text: what is on them, and what their forms answer. `test_serve_page` has them in a browser."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import yaml

from imageloom import operators
from imageloom.model import Box, Item, Limits, Outcome, Part, Recipe, Result, Task, Times, Work
from imageloom.records.events import Advanced, Collected, Done, Failed, Retried
from imageloom.service.activity import LANE_SECONDS, STEP, WINDOW, Activity
from imageloom.service.load import LoadMeter
from imageloom.service.state import ServiceState
from imageloom.service.turns import Held
from imageloom.service.web import charts
from program import draw, names, wait_until
from serving import Hosted, ended, flow_of, hosted_in, service_of

OF_FILES = ("lut", "overlay")
"""Operators that need a file have no example picture."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with hosted_in(tmp_path_factory.mktemp("pages")) as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Hosted) -> Iterator[httpx.Client]:
    with site.client("operator", Accept="text/html") as client:
        yield client


def _form(site: Hosted, **changed: str) -> dict[str, str]:
    root = site.root
    (root / "in").mkdir(exist_ok=True)
    given = {"source": str(root / "in"), "sink": str(root / "out"), "recipe": "resize 50%", "when": "once"}
    return {"do": "save", **given, **changed}


def _problem(page: str, field: str) -> str:
    found = re.search(f'<p class="bad" id="problem-{field}"[^>]*>(.*?)</p>', page, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("field", "changed", "said"),
    [
        ("name", {"name": "a b"}, "1 to 63 letters"),
        ("source", {"source": "/etc"}, "/etc"),
        ("sink", {"sink": " "}, "empty"),
        ("recipe", {"recipe": "blurr 3"}, "blurr"),
        ("options", {"options": "workers: many"}, "int"),
        ("options", {"options": "nothing"}, "lines such as"),
        ("pages", {"pages": "some"}, "pages"),
    ],
)
def test_an_error_stands_beside_its_field(
    client: httpx.Client, site: Hosted, field: str, changed: dict[str, str], said: str
) -> None:
    answer = client.post("new", data=_form(site, **{"name": "wrong", **changed}))
    assert answer.status_code in (403, 422)
    assert said in _problem(answer.text, field)
    marked = re.findall(r'name="(\w+)"[^>]*aria-invalid="true"', answer.text)
    assert marked == ([field] if field else [])
    for name, value in changed.items():
        assert value.strip() in answer.text, f"{name} is kept"


def test_pages_of_a_file_are_an_option_of_the_form(client: httpx.Client, site: Hosted) -> None:
    source, sink = site.root / "scans", site.root / "sheets"
    source.mkdir()
    pages = [np.full((40, 60, 3), 40 * number, np.uint8) for number in range(3)]
    assert cv2.imwritemulti(str(source / "book.tif"), pages)
    form = _form(site, name="book", source=str(source), sink=str(sink), pages="all")
    answer = client.post("new", data=form | {"options": "name: '{stem}-{page}.{ext}'"})
    assert answer.status_code == 303
    text = (site.root.parent / "home" / "flows" / "book.yaml").read_text()
    assert yaml.safe_load(text)["options"]["pages"] == "all"
    page = client.get("flows/book").text
    assert re.search(r'name="pages" value="all"', page)
    assert "stem" in re.findall(r'<textarea id="options"[^>]*>(.*?)</textarea>', page, re.DOTALL)[0]
    client.post("flows/book", data={"do": "start"})
    wait_until(lambda: len(names(sink)) == 3)


def test_an_item_before_and_after_and_the_report(client: httpx.Client, site: Hosted) -> None:
    source, key = site.root / "photos", 'a & "b" <i>.jpg'
    draw(source / key)
    (source / "bad.jpg").write_bytes(b"no image")
    client.post("new", data=_form(site, name="photos", source=str(source), sink=str(site.root / "web")))
    job = client.post("flows/photos", data={"do": "start"}).headers["location"].rpartition("/")[2]
    wait_until(lambda: client.get(f"api/v1/jobs/{job}").json()["state"] == "done")

    page = client.get(f"jobs/{job}").text
    links = re.findall(r'href="([^"]*/item\?key=[^"]*)"', page)
    assert len(links) == 3, "two items, and the one that failed once more"
    assert "<i>" not in page
    item = client.get(f"jobs/{job}/item", params={"key": key}).text
    pictures = [
        one.replace("&amp;", "&").removeprefix("../../") for one in re.findall(r'src="([^"]*)"', item)
    ]
    shown = [client.get(one).headers["content-type"] for one in pictures if "/picture" in one]
    assert shown == ["image/webp"] * 2
    failed = client.get(f"jobs/{job}/item", params={"key": "bad.jpg"}).text
    assert "not an image" in failed
    assert "/picture" not in failed
    assert client.get(f"jobs/{job}/item", params={"key": "none.jpg"}).status_code == 404

    report = client.get(re.findall(r'href="\.\./(jobs/\d+/report[^"]*)"', page)[0])
    policy = report.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "bad.jpg" in report.text
    assert client.get(f"jobs/{job}/report", params={"run": "99"}).status_code == 404
    assert "script-src 'self'" in client.get(f"jobs/{job}").headers["content-security-policy"]


def test_the_summary_of_an_operator_is_shown_once(client: httpx.Client) -> None:
    page = html.unescape(client.get("new").text)
    for one in operators.operators():
        block = page.partition(f'data-operator="{one.name}"')[2].partition("</details>")[0]
        assert block.count(one.summary) == 1, one.name
    assert "fit=inside keeps the proportions" in page, "the rest is shown too"


@pytest.mark.parametrize(
    "wanted",
    [
        ("", "canny"),
        pytest.param(
            [one.name for one in operators.operators() if one.name not in OF_FILES], marks=pytest.mark.long
        ),
    ],
    ids=["some", "all"],
)
def test_operators_have_an_example_picture(client: httpx.Client, wanted: list[str]) -> None:
    found = {}
    for name in wanted:
        answer = client.get("operators/picture", params={"operator": name})
        assert answer.headers["content-type"] == "image/webp", name
        image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), 1)
        assert image is not None
        assert image.std() > 5, name
        found[name] = answer.content
    assert len(set(found.values())) >= len(found) - 2, "two change nothing of an upright sRGB picture"
    for name in ("none", *OF_FILES):
        assert client.get("operators/picture", params={"operator": name}).status_code == 422


def test_the_overview_shows_workers_and_the_machine(client: httpx.Client) -> None:
    page = client.get("").text
    assert "Table of workers" in page
    assert re.search(r"Memory</dt>.*GB free of", page)
    assert re.search(r"Disk of .*B free of", page)


def test_each_worker_is_shown_with_what_it_has(tmp_path: Path) -> None:
    with service_of(tmp_path, engine="processes", jobs=1) as service:
        root = tmp_path / "root"
        service.write_flow("slow", flow_of(root, "slow", "bilateral 25"), replace=False)
        draw(root / "in-slow" / "a.jpg", 1, 1200, 900)
        id = service.start("slow").row.id
        found: list[Held] = []

        def look() -> list[Held]:
            found.extend(one for view in service.turns.workers for one in view.items)
            return found

        wait_until(look)
        assert (found[0].flow, found[0].key) == ("slow", "a.jpg")
        assert found[0].seconds >= 0
        assert ended(service, id).row.done == 1
        wait_until(lambda: not any(view.items for view in service.turns.workers))


def _result(key: str, began: float, seconds: float = 0.5) -> Result:
    return Result(key, times=Times(decode=seconds), started=began, worker="7/MainThread")


def test_what_a_job_did_lately() -> None:
    activity, now = Activity(), time.time()
    for number in range(20):
        activity(Done(_result(f"{number}", now - 1, 0.1 * number), 1, "7/MainThread"))
    activity(Failed(_result("bad", now - 2), 1, "8/MainThread"))
    activity(Retried(_result("bad", now - 3), 1, "8/MainThread", 1.0))
    view = activity.view(now)
    assert len(view.bars) == WINDOW // STEP
    assert sum(bar.done for bar in view.bars) == 20
    assert sum(bar.failed for bar in view.bars) == 1
    slowest = max(bar.slow for bar in view.bars)
    assert slowest == pytest.approx(1.9)
    lanes = charts.lanes(view, now)
    assert [lane.worker for lane in lanes] == ["7/MainThread", "8/MainThread"]
    assert lanes[1].busy == pytest.approx(1.0 / LANE_SECONDS)
    assert charts.throughput(view.bars).summary.startswith("21 items ended")
    assert activity.view(now + 2 * WINDOW).spans == ()
    assert not any(bar.done for bar in activity.view(now + 2 * WINDOW).bars)


def _tile(number: int, phase: int) -> Collected:
    part = Part(number, 0, phase, Box(0, 100 * number, 300, 100 * number + 100))
    work = (Work(Item("huge.tif", 1, 0), (), 0),)
    task = Task(number, "job", "in", "out", Recipe(()), Limits(), work, part)
    return Collected(task, Outcome(number, "7", (_result("huge.tif", time.time()),)))


def test_the_tiles_of_a_large_image() -> None:
    activity = Activity()
    for number in range(2):
        activity(_tile(number, 0))
        activity(Advanced("huge.tif", number + 1, 4, 1, 2, 300, 400))
    (image,) = activity.view(time.time()).images
    assert (image.width, image.height, image.done, image.total) == (300, 400, 2, 4)
    drawn = charts.tile_map(image, [Box(0, 200, 300, 300)]).svg
    assert drawn.count('class="t-done"') == 2
    assert drawn.count('class="t-work"') == 1
    assert 'viewBox="0 0 300 400"' in drawn
    activity(_tile(0, 1))
    assert len(activity.view(time.time()).images[0].tiles) == 1, "the next step begins with an empty map"
    activity(Done(_result("huge.tif", time.time()), 1, "7"))
    view = activity.view(time.time())
    assert view.images == ()
    assert {span.state for span in view.spans} == {"part"}, "the whole image is no span: its parts are"


def test_the_load_of_the_machine(tmp_path: Path) -> None:
    meter = LoadMeter((str(tmp_path), f"{tmp_path}", "s3://bucket/prefix"))
    load = meter.load()
    assert load.busy is None, "it is measured between two looks"
    assert 0 < load.memory_free <= load.memory_total
    assert [disk.root for disk in load.disks] == [str(tmp_path)]
    assert 0 < load.disks[0].free <= load.disks[0].total


def test_drained_nodes_are_kept_in_the_state(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    state = ServiceState(path)
    state.set_drained("b:1", True)
    state.set_drained("a:1", True)
    state.close()
    state = ServiceState(path)
    assert state.drained() == ["a:1", "b:1"]
    state.set_drained("a:1", False)
    state._db.execute("DROP TABLE drained")  # as in a file of an older program
    state.close()
    state = ServiceState(path)
    assert state.drained() == []
    state.close()
