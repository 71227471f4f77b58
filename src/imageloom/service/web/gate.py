"""The gate: each request is checked here before any other code sees it.

The order: the Host header, the number of requests, who asks, the origin of a change, the role, the size of the
body. Every answer gets the headers that tell a browser what the pages may do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imageloom.errors import ImageloomError
from imageloom.model import Plain
from imageloom.service.web.access import Access, Role
from imageloom.service.web.notify import notified_flow, notify_secret
from imageloom.service.web.problems import Refused, answer
from imageloom.service.web.proxies import Network, client_of

SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/login", "/enter", "/health", "/ready", "/static/")
"""Paths that need no login. Those with a slash at their end are prefixes."""
FOR_ALL = ("/login", "/logout")
"""Paths at which a reader may change something: the own login."""
MOST_BODY = 1 << 20
"""Maximum size of a request's body in bytes, if it is not an upload."""
BODY_SECONDS = 30.0
"""Maximum seconds for a body; for an upload, for its next piece."""
MOST_PATH = 8192

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class GateBounds(Plain, frozen=True):
    """The limits of the HTTP server."""

    requests: int = 64
    """Maximum number of requests in progress, without event streams."""
    requests_of_host: int = 16
    """The same of one host: others still get answers while it sends too many."""
    streams: int = 256
    """Maximum number of event streams."""
    uploads: int = 8
    """Maximum number of uploads in progress."""
    upload_bytes: int = 4 << 30
    """Maximum size of an upload."""


class Gate:
    """An ASGI application around another.

    Args:
        app: the application behind the gate. It finds the role, the cookie's value and, for streams, whether the
            caller may still read, in `scope["state"]`.
        access: who may.
        hosts: the values of Host that are accepted, in lower case.
        is_secure: browsers reach it by TLS only.
        cookie: name of the cookie.
        bounds: its limits.
        proxies: networks of proxies that may say for whom they ask, in X-Forwarded-For.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        hosts: Iterable[str],
        is_secure: bool = False,
        cookie: str = "imageloom",
        bounds: GateBounds = GateBounds(),  # noqa: B008 frozen
        proxies: Sequence[Network] = (),
    ) -> None:
        self._proxies = tuple(proxies)
        self._app, self._access, self._hosts = app, access, frozenset(hosts)
        self._is_secure, self.cookie, self._bounds = is_secure, cookie, bounds
        self._busy = {"requests": 0, "streams": 0, "uploads": 0}
        self._of_host: Counter[str] = Counter()
        """Requests in progress, by host."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        sender = _Sender(send, self._is_secure)
        try:
            await self._pass(scope, receive, sender)
        except ImageloomError as error:
            if sender.has_begun:
                raise
            await answer(error)(scope, receive, sender)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        if scope.get("client"):
            scope["client"] = (client_of(scope["client"][0], headers, self._proxies), 0)
        if len(scope["path"]) + len(scope["query_string"]) > MOST_PATH:
            raise Refused(400, f"an address has at most {MOST_PATH} bytes")
        kind = _kind_of(scope)
        if self._busy[kind] >= getattr(self._bounds, kind):
            raise Refused(429, f"the service has too many {kind} in progress: try again", Retry_After="1")
        host = scope["client"][0] if scope.get("client") and kind == "requests" else ""
        if host and self._of_host[host] >= self._bounds.requests_of_host:
            raise Refused(429, "your host has too many requests in progress: try again", Retry_After="1")
        self._busy[kind] += 1
        self._of_host[host] += 1
        try:
            role, by_cookie = await self._who(scope, headers)
            session = self.session_of(headers)
            scope.setdefault("state", {}).update(
                role=role,
                session=session,
                may_go_on=lambda: not by_cookie or self._access.role_of_session(session) is not None,
            )
            self._check_change(scope, headers, role, by_cookie)
            most = self._bounds.upload_bytes if kind == "uploads" else MOST_BODY
            await self._app(scope, _bounded(receive, headers, most, kind == "uploads"), send)
        finally:
            self._busy[kind] -= 1
            self._of_host[host] -= 1
            if not self._of_host[host]:
                del self._of_host[host]

    def _check_host(self, headers: Headers) -> None:
        """Refuse other names for this server: a page elsewhere could point its own name here (DNS rebinding)."""
        found = headers.getlist("host")
        if len(found) != 1 or found[0].lower() not in self._hosts:
            raise Refused(421, "this server does not serve that host (--host)")

    async def _who(self, scope: Scope, headers: Headers) -> tuple[Role | None, bool]:
        """The role of the caller, and whether it comes from a cookie."""
        host = scope["client"][0] if scope.get("client") else ""
        if flow := notified_flow(scope):
            secret = notify_secret(headers, scope["query_string"])
            if not await asyncio.to_thread(self._access.may_notify, flow, secret, host):
                raise Refused(401, "the secret of the flow is wrong or missing", WWW_Authenticate="Bearer")
            return "notifier", False
        given = headers.get("authorization")
        if given is not None:
            scheme, _, token = given.partition(" ")
            role = self._access.role_of_token(token.strip(), host) if scheme.lower() == "bearer" else None
            if role is None:
                raise Refused(401, "the token is wrong", WWW_Authenticate="Bearer")
            return role, False
        session = self.session_of(headers)
        role = await asyncio.to_thread(self._access.role_of_session, session) if session else None
        if role is None and not _is_open(scope["path"]):
            if scope["method"] in SAFE and "text/html" in headers.get("accept", ""):
                raise Refused(303, "log in first", Location=f"{_root(scope['path'])}login")
            raise Refused(401, "a token is needed: Authorization: Bearer TOKEN", WWW_Authenticate="Bearer")
        return role, True

    def _check_change(self, scope: Scope, headers: Headers, role: Role | None, by_cookie: bool) -> None:
        """Refuse a change that comes from a page elsewhere, or from a reader."""
        if scope["method"] in SAFE:
            return
        origin = headers.get("origin")
        if origin is None:
            is_own = not by_cookie or headers.get("sec-fetch-site") == "same-origin"
        else:
            is_own = origin.partition("://")[2].lower() in self._hosts
        if not is_own:
            raise Refused(403, "a change must come from a page of this server: the origin is another")
        if role == "notifier" and notified_flow(scope):
            return
        if role != "operator" and scope["path"] not in FOR_ALL:
            raise Refused(403, "the token is that of a reader, who changes nothing")

    def session_of(self, headers: Headers) -> str:
        """The value of the cookie; empty if there is none."""
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return ""
        return cookies[self.cookie].value if self.cookie in cookies else ""


def _kind_of(scope: Scope) -> str:
    if scope["path"] == "/api/v1/events":
        return "streams"
    return "uploads" if scope["path"].endswith("/upload") and scope["method"] == "PUT" else "requests"


def _is_open(path: str) -> bool:
    return any(path == one or (one.endswith("/") and path.startswith(one)) for one in OPEN)


def _root(path: str) -> str:
    """The relative address of the first page, from a path: it is also right below a prefix."""
    return "../" * (path.count("/") - 1) or "./"


class _Sender:
    """Sends an answer with the headers for browsers."""

    def __init__(self, send: Send, is_secure: bool) -> None:
        self._send, self._is_secure = send, is_secure
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            if self._is_secure:
                headers["Strict-Transport-Security"] = "max-age=31536000"
        await self._send(message)


def _bounded(receive: Receive, headers: Headers, most: int, is_upload: bool) -> Callable[[], Awaitable[Any]]:
    """Receives a body of at most `most` bytes in time: as a whole, or each piece of an upload."""
    said = headers.get("content-length", "0")
    if not said.isascii() or not said.isdecimal() or int(said[:20]) > most:
        raise Refused(413, f"a body has at most {most:,} bytes")
    count = 0
    is_whole = False
    began = asyncio.get_running_loop().time()

    async def received() -> Any:
        nonlocal count, is_whole
        if is_whole:
            return await receive()  # the end of the connection
        try:
            now = asyncio.get_running_loop().time()
            async with asyncio.timeout_at((now if is_upload else began) + BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            raise Refused(408, "the body did not arrive in time") from None
        count += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if count > most:
            raise Refused(413, f"a body has at most {most:,} bytes")
        return message

    return received
