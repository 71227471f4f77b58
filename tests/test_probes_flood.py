"""`--health` under ten times the connections that it takes: probes are answered, images are done."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imageloom.bench.samples import draw_photos
from program import contents, start

GATE = """
import time
from pathlib import Path
from imageloom import Pixels, operator

@operator("point", examples=("gate",))
def gate(image: Pixels) -> Pixels:
    while not Path({!r}).exists():
        time.sleep(0.01)
    return image
"""
MOST = 64
"""Connections that it keeps."""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that waits until `open` is there, and that may not open many files."""
    draw_photos(tmp_path / "photos", 60)
    (tmp_path / "gate.py").write_text(GATE.format(str(tmp_path / "open")))

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    running = start(
        *("run", "gate | resize 64x64", tmp_path / "photos", tmp_path / "out", "--health", "0", "-j", 2),
        *("--operators", tmp_path / "gate.py", "--ledger", tmp_path / "ledger.db"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=few_files,
    )
    yield running
    (tmp_path / "open").touch()
    running.terminate()
    running.communicate(timeout=20)


def where(running: subprocess.Popen[str]) -> tuple[str, int]:
    assert running.stderr is not None
    line = next(line for line in running.stderr if line.startswith("health "))
    host, _, port = line.split()[1].rpartition(":")
    return host, int(port)


def ask(address: tuple[str, int], path: str = "/health", method: str = "GET") -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=5)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextlib.contextmanager
def half_open(address: tuple[str, int], count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that begin a request; the flood goes on where some are turned away."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                made.append(stack.enter_context(socket.create_connection(address, 5)))
                made[-1].sendall(said)
        yield made


@pytest.mark.parametrize(
    "said", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nX: "], ids=["silent", "line", "header"]
)
def test_ten_times_as_many_half_open_requests_cost_no_image_and_no_probe(
    program: subprocess.Popen[str], tmp_path: Path, said: bytes
) -> None:
    address = where(program)
    process = psutil.Process(program.pid)
    before = process.memory_info().rss
    with half_open(address, 10 * MOST, said) as made:
        for path in ("/health", "/ready", "/metrics"):
            began = time.monotonic()
            assert ask(address, path)[0] == 200
            assert time.monotonic() - began < 3
        taken = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
        assert len(taken) <= MOST
        assert process.memory_info().rss - before < 100 << 20
        made[0].settimeout(5)
        assert made[0].recv(100).startswith(b"HTTP/1.1 503 "), "the oldest one is told why"
        (tmp_path / "open").touch()
        out, errors = program.communicate(timeout=60)
    assert program.returncode == 0, errors
    assert "60 of 60 done, 0 failed" in out
    assert len(contents(tmp_path / "out")) == 60


def test_what_is_no_small_request_is_refused_by_its_status(program: subprocess.Popen[str]) -> None:
    address = where(program)
    assert ask(address, "/health", "HEAD") == (200, b"")
    for method in ("POST", "PUT", "DELETE"):
        assert ask(address, "/health", method)[0] == 405
    for said, status in (
        (b"GET /health HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"a" * 100_000, b"431"),
        (b"\x16\x03\x01 hello\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1 \xff\r\n\r\n", b"400"),
    ):
        with socket.create_connection(address, 5) as raw:
            raw.sendall(said)
            assert raw.recv(100).split()[1] == status


def test_who_sends_a_byte_now_and_then_is_cut_off(program: subprocess.Popen[str]) -> None:
    with socket.create_connection(where(program), 5) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\n")
        raw.settimeout(0.5)
        until = time.monotonic() + 8
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    if raw.recv(1) == b"":
                        break
                raw.sendall(b"x")
        assert time.monotonic() < until
