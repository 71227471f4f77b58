"""Webhooks: what is sent and when, the signature, retries, and that nothing is lost by a restart."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imageloom.errors import StorageError, UsageError
from imageloom.service import state, webhooks
from imageloom.service.state import ServiceState
from imageloom.service.webhooks import Webhooks, check_webhooks, secret_of
from program import draw, free_port, wait_until
from serving import ended, flow_of, service_of


class Receiver(ThreadingHTTPServer):
    """Takes webhooks, and verifies them as the documentation says."""

    def __init__(self, secret: bytes, port: int = 0) -> None:
        self.secret, self.statuses, self.got = secret, list[int](), list[Any]()
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hook?a=b"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def kinds(self) -> list[str]:
        return [body["type"] for body in self.got]

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        headers, body = self.headers, self.rfile.read(int(self.headers["Content-Length"]))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(self.server.secret, signed, hashlib.sha256).digest()).decode()
        assert hmac.compare_digest(f"v1,{expected}", headers["webhook-signature"])
        assert abs(time.time() - int(headers["webhook-timestamp"])) < 300
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        if status == 204:
            self.server.got.append({**json.loads(body), "id": headers["webhook-id"], "path": self.path})
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(webhooks, "COLLECT", 0.02)


@pytest.fixture
def secret(tmp_path: Path) -> bytes:
    return secret_of("", tmp_path / "service")


@pytest.fixture
def receiver(secret: bytes) -> Iterator[Receiver]:
    with Receiver(secret) as receiver:
        yield receiver


def test_the_end_of_a_job_and_its_failed_items_are_told(
    receiver: Receiver, secret: bytes, tmp_path: Path
) -> None:
    receiver.statuses = [500, 302, 503]
    with service_of(tmp_path, webhook_secret=secret, webhooks=(receiver.url,)) as service:
        service.write_flow("web", flow_of(tmp_path / "root"), False)
        draw(tmp_path / "root" / "in-web" / "a.jpg", 1)
        for number in range(3):
            (tmp_path / "root" / "in-web" / f"bad{number}.jpg").write_bytes(b"no image")
        job = ended(service, service.start("web").row.id).row
        wait_until(lambda: "job.ended" in receiver.kinds())
        wait_until(lambda: service.state.next_notice(receiver.url) is None)
    items = [
        item for body in receiver.got if body["type"] == "items.failed" for item in body["data"]["items"]
    ]
    assert sorted(item["key"] for item in items) == ["bad0.jpg", "bad1.jpg", "bad2.jpg"]
    assert items[0]["failure"] == "UnsupportedImage"
    (last,) = [body for body in receiver.got if body["type"] == "job.ended"]
    assert last["data"] == {
        "id": job.id, "flow": "web", "state": "done", "message": "", "created": job.created,
        "ended": job.ended, "done": 1, "failed": 3, "skipped": 0,
    }  # fmt: skip
    assert {body["path"] for body in receiver.got} == {"/hook?a=b"}, "no redirect is followed"
    assert len({body["id"] for body in receiver.got}) == len(receiver.got)


def test_what_was_not_delivered_survives_a_restart(secret: bytes, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hook?a=b"
    with service_of(tmp_path, webhook_secret=secret, webhooks=(url,)) as service:
        service.write_flow("web", flow_of(tmp_path / "root"), False)
        draw(tmp_path / "root" / "in-web" / "a.jpg", 1)
        ended(service, service.start("web").row.id)
        assert service.state.next_notice(url)
    with (
        Receiver(secret, port) as receiver,
        service_of(tmp_path, webhook_secret=secret, webhooks=(url,)) as service,
    ):
        wait_until(lambda: receiver.kinds() == ["job.ended"])
        wait_until(lambda: service.state.next_notice(url) is None)


def test_attempts_and_what_waits_are_bounded(
    secret: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MOST_TRIES", 3)
    monkeypatch.setattr(webhooks, "MOST_TOGETHER", 2)
    monkeypatch.setattr(state, "MOST_NOTICES", 4)
    url = f"http://127.0.0.1:{free_port()}/"
    with closing(ServiceState(tmp_path / "service.db")) as kept:
        kept.webhooks = (url,)
        for number in range(6):
            kept.add_notice("items.failed", {"number": number})
        first = kept.next_notice(url)
        assert first is not None
        assert json.loads(first.body)["data"] == {"number": 2}
        sender = Webhooks(kept, secret)
        sender.failed(1, "web", "a.jpg", "CorruptImage", "x" * 10_000)
        wait_until(lambda: kept.next_notice(url) is None)
        sender.close()
        for number in range(5):
            sender.failed(1, "web", f"{number}.jpg", "CorruptImage", "x" * 10_000)
        sender.flush()
        bodies = []
        while notice := kept.next_notice(url):
            bodies.append(json.loads(notice.body))
            kept.remove_notice(notice)
        assert [len(body["data"]["items"]) for body in bodies] == [2, 2, 1]
        assert len(bodies[0]["data"]["items"][0]["message"]) == 2000


@pytest.mark.parametrize(
    "url",
    ["http://example.org/", "http://169.254.169.254/latest", "ftp://127.0.0.1/", "file:///etc/passwd", "x", "",
     "https://me:secret@example.org/", "https://", "https://[::1", "http://127.0.0.1:99999/"],
)  # fmt: skip
def test_addresses_that_are_not_safe_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        check_webhooks([url])


def test_secrets_are_long_and_private(tmp_path: Path) -> None:
    check_webhooks(["https://example.org/hook", "http://127.0.0.1:8000/", "http://localhost/x?y"])
    with pytest.raises(UsageError, match="maximum"):
        check_webhooks(["https://example.org/"] * 11)
    made = secret_of("", tmp_path / "home")
    assert secret_of("", tmp_path / "home") == made
    assert (tmp_path / "home" / "webhook.secret").stat().st_mode & 0o777 == 0o600
    (tmp_path / "short").write_text("whsec_AAAA\n")
    with pytest.raises(UsageError):
        secret_of(str(tmp_path / "short"), tmp_path)
    with pytest.raises(StorageError):
        secret_of(str(tmp_path / "none"), tmp_path)


def test_the_verifier_of_the_documentation_verifies(tmp_path: Path, secret: bytes) -> None:
    text = (Path(__file__).parent.parent / "docs" / "service.md").read_text()
    (code,) = [block for block in text.split("```python\n")[1:] if "is_genuine" in block]
    signed = webhooks.signature(secret, "msg_1", 1, b"body")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": signed}
    given = (tmp_path / "service" / "webhook.secret").read_text().strip()
    for body, expected in ((b"body", True), (b"bodY", False)):
        names: dict[str, Any] = {"headers": headers, "body": body, "secret": given}
        exec(code.partition("```")[0], names)
        assert names["is_genuine"] is expected
