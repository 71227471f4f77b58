"""Changes as server-sent events. A slow reader holds up nobody, and learns if it missed some."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from imageloom.service.feed import Feed, Message

HEARTBEAT = 15.0
"""Seconds after which a stream without messages gets a comment, so that proxies keep it open."""
SLOWEST = 60.0
"""Seconds after which a stream whose reader takes nothing is closed."""
TOGETHER = 0.1
"""Seconds for which messages are collected, to be sent together."""


class Streams:
    """All event streams. They belong to one event loop."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._waiting: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._stop: Callable[[], None] = lambda: None

    def response(self, request: Request) -> Response:
        """The answer to a request for a stream."""
        return _Stream(self, request)

    def open(self) -> None:
        """Begin to listen. Called in the event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._stop = self.feed.listen(self._call)

    def close(self) -> None:
        """End all streams. From any thread."""
        self._is_closed = True
        self._stop()
        self._call()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def _call(self) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for event in self._waiting:
            event.set()

    def enter(self, event: asyncio.Event) -> None:
        self._waiting.add(event)

    def exit(self, event: asyncio.Event) -> None:
        self._waiting.discard(event)


class _Stream(Response):
    """One stream."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, request: Request) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"}, media_type=self.media_type)
        del self.headers["content-length"]
        self._streams = streams
        self._after = request.headers.get("last-event-id", "")
        self._may_go_on: Callable[[], bool] = request.state.may_go_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        self._streams.open()
        event = asyncio.Event()
        self._streams.enter(event)
        sending = asyncio.ensure_future(self._send_all(send, event))
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.exit(event)
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send_all(self, send: Send, event: asyncio.Event) -> None:
        feed = self._streams.feed
        number = feed.number_of(self._after) if self._after else feed.last
        first = "hello"
        if number is None:
            first, number = "reset", feed.last
        await _send(send, f"retry: 1000\nid: {feed.id_of(number)}\nevent: {first}\ndata: {{}}\n\n".encode())
        checked = time.monotonic()
        while not self._streams.is_closed:
            event.clear()
            if time.monotonic() > checked + HEARTBEAT:
                checked = time.monotonic()
                if not await asyncio.to_thread(self._may_go_on):
                    break
            found = feed.after(number)
            if found is None:
                number = feed.last
                await _send(send, f"id: {feed.id_of(number)}\nevent: reset\ndata: {{}}\n\n".encode())
            elif found:
                number = found[-1].number
                await _send(send, b"".join(_encoded(feed, message) for message in found))
                await asyncio.sleep(TOGETHER)
            else:
                try:
                    await asyncio.wait_for(event.wait(), HEARTBEAT)
                except TimeoutError:
                    await _send(send, b": still here\n\n")
        await send({"type": "http.response.body", "body": b""})


async def _send(send: Send, data: bytes) -> None:
    async with asyncio.timeout(SLOWEST):
        await send({"type": "http.response.body", "body": data, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _encoded(feed: Feed, message: Message) -> bytes:
    data = msgspec.json.encode(message.data).decode()
    return f"id: {feed.id_of(message.number)}\nevent: {message.kind}\ndata: {data}\n\n".encode()
