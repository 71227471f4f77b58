"""The Python client, and `imageloom submit --http`, against a real service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import imageloom
from imageloom.errors import ServerBusy, StorageError, TaskRefused, UnknownName, UsageError, WrongState
from imageloom.service import httpclient
from imageloom.service.connection import error_of
from imageloom.service.web import access
from program import draw, start, wait_until
from program import imageloom as run_program
from serving import Hosted, hosted_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with hosted_in(tmp_path_factory.mktemp("client")) as site:
        yield site


@pytest.fixture(autouse=True)
def _no_brake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token of one test does not slow down the next one."""
    monkeypatch.setattr(access, "FIRST_PAUSE", 0.0)


@pytest.fixture
def client(site: Hosted) -> Iterator[imageloom.Client]:
    with imageloom.Client(site.url, site.tokens["operator"]) as client:
        yield client


def make(site: Hosted, name: str, **more: Any) -> dict[str, Any]:
    (site.root / f"in-{name}").mkdir(exist_ok=True)
    return {
        "source": str(site.root / f"in-{name}"),
        "sink": str(site.root / f"out-{name}"),
        "recipe": "resize 50%",
        **more,
    }


def test_a_flow_from_its_start_to_its_end(client: imageloom.Client, site: Hosted, tmp_path: Path) -> None:
    flow = client.write_flow("whole", make(site, "whole", options={"include": ["*.jpg"]}))
    assert (flow.name, flow.error) == ("whole", "")
    photo = draw(tmp_path / "photo.jpg", 1)
    assert client.upload("whole", "a.jpg", photo) == photo.stat().st_size
    assert client.upload("whole", "b.jpg", photo.read_bytes()) == photo.stat().st_size
    with open(photo, "rb") as file:
        pieces = iter(lambda: file.read(1000), b"")
        assert client.upload("whole", "sub/ü c.jpg", pieces) == photo.stat().st_size
    client.upload("whole", "bad.jpg", b"no image")
    with pytest.raises(WrongState):
        client.upload("whole", "a.jpg", photo)
    job = client.wait(client.start("whole").id, 60)
    assert (job.state, job.done, job.failed) == ("done", 3, 1)
    assert [item.key for item in client.items(job.id)] == ["a.jpg", "b.jpg", "bad.jpg", "sub/ü c.jpg"]
    (failed,) = client.items(job.id, "failed")
    assert (failed.key, failed.kind) == ("bad.jpg", "UnsupportedImage")
    assert client.item(job.id, "bad.jpg").item == failed
    assert client.thumbnail(job.id, "sub/ü c.jpg")[8:12] == b"WEBP"
    assert client.picture(job.id, "a.jpg", 0)[8:12] == b"WEBP"
    (site.root / "in-whole" / "bad.jpg").write_bytes(photo.read_bytes())
    assert client.retry(job.id, ["bad.jpg"]) == 1
    assert client.wait(job.id, 60).failed == 0
    assert client.retry(job.id) == 0
    assert client.set_aside("whole", "a.jpg") == ("a.jpg",)
    assert client.set_aside("whole", "a.jpg", False) == ()
    assert client.jobs("whole")[0].id == client.job(job.id).id
    client.delete_flow("whole")
    assert "whole" not in [flow.name for flow in client.flows()]


def test_what_else_there_is_to_read(client: imageloom.Client, site: Hosted, tmp_path: Path) -> None:
    draw(site.root / "in-read" / "a.jpg", 1)
    flow = make(site, "read")
    assert client.workers().workers == 1
    assert "resize" in [one.name for one in client.operators()]
    assert client.samples(flow["source"]) == ("a.jpg",)
    assert client.preview(flow["source"], [{"resize": "50%"}]).before[8:12] == b"WEBP"
    assert any("resize" in line for line in client.plan(flow["source"], "resize 50%"))


def test_errors_are_of_the_own_tree(client: imageloom.Client, site: Hosted) -> None:
    with pytest.raises(UnknownName, match="no flow 'none'"):
        client.flow("none")
    with pytest.raises(UsageError, match="sorce"):
        client.write_flow("wrong", {**make(site, "wrong"), "sorce": 1})
    with pytest.raises(TaskRefused):
        client.write_flow("wrong", {**make(site, "wrong"), "source": "/etc"})
    with pytest.raises(UsageError, match="token is wrong"), imageloom.Client(site.url, "x" * 43) as other:
        other.flows()
    with imageloom.Client(site.url, site.tokens["reader"]) as reader:
        assert reader.workers().workers == 1
        with pytest.raises(TaskRefused, match="reader"):
            reader.start("none")
    with (
        imageloom.Client("http://127.0.0.1:9", "x" * 20) as nobody,
        pytest.raises(StorageError, match="reach"),
    ):
        nobody.flows()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, b'{"detail":"too many"}', ServerBusy),
        (500, b'{"detail":"x"}', StorageError),
        (502, b"<html>", StorageError),
        (302, b"", StorageError),
        (418, b"[]", UsageError),
    ],
)
def test_any_answer_becomes_an_error(status: int, body: bytes, kind: type[Exception]) -> None:
    assert type(error_of(status, body)) is kind


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8100", "ftp://x", "http://example.org", "https://me:secret@host", "http://[", "http://h:x/"]
)  # fmt: skip
def test_addresses_that_would_send_the_token_in_the_clear_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        imageloom.Client(url, "x" * 43)


def test_the_token_comes_from_an_argument_a_file_or_the_environment(
    site: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGELOOM_TOKEN", raising=False)
    with pytest.raises(UsageError, match="IMAGELOOM_TOKEN"):
        imageloom.Client(site.url)
    with imageloom.Client(site.url, token_file=site.home / "reader.token") as client:
        assert client.workers().workers == 1
    monkeypatch.setenv("IMAGELOOM_TOKEN_FILE", str(site.home / "reader.token"))
    with imageloom.Client(site.url) as client:
        assert client.workers().workers == 1
    monkeypatch.setenv("IMAGELOOM_TOKEN", "x" * 43)
    with imageloom.Client(site.url) as client, pytest.raises(UsageError, match="wrong"):
        client.workers()
    with pytest.raises(StorageError):
        imageloom.Client(site.url, token_file=tmp_path / "none")


def test_events_go_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpclient, "PAUSE", 0.05)
    seen: list[Any] = []
    address = {}
    with hosted_in(tmp_path) as site:
        address = {"address": site.url.removeprefix("http://").rstrip("/")}
        client = imageloom.Client(site.url, site.tokens["operator"])
        events = client.events()

        def read() -> None:
            for event in events:
                seen.append(event)
                if event.data.get("flow") == "second":
                    return

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        client.write_flow("first", make(site, "first"))

        def is_heard() -> bool:
            client.set_aside("first", "a.jpg")
            return "aside" in [event.kind for event in seen]

        wait_until(is_heard)
    with hosted_in(tmp_path, address) as site:
        client.write_flow("second", make(site, "second"))
        wait_until(lambda: "reset" in [event.kind for event in seen])
        client.set_aside("second", "a.jpg")
        reader.join(30)
        assert not reader.is_alive()
    client.close()


class _Proxy(BaseHTTPRequestHandler):
    """A proxy that lets no stream through."""

    upstream = ""
    polls = 0

    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            self.send_error(502)
            return
        type(self).polls += "/events/poll" in self.path
        import urllib.request

        request = urllib.request.Request(f"{self.upstream}{self.path}")
        request.add_header("Authorization", self.headers["Authorization"])
        with urllib.request.urlopen(request, timeout=30) as answer:
            data = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_where_no_stream_gets_through_changes_are_asked_for(
    client: imageloom.Client, site: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpclient, "PAUSE", 0.02)
    client.write_flow("polled", make(site, "polled"))
    _Proxy.upstream = site.url.rstrip("/")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            with imageloom.Client(f"http://127.0.0.1:{proxy.server_port}", site.tokens["reader"]) as other:
                found: list[Any] = []
                events = other.events()
                reader = threading.Thread(target=lambda: found.append(next(events)), daemon=True)
                reader.start()
                wait_until(lambda: _Proxy.polls > 1)
                client.set_aside("polled", "x.jpg")
                reader.join(30)
                assert [(e.kind, e.data["key"]) for e in found] == [("aside", "x.jpg")]
        finally:
            proxy.shutdown()


def submit(site: Hosted, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    flags = ("--http", site.url, "--token", site.home / "operator.token")
    return run_program("submit", *arguments, *flags, **options)


def test_submit_says_and_does_what_run_does(site: Hosted, tmp_path: Path) -> None:
    source = site.root / "in-submit"
    for number in range(3):
        draw(source / f"{number}.jpg", number)
    (source / "bad.jpg").write_bytes(b"no image")
    here = run_program(
        "run", "resize 50% | grayscale", source, tmp_path / "out", "--ledger", tmp_path / "l.db", "-q"
    )
    there = submit(site, "resize 50% | grayscale", source, site.root / "out-submit", "-q")
    assert (there.returncode, here.returncode) == (1, 1)
    assert _without_time(there.stdout) == _without_time(here.stdout)
    assert there.stderr.splitlines()[0] == here.stderr.splitlines()[0]
    made = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.jpg")}
    assert {p.name: p.read_bytes() for p in (site.root / "out-submit").glob("*.jpg")} == made
    again = submit(site, "resize 50% | grayscale", "in-submit", "out-submit", "--json", cwd=site.root)
    assert again.returncode == 1
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert [line["event"] for line in lines].count("skipped") == 3
    assert lines[-1]["event"] == "summary"
    assert (lines[-1]["unchanged"], lines[-1]["failed"]) == (3, 1)
    assert f"{site.url}jobs/" in again.stderr


def _without_time(line: str) -> str:
    return line.partition(",")[0]


def test_submit_refuses_and_detaches(site: Hosted) -> None:
    draw(site.root / "in-detached" / "1.jpg", 1)
    refused = submit(site, "resize 50%", "/etc", site.root / "out")
    assert refused.returncode == 1, refused.stderr
    assert "root" in refused.stderr
    assert submit(site, "invert", site.root, site.root / "x", "--server", "a:1").returncode == 2
    assert submit(site, "invert", site.root / "in-detached", "--in-place").returncode == 2
    detached = submit(site, "invert", site.root / "in-detached", site.root / "out-detached", "--detach")
    assert detached.returncode == 0
    followed = submit(site, "--job", detached.stdout.strip())
    assert (followed.returncode, followed.stdout.partition(",")[0]) == (0, "1 of 1 done")
    assert submit(site, "--job", "999999").returncode == 2
    assert submit(site, "--cancel", detached.stdout.strip()).returncode == 2, "it has ended"
    empty = site.root / "empty"
    empty.mkdir()
    assert submit(site, "invert", empty, site.root / "out-empty").returncode == 3


def test_ctrl_c_cancels_the_job(client: imageloom.Client, site: Hosted) -> None:
    source = site.root / "in-cancelled"
    photo = draw(source / "0.jpg", 1, 1600, 1200)
    for number in range(1, 400):
        os.link(photo, source / f"{number}.jpg")
    flags = ("--http", site.url, "--token", site.home / "operator.token")
    running = start("submit", "resize 50%", source, site.root / "out-cancelled", *flags,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    wait_until(lambda: any((site.root / "out-cancelled").glob("*.jpg")))
    running.send_signal(signal.SIGINT)
    said, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "cancelling" in told
    assert said.startswith("interrupted") or "interrupted" in said
    assert client.jobs(most=1)[0].state == "cancelled"


def test_a_job_is_submitted_once(client: imageloom.Client, site: Hosted) -> None:
    job = make(site, "once")
    first = client.submit("the-same", job)
    assert client.submit("the-same", job).id == first.id
    with pytest.raises(WrongState):
        client.submit("the-same", {**job, "recipe": "invert"})
    with pytest.raises(UsageError, match="when"):
        client.submit("other", {**job, "when": "watched"})
    client.write_flow("taken", job)
    with pytest.raises(WrongState):
        client.submit("taken", job)
