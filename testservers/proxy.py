"""An HTTP proxy on loopback that goes wrong as it is told: refusals, cuts, answers that are lost, delays.

with FaultyProxy(swift.port, lambda request: "refuse" if request.number == 3 else None) as proxy:
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
"""

from __future__ import annotations

import contextlib
import socketserver
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from io import BufferedIOBase
from typing import Literal, NamedTuple

Fault = Literal["refuse", "throttle", "cut request", "lose answer", "cut answer"]
"""503 or 429 instead of an answer; the request ends in its middle; it is carried out and its answer never comes;
the answer ends in its middle."""


class Request(NamedTuple):
    """A request as the proxy sees it."""

    number: int
    """Of all requests, from 1 on."""
    method: str
    path: str
    headers: dict[str, str]
    """By their names in lower case."""
    size: int
    """Bytes of the body."""


class FaultyProxy:
    """A proxy in front of a port; it ends with the block.

    Args:
        port: on loopback, what is behind it.
        fault: what goes wrong with a request; called in the connection's thread.
        delay: seconds that each request takes longer.
    """

    def __init__(
        self, port: int, fault: Callable[[Request], Fault | None] = lambda request: None, delay: float = 0.0
    ) -> None:
        self._behind = port
        self._fault = fault
        self._delay = delay
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._at_once = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, reader: BufferedIOBase, send: Callable[[bytes], object], behind: HTTPConnection) -> bool:
        """One request and its answer; whether the connection goes on."""
        line = reader.readline()
        if not line:
            return False
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while field := reader.readline().decode("latin-1").strip():
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", "0")))
        with self._lock:
            request = Request(len(self.requests) + 1, method, path, headers, len(body))
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self._delay)
            return self._answer(request, body, send, behind)
        finally:
            with self._lock:
                self._at_once -= 1

    def _answer(
        self, request: Request, body: bytes, send: Callable[[bytes], object], behind: HTTPConnection
    ) -> bool:
        fault = self._fault(request)
        if fault in ("refuse", "throttle"):
            status = "503 Service Unavailable" if fault == "refuse" else "429 Too Many Requests"
            send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            return True
        behind.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            behind.putheader(name, value)
        behind.endheaders()
        if fault == "cut request":
            behind.send(body[: len(body) // 2])
            return False
        behind.send(body)
        answer = behind.getresponse()
        data = answer.read()
        if fault == "lose answer":
            return False
        head = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        skipped = ("content-length", "transfer-encoding", "connection")
        head += [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in skipped]
        length = answer.getheader("content-length") if request.method == "HEAD" else str(len(data))
        head.append(f"Content-Length: {length or 0}")
        if fault == "cut answer":
            data = data[: len(data) // 2]
        send("\r\n".join([*head, "", ""]).encode("latin-1") + data)
        return fault is None


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    proxy: FaultyProxy


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        behind = HTTPConnection("127.0.0.1", self.server.proxy._behind, timeout=30)
        with contextlib.suppress(OSError), contextlib.closing(behind):
            while self.server.proxy.serve(self.rfile, self.wfile.write, behind):
                pass
