"""Bounds of the service: bodies, uploads, streams, connections, hosts behind proxies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from imageloom.errors import UsageError
from imageloom.service.web import access, gate, server
from imageloom.service.web.proxies import client_of, networks
from program import wait_until
from serving import Hosted, flow_of, hosted_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with hosted_in(tmp_path_factory.mktemp("bounds")) as site:
        yield site


@pytest.fixture(autouse=True)
def _no_brake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token of one test does not slow down the next one."""
    monkeypatch.setattr(access, "FIRST_PAUSE", 0.0)


def _port(site: Hosted) -> int:
    return int(site.url.rstrip("/").rpartition(":")[2])


def test_bodies_are_bounded(site: Hosted) -> None:
    with site.client("operator") as client:
        body = b"x" * (gate.MOST_BODY + 1)
        headers = {"Content-Type": "application/json"}
        assert client.put("api/v1/flows/big", content=body, headers=headers).status_code == 413
        pieces = iter([body[: gate.MOST_BODY // 2]] * 3)
        assert client.put("api/v1/flows/big", content=pieces, headers=headers).status_code == 413
        assert client.get("", params={"x": "y" * 9000}).status_code == 400


def test_uploads_are_bounded(tmp_path: Path) -> None:
    with (
        hosted_in(tmp_path, bounds=gate.GateBounds(upload_bytes=1000)) as site,
        site.client("operator") as client,
    ):
        client.put("api/v1/flows/up", json={"text": flow_of(site.root, "up")})
        for content in (b"x" * 1001, iter([b"x" * 600, b"y" * 600])):
            answer = client.put("api/v1/flows/up/upload", params={"key": "a.jpg"}, content=content)
            assert answer.status_code == 413
        assert list((site.root / "in-up").iterdir()) == []


def test_streams_are_bounded(tmp_path: Path) -> None:
    bounds = gate.GateBounds(streams=2)
    with hosted_in(tmp_path, bounds=bounds) as other, other.client("reader") as client:
        with client.stream("GET", "api/v1/events") as one, client.stream("GET", "api/v1/events") as two:
            assert (one.status_code, two.status_code) == (200, 200)
            answer = client.get("api/v1/events")
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "1"
            assert client.get("api/v1/flows").status_code == 200
        wait_until(lambda: _stream_status(client) == 200)


def _stream_status(client: httpx.Client) -> int:
    with client.stream("GET", "api/v1/events") as answer:
        return answer.status_code


def test_a_connection_that_says_nothing_is_closed(site: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST", 0.2)
    with socket.create_connection(("127.0.0.1", _port(site)), 10) as silent:
        silent.sendall(b"GET / HT")
        assert _is_closed(silent)


def test_a_second_request_that_does_not_end_is_closed(site: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST", 0.5)
    with socket.create_connection(("127.0.0.1", _port(site)), 20) as slow:
        slow.sendall(f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{_port(site)}\r\n\r\n".encode())
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET /heal")
        wait_until(lambda: _is_closed(slow), 20)


def test_a_body_that_does_not_end_is_refused(site: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a byte of it arrives."""
    monkeypatch.setattr(gate, "BODY_SECONDS", 1.0)
    head = (
        f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{_port(site)}\r\nContent-Length: 1000\r\n"
        f"Origin: {site.url.rstrip('/')}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", _port(site)), 20) as slow:
        slow.sendall(head.encode())
        slow.setblocking(False)
        wait_until(lambda: _drip(slow).startswith(b"HTTP/1.1 408"), 20)


def _drip(connection: socket.socket) -> bytes:
    """Send a byte, and receive what is there."""
    with suppress(OSError):
        connection.send(b"x")
    try:
        return connection.recv(4096)
    except BlockingIOError:
        return b""


def _is_closed(connection: socket.socket) -> bool:
    """Whether the server closes a connection without an answer; waits for either."""
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def test_connections_are_limited(site: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    with ExitStack() as stack:
        for _ in range(3):
            held = socket.create_connection(("127.0.0.1", _port(site)), 10)
            stack.enter_context(held).sendall(b"GET /health HTTP/1.1\r\n")
        another = stack.enter_context(socket.create_connection(("127.0.0.1", _port(site)), 10))
        wait_until(lambda: _is_closed(another), 20)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", "203.0.113.5", "192.0.2.1"),
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("::ffff:10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "198.51.100.9, 203.0.113.5, 10.0.0.2", "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5, made up", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("", "203.0.113.5", ""),
    ],
)
def test_only_trusted_proxies_say_for_whom_they_ask(peer: str, forwarded: str, expected: str) -> None:
    headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})
    assert client_of(peer, headers, networks(["10.0.0.0/8"])) == expected


def test_behind_a_proxy_one_client_does_not_slow_down_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(access, "FIRST_PAUSE", 60.0)
    for proxies, later in ((("127.0.0.1",), 200), ((), 429)):
        folder = tmp_path / f"{later}"
        folder.mkdir()
        with hosted_in(folder, {"proxies": proxies}) as site, site.client() as client:
            wrong = {"Authorization": "Bearer " + "x" * 43, "X-Forwarded-For": "203.0.113.5"}
            right = {"Authorization": f"Bearer {site.tokens['reader']}", "X-Forwarded-For": "203.0.113.6"}
            assert client.get("api/v1/flows", headers=wrong).status_code == 401
            assert client.get("api/v1/flows", headers=right).status_code == later
            assert (
                client.get("api/v1/flows", headers={**right, "X-Forwarded-For": "203.0.113.5"}).status_code
                == 429
            )
    with pytest.raises(UsageError, match="--proxy"):
        networks(["10.0.0.1/8"])


def test_one_host_leaves_requests_and_connections_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_OF_HOST", 4)
    with (
        hosted_in(tmp_path, bounds=gate.GateBounds(requests=8, requests_of_host=2)) as site,
        ExitStack() as open_,
    ):
        there = ("127.0.0.1", int(site.url.rpartition(":")[2].rstrip("/")))
        for _ in range(2):  # requests whose bodies do not end
            slow = open_.enter_context(socket.create_connection(there))
            slow.sendall(
                f"POST /api/v1/preview HTTP/1.1\r\nHost: {there[0]}:{there[1]}\r\nContent-Length: 9\r\n"
                f"Content-Type: application/json\r\n"
                f"Authorization: Bearer {site.tokens['operator']}\r\n\r\n".encode()
            )
        headers = {"Authorization": f"Bearer {site.tokens['reader']}"}
        elsewhere = open_.enter_context(
            httpx.Client(
                base_url=site.url, headers=headers, transport=httpx.HTTPTransport(local_address="127.0.0.2")
            )
        )
        with site.client("reader") as client:
            wait_until(lambda: client.get("api/v1/flows").status_code == 429)
            answer = client.get("api/v1/flows")
            assert int(answer.headers["retry-after"]) >= 1
            assert elsewhere.get("api/v1/flows").status_code == 200
            for _ in range(2):
                open_.enter_context(socket.create_connection(there))
            wait_until(lambda: _is_closed_at_once(there))
        assert elsewhere.get("api/v1/flows").status_code == 200


def _is_closed_at_once(there: tuple[str, int]) -> bool:
    with socket.create_connection(there) as extra:
        extra.settimeout(0.2)
        try:
            return extra.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
