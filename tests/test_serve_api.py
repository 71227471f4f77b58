"""The HTTP interface, as other programs use it: against a whole service, with sandboxed worker processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from imageloom.service.web.operations import PATH_TYPES
from program import draw, names, wait_until
from serving import Hosted, flow_of, hosted_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with hosted_in(tmp_path_factory.mktemp("api")) as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Hosted) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{site.url}api/v1/", headers=site.client("operator").headers, timeout=30
    ) as client:
        yield client


def _write(client: httpx.Client, site: Hosted, name: str, **options: Any) -> None:
    answer = client.put(f"flows/{name}", json={"text": flow_of(site.root, name, **options)})
    assert answer.status_code == 200, answer.text


def _ended(client: httpx.Client, id: int) -> Any:
    wait_until(lambda: client.get(f"jobs/{id}").json()["ended"] is not None)
    return client.get(f"jobs/{id}").json()


def test_upload_run_fail_mend_and_retry(client: httpx.Client, site: Hosted, tmp_path: Path) -> None:
    recipe = {"outputs": {"small": "resize 50%", "gray": "grayscale"}}
    _write(client, site, "web", recipe=recipe)
    photo = draw(tmp_path / "a.jpg").read_bytes()
    put = client.put("flows/web/upload", params={"key": "sub/a.jpg"}, content=photo)
    assert (put.status_code, put.json()) == (201, {"key": "sub/a.jpg", "size": len(photo)})
    assert client.put("flows/web/upload", params={"key": "sub/a.jpg"}, content=b"other").status_code == 409
    assert client.put("flows/web/upload", params={"key": "bad.jpg"}, content=b"no image").status_code == 201
    assert names(site.root / "in-web") == ["bad.jpg", "sub", "sub/a.jpg"]
    assert (site.root / "in-web" / "sub" / "a.jpg").read_bytes() == photo

    id = client.post("flows/web/start").json()["id"]
    job = _ended(client, id)
    assert (job["state"], job["done"], job["failed"], job["total"]) == ("done", 1, 1, 2)
    (failed,) = client.get(f"jobs/{id}/items", params={"state": "failed"}).json()["items"]
    assert (failed["key"], failed["kind"]) == ("bad.jpg", "UnsupportedImage")
    assert client.get(f"jobs/{id}/item", params={"key": "bad.jpg"}).json()["item"] == failed
    first = client.get(f"jobs/{id}/items", params={"most": 1}).json()
    rest = client.get(f"jobs/{id}/items", params={"most": 1, "after": first["next"]}).json()
    assert [first["items"][0]["key"], rest["items"][0]["key"], rest["next"]] == ["bad.jpg", "sub/a.jpg", None]

    thumbnail = client.get(f"jobs/{id}/thumbnail", params={"key": "sub/a.jpg"})
    assert thumbnail.content.startswith(b"RIFF")
    assert thumbnail.headers["content-type"] == "image/webp"
    assert client.get(f"jobs/{id}/thumbnail", params={"key": "bad.jpg"}).status_code == 422
    outputs = [client.get(f"jobs/{id}/picture", params={"key": "sub/a.jpg", "which": "output", "number": n})
               for n in range(3)]  # fmt: skip
    assert [answer.status_code for answer in outputs] == [200, 200, 404]

    draw(site.root / "in-web" / "bad.jpg")
    assert client.post(f"jobs/{id}/retry", json={"keys": ["bad.jpg"]}).json() == {"count": 1}
    job = _ended(client, id)
    assert (job["done"], job["failed"]) == (2, 0)
    assert client.post(f"jobs/{id}/retry", json={}).json() == {"count": 0}
    assert client.post(f"jobs/{id}/pause").status_code == 409
    assert [job["id"] for job in client.get("jobs", params={"flow": "web"}).json()["jobs"]] == [id]


def test_a_preview_shows_before_and_after_and_the_plan(client: httpx.Client, site: Hosted) -> None:
    _write(client, site, "look")
    draw(site.root / "in-look" / "a.png", width=1600, height=1200)
    body = {"source": str(site.root / "in-look"), "recipe": "grayscale | canny 100 200"}
    found = client.post("preview", json=body).json()
    assert found["sample"] == "a.png"
    assert client.post("samples", json={"source": body["source"]}).json() == {"samples": ["a.png"]}
    assert any("canny" in line for line in found["plan"])
    assert found["before"] != found["after"][0]["image"]
    two = client.post("preview", json=body | {"recipe": "outputs:\n  a: grayscale\n  b: resize 10%\n"}).json()
    assert [one["name"] for one in two["after"]] == ["a", "b"]
    wrong = client.post("preview", json=body | {"recipe": "blurr 3"})
    assert (wrong.status_code, "blurr" in wrong.json()["detail"]) == (422, True)
    assert client.post("preview", json=body | {"sample": "../x.png"}).status_code == 422
    assert client.post("preview", json=body | {"sample": "b.png"}).status_code == 404
    draw(site.root / "in-look" / "sub" / "c.png")
    assert client.post("preview", json=body | {"sample": "sub/c.png"}).json()["sample"] == "sub/c.png"
    assert client.post("preview", json=body | {"sample": "sub/c.png/./page=1"}).status_code == 200
    assert list((site.root.parent / "home" / "previews").iterdir()) == []


def test_events_go_on_where_a_reader_was(client: httpx.Client, site: Hosted) -> None:
    _write(client, site, "news")
    start = client.get("events/poll").json()["last"]
    id = client.post("flows/news/start").json()["id"]
    _ended(client, id)
    found = _until_ended(client, id, start)
    assert found[0][1] == "hello"
    at, _, _ = found[1]
    again = _until_ended(client, id, at)
    assert [one[0] for one in again[1:]] == [one[0] for one in found[2:]]
    other = _first(client, "other-1")
    assert other == "reset"
    polled = client.get("events/poll", params={"after": start}).json()
    assert [m["id"] for m in polled["messages"]][: len(found) - 1] == [one[0] for one in found[1:]]
    assert client.get("events/poll", params={"after": "other-1"}).json()["is_reset"]


def _events(answer: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    found: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            found[name] = value
        elif "event" in found:
            yield found["id"], found["event"], json.loads(found["data"])
            found = {}


def _until_ended(client: httpx.Client, id: int, after: str) -> list[tuple[str, str, Any]]:
    """The events after another, up to the end of a job."""
    seen = []
    with client.stream("GET", "events", headers={"Last-Event-ID": after}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for event in _events(answer):
            seen.append(event)
            if event[1] == "job" and event[2]["id"] == id and event[2]["state"] == "done":
                break
    return seen


def _first(client: httpx.Client, after: str) -> str:
    with client.stream("GET", "events", headers={"Last-Event-ID": after}) as answer:
        return next(_events(answer))[1]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "flows/none", None, 404),
        ("GET", "flows/a.b", None, 404),
        ("GET", "jobs/99999", None, 404),
        ("GET", "jobs/x", None, 404),
        ("GET", "jobs/99999999999999999999", None, 404),
        ("GET", "nothing", None, 404),
        ("PATCH", "flows", None, 405),
        ("GET", "flows?x=1", None, 422),
        ("GET", "jobs?most=0", None, 422),
        ("GET", "jobs?most=5&most=6", None, 422),
        ("PUT", "flows/x", b"{", 400),
        ("PUT", "flows/x", b"{}", 422),
        ("PUT", "flows/x", b'{"text": "recipe: ["}', 422),
        ("PUT", "flows/x", b'{"text": "\xff"}', 400),
        ("DELETE", "flows/none", None, 404),
        ("POST", "flows/none/start", None, 404),
        ("POST", "flows/none/aside", b'{"key": "a"}', 404),
        ("POST", "jobs/99999/retry", b"{}", 404),
        ("PUT", "flows/none/upload?key=a.jpg", b"x", 404),
    ],
)
def test_errors_are_problems(
    method: str, path: str, body: bytes | None, status: int, client: httpx.Client
) -> None:
    headers = {"Content-Type": "application/json"} if body else {}
    answer = client.request(method, path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]


def test_a_page_of_a_job_with_any_number(site: Hosted) -> None:
    with site.client("operator") as reader:
        assert reader.get(f"jobs/{10**30}", headers={"Accept": "text/html"}).status_code == 404


def test_a_body_that_is_not_json_is_refused(client: httpx.Client) -> None:
    assert client.put("flows/x", data={"text": "x"}).status_code == 415


def test_the_document_names_all_that_is_served(client: httpx.Client) -> None:
    document = client.get("openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        own = re.sub(r"\{(\w+)\}", lambda m: "1" if PATH_TYPES[m[1]]["type"] == "integer" else "x", path)
        for method in ("get", "put", "post", "delete", "patch"):
            if path in ("/events", "/openapi.json") and method == "get":
                continue
            status = client.request(method.upper(), own.lstrip("/")).status_code
            assert (status == 405) == (method not in methods), (method, path)


def test_metrics_are_those_of_prometheus(client: httpx.Client, site: Hosted) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    _write(client, site, "counted")
    _ended(client, client.post("flows/counted/start").json()["id"])
    with site.client("reader") as reader:
        found = {f.name: f for f in text_string_to_metric_families(reader.get("metrics").text)}
    assert found["imageloom_workers"].samples[0].value >= 1
    assert {sample.labels["flow"] for sample in found["imageloom_job_items"].samples} >= {"counted"}


def test_workers_and_operators(client: httpx.Client) -> None:
    assert client.get("workers").json()["workers"] >= 1
    found = {one["name"]: one for one in client.get("operators").json()["operators"]}
    assert found["canny"]["parameters"]


@pytest.mark.long
def test_the_service_answers_as_its_document_says(site: Hosted) -> None:
    """schemathesis, in an environment of its own: see SCHEMATHESIS."""
    program = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")
    if program is None:
        pytest.skip("there is no schemathesis: pip install schemathesis")
    done = subprocess.run(
        [
            *(program, "run", f"{site.url}api/v1/openapi.json", "--url", f"{site.url}api/v1"),
            *("-H", f"Authorization: Bearer {site.tokens['operator']}", "--max-examples", "50"),
            *("--exclude-path", "/events", "--no-color", "--suppress-health-check", "all"),
            *("--exclude-checks", "ignored_auth,unsupported_method"),
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
