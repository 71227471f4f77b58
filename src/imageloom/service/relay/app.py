"""The requests of workers: pieces of the source's files, and pieces of outputs."""

from __future__ import annotations

import asyncio
import hmac
import os
import re
from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from imageloom.errors import ItemError, StorageError, UnreadableItem
from imageloom.model import Item
from imageloom.service.relay.uploads import Uploads
from imageloom.stores.files import check_planned, check_regular
from imageloom.stores.local import LocalStore
from imageloom.stores.names import unsafe
from imageloom.stores.relay import CHECKSUM, PIECE, SIZE, Refusal, checksum

MOST_REQUESTS = 64
"""Maximum number of requests in progress: each holds at most one piece in memory."""
BODY_SECONDS = 30.0
"""Seconds within which a body must have arrived."""
_NUMBER = re.compile(r"[0-9]{1,19}")


class Badge:
    """ASGI: refuses requests without the run's token before anything of them is read.

    Args:
        token: the secret of the run.
        know: called with host and port of each client that has the token.
    """

    def __init__(self, app: ASGIApp, token: str, know: Callable[[str, int], None]) -> None:
        self._app, self._expected, self._know = app, f"Bearer {token}".encode(), know
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
            await Response(status_code=401, headers={"Connection": "close"})(scope, receive, send)
            return
        self._know(*scope["client"])
        if self._busy >= MOST_REQUESTS:
            await Response(status_code=429, headers={"Connection": "close"})(scope, receive, send)
            return
        self._busy += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._busy -= 1


class Relayed:
    """Answers the requests of workers.

    Args:
        source: the run's source.
        uploads: the outputs that may be sent.
    """

    def __init__(self, source: LocalStore, uploads: Uploads) -> None:
        self._source, self._uploads = source, uploads

    def application(self, token: str, know: Callable[[str, int], None]) -> ASGIApp:
        """The ASGI application: see `Badge`."""
        routes = [
            Route("/source/{key:path}", self._read, methods=["GET"]),
            Route("/sink/{token}", self._write, methods=["PUT"]),
            Route("/sink/{token}", self._discard, methods=["DELETE"]),
        ]
        handlers = {ItemError: _refused, StorageError: _refused, TimeoutError: _late}
        inner = Starlette(routes=routes, exception_handlers=handlers)
        inner.router.redirect_slashes = False
        return Badge(inner, token, know)

    async def _read(self, request: Request) -> Response:
        key, query = request.path_params["key"], request.query_params
        if reason := unsafe(key):
            raise UnreadableItem(reason)
        planned = Item(key, _number(query, "size"), _number(query, "mtime")) if "mtime" in query else None
        at, length = _number(query, "at"), min(_number(query, "length"), PIECE)
        data, size = await asyncio.to_thread(self._piece, key, at, length, planned)
        return Response(data, headers={CHECKSUM: checksum(data), SIZE: str(size)})

    def _piece(self, key: str, at: int, length: int, planned: Item | None) -> tuple[bytes, int]:
        try:
            file = self._source.open(key)
            try:
                size = check_regular(file).st_size
                data = os.pread(file, length, at)
                if planned:
                    check_planned(file, planned)
                return data, size
            finally:
                os.close(file)
        except OSError as error:
            raise UnreadableItem(f"cannot read it: {error.strerror}") from None

    async def _write(self, request: Request) -> Response:
        token, query = request.path_params["token"], request.query_params
        async with asyncio.timeout(BODY_SECONDS):
            data = await _body(request)
        if request.headers.get(CHECKSUM) != checksum(data):
            raise UnreadableItem("a piece of an output was damaged on its way")
        at, total = _number(query, "at"), _number(query, "total")
        await asyncio.to_thread(self._uploads.write, token, at, total, data)
        return Response()

    async def _discard(self, request: Request) -> Response:
        await asyncio.to_thread(self._uploads.discard, request.path_params["token"])
        return Response()


async def _body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        UnreadableItem: it has more than `PIECE` bytes.
    """
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > PIECE:
            raise UnreadableItem(f"a piece of an output has more than {PIECE:,} bytes")
        parts.append(part)
    return b"".join(parts)


def _number(query: QueryParams, name: str) -> int:
    text = query.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise UnreadableItem(f"{name} is not a number")
    return int(text)


async def _refused(request: Request, error: Exception) -> Response:
    refusal = Refusal(type(error).__name__, str(error))
    return Response(msgspec.json.encode(refusal), 409, {"Connection": "close"}, "application/json")


async def _late(request: Request, error: Exception) -> Response:
    return Response(status_code=408, headers={"Connection": "close"})
