"""HTTP requests of a client to the service, over the standard library: it needs no extra, and starts fast.

Each thread keeps one connection. An answer with an error becomes an exception of imageloom's own tree.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from imageloom.errors import (
    ImageloomError,
    ServerBusy,
    StorageError,
    TaskRefused,
    UnknownName,
    UsageError,
    WrongState,
)
from imageloom.system.machine import is_loopback

TOKEN, TOKEN_FILE = "IMAGELOOM_TOKEN", "IMAGELOOM_TOKEN_FILE"
"""Variables of the environment: a token, and the path of a file whose first line is one."""
ROOT = "api/v1"
MOST_ERROR = 64 << 10
"""Maximum number of bytes that are read of an answer with an error."""
LONGEST_WAIT = 60.0
"""Maximum seconds before a request that was too much is repeated."""

_ERRORS: dict[int, type[ImageloomError]] = {
    403: TaskRefused,
    404: UnknownName,
    409: WrongState,
    429: ServerBusy,
}
_GONE = (HTTPException, ConnectionError, ssl.SSLEOFError)

Body = bytes | IO[bytes] | Iterable[bytes]


def token_of(token: str | None, file: str | os.PathLike[str] | None) -> str:
    """The token: the one that is given, that in the file, or that of the environment.

    Raises:
        UsageError: there is none, or it is not ASCII.
        StorageError: the file cannot be read.
    """
    found = token or (None if file else os.environ.get(TOKEN))
    path = file or os.environ.get(TOKEN_FILE)
    if not found and path:
        try:
            found = Path(path).read_text("ascii").partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read the token in {os.fspath(path)}: {error}") from None
    if not found:
        raise UsageError(
            f"the service needs a token: give it or its file, or set {TOKEN} or {TOKEN_FILE} (`imageloom serve` "
            "prints where its tokens are)"
        )
    if not found.isascii() or not found.isprintable():
        raise UsageError("the token is not valid: it has only printable ASCII characters")
    return found


class Connection:
    """Requests to one service. It may be used from several threads.

    Args:
        url: address of the service, also below a prefix of a proxy.
        token: see `token_of`.
        timeout: seconds without any progress after which a request fails.
        authority: path of a file with the certificates to trust; empty for those of the system.

    Raises:
        UsageError: the address is not valid, or would send the token in the clear.
    """

    def __init__(self, url: str, token: str, timeout: float, authority: str = "") -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise UsageError(f"{url} is no address of a service: expected http://HOST:PORT or https://HOST")
        if parts.username is not None:
            raise UsageError("the address must not contain a user or password: give the token apart")
        if parts.scheme == "http" and not is_loopback(host):
            raise UsageError(f"{url}: the token would be sent in the clear: use https")
        self.url = url.rstrip("/") + "/"
        self._host, self._port, self._prefix = host, port, parts.path.rstrip("/")
        self._token, self._timeout = token, timeout
        self._context = _context(authority) if parts.scheme == "https" else None
        self._kept = threading.local()
        self._all: set[HTTPConnection] = set()

    def close(self) -> None:
        for connection in list(self._all):
            connection.close()
        self._all.clear()

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        data: object = None,
        patience: float = 10.0,
    ) -> bytes:
        """Send a request, and return the answer's body. One that was too much is repeated.

        Args:
            path: below the root of the interface.
            data: the body, which is sent as JSON; None for none.
            patience: seconds within which it is repeated.

        Raises:
            UnknownName, WrongState, UsageError, TaskRefused: the service does not accept it.
            ServerBusy: the service is at a limit.
            StorageError: the service cannot be reached, or has failed.
        """
        body = None if data is None else msgspec.json.encode(data)
        media = {} if body is None else {"Content-Type": "application/json"}
        until = time.monotonic() + patience
        while True:
            answer = self._send(method, _target(path, query), body, media)
            found = self._read(answer)
            wait = _retry_after(answer)
            if answer.status == 429 and time.monotonic() + wait < until:
                time.sleep(wait)
                continue
            if answer.status >= 300:
                raise error_of(answer.status, found)
            return found

    def upload(self, path: str, query: Mapping[str, object], data: Body, size: int | None) -> bytes:
        """Send a body piece by piece. Raises the errors of `ask`."""
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        connection = self._new()
        try:
            answer = self._on(connection, "PUT", _target(path, query), data, headers)
            found = self._read(answer)
        finally:
            self._drop(connection)
        if answer.status >= 300:
            raise error_of(answer.status, found)
        return found

    def stream(self, path: str, headers: Mapping[str, str], silence: float) -> Stream:
        """Begin to read a stream, on a connection of its own. Raises the errors of `ask`.

        Args:
            silence: seconds without a byte after which it counts as broken.
        """
        connection = self._new(silence)
        try:
            answer = self._on(connection, "GET", _target(path, None), None, headers)
            if answer.status >= 300:
                raise error_of(answer.status, self._read(answer))
        except BaseException:
            self._drop(connection)
            raise
        return Stream(answer, lambda: self._drop(connection))

    # Connections

    def _send(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> HTTPResponse:
        connection: HTTPConnection | None = getattr(self._kept, "connection", None)
        if connection is not None:
            if connection.sock is not None and method == "GET":
                with suppress(*_GONE):  # the service has closed it meanwhile
                    return self._raw(connection, method, target, body, headers)
            self._drop(connection)  # a change is sent on a new one: it must not be repeated
        connection = self._kept.connection = self._new()
        return self._on(connection, method, target, body, headers)

    def _on(
        self,
        connection: HTTPConnection,
        method: str,
        target: str,
        body: Body | None,
        headers: Mapping[str, str],
    ) -> HTTPResponse:
        try:
            return self._raw(connection, method, target, body, headers)
        except BrokenPipeError:  # it was refused before its end: the answer says why
            with suppress(HTTPException, OSError):
                return connection.getresponse()
            raise StorageError(f"the service {self.url} has closed the connection") from None
        except (HTTPException, OSError) as error:
            self._drop(connection)
            raise self._unreachable(error) from None

    def _raw(
        self,
        connection: HTTPConnection,
        method: str,
        target: str,
        body: Body | None,
        headers: Mapping[str, str],
    ) -> HTTPResponse:
        given = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", **headers}
        connection.request(method, f"{self._prefix}/{ROOT}{target}", body, given)
        return connection.getresponse()

    def _new(self, timeout: float | None = None) -> HTTPConnection:
        seconds = timeout or self._timeout
        connection: HTTPConnection
        if self._context:
            connection = HTTPSConnection(self._host, self._port, timeout=seconds, context=self._context)
        else:
            connection = HTTPConnection(self._host, self._port, timeout=seconds)
        self._all.add(connection)
        return connection

    def _drop(self, connection: HTTPConnection) -> None:
        connection.close()
        self._all.discard(connection)

    def _read(self, answer: HTTPResponse) -> bytes:
        try:
            return answer.read(MOST_ERROR) if answer.status >= 300 else answer.read()
        except (HTTPException, OSError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> StorageError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return StorageError(
            f"cannot reach the service {self.url}: {reason} (is `imageloom serve` running there?)"
        )


class Stream:
    """The lines of an answer that does not end."""

    def __init__(self, answer: HTTPResponse, close: Any) -> None:
        self._answer, self.close = answer, close
        self.media = answer.headers.get_content_type()

    def line(self) -> str | None:
        """The next line without its end; None if the stream has ended or is broken."""
        try:
            data = self._answer.readline(1 << 20)
        except (HTTPException, OSError, ValueError):
            return None
        return data.decode(errors="replace").rstrip("\r\n") if data else None


def error_of(status: int, body: bytes) -> ImageloomError:
    """The exception for an answer."""
    try:
        detail = str(msgspec.json.decode(body)["detail"])
    except (msgspec.DecodeError, TypeError, KeyError, UnicodeDecodeError):
        detail = http.client.responses.get(status, "an answer that is not of imageloom")
        detail = f"the service answered {status}: {detail}"
    if status >= 500 or status < 400:
        return StorageError(detail)
    return _ERRORS.get(status, UsageError)(detail)


def _retry_after(answer: HTTPResponse) -> float:
    text = answer.headers.get("Retry-After", "1")
    return min(LONGEST_WAIT, float(text)) if text.isascii() and text.isdecimal() else 1.0


def _target(path: str, query: Mapping[str, object] | None) -> str:
    found = quote(path)
    given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
    return f"{found}?{urlencode(given)}" if given else found


def _context(authority: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use the certificates in {authority}: {error}") from None
