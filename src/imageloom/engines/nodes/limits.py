"""Limits on the number of concurrent calls to a gRPC server: per method, per client, and without a message.

gRPC uses a thread for each call, even if its message never arrives. Here a call waits a few seconds for its
message, and the number of such calls is limited. Above the limit, the oldest call of the client with the most
calls is refused. A call whose message has arrived counts towards the limits of its method and its client.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc

FIRST_MESSAGE = 5.0
"""Time-out for the message of a call, in seconds."""
MOST_SILENT = 64
"""Maximum number of concurrent calls without a message."""
SHORT_CALLS = 32
"""Maximum number of concurrent calls of a method that answers at once."""
UNBOUNDED = ("/grpc.health.v1.Health/Watch",)
"""Methods that are not served, because a client could keep their calls open forever."""


@dataclass(eq=False)
class _SilentCall:
    """A call that waits for its message."""

    client: str
    until: float
    refuse: Callable[[grpc.StatusCode, str], None]


class CallLimits(grpc.ServerInterceptor):
    """Limits on calls.

    Args: calls: maximum number of concurrent calls of each method with a stream of answers. One client may have
        half.
    """

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._silent: list[_SilentCall] = []
        """Calls without a message, the oldest first."""
        self._running: Counter[str] = Counter()
        """Number of calls by method, and by method and client."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._expire, name="call-limits", daemon=True)
        self._watch.start()

    def close(self) -> None:
        self._closing.set()
        self._watch.join()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = continuation(details)
        if handler is None or details.method in UNBOUNDED:
            return None
        return self._bounded(handler, details.method)

    def _bounded(self, handler: Any, method: str) -> Any:
        """The handler with the limits. It is called when a message has arrived."""
        function = next(
            function
            for function in (
                handler.unary_unary,
                handler.unary_stream,
                handler.stream_unary,
                handler.stream_stream,
            )
            if function
        )

        def behave(
            requests: Iterator[Any], context: grpc.ServicerContext, send: Callable[[Any], None]
        ) -> None:
            client = client_of(context.peer())
            messages = self._messages(requests, context, send, client)
            for first in messages:  # no message if the call is refused
                with self._room(method, client, handler.response_streaming, context):
                    given = _chained(first, messages) if handler.request_streaming else first
                    answer = function(given, context)
                    if not handler.response_streaming:
                        send(answer)
                    else:
                        with closing(answer):
                            for response in answer:
                                send(response)
                                if not context.is_active():
                                    return
                send(None)
                return

        # The call is answered only by `send`, so that another thread can refuse it.
        behave.experimental_non_blocking = True  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(
            behave, handler.request_deserializer, handler.response_serializer
        )

    def _messages(
        self,
        requests: Iterator[Any],
        context: grpc.ServicerContext,
        send: Callable[[Any], None],
        client: str,
    ) -> Iterator[Any]:
        """Yield a call's messages, each within its time-out. It ends when the call is refused."""

        def refuse(code: grpc.StatusCode, reason: str) -> None:
            context.set_code(code)
            context.set_details(reason)
            with suppress(Exception):  # gRPC raises if the call has just ended
                if context.is_active():
                    send(None)

        is_first = True
        while True:
            call = _SilentCall(client, time.monotonic() + FIRST_MESSAGE, refuse)
            self._wait_for_message(call)
            try:
                message = next(requests, None)
            finally:
                was_waiting = self._has_message(call)
            if not was_waiting:
                return
            if message is None:
                if is_first:
                    refuse(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
                return
            is_first = False
            yield message

    def _wait_for_message(self, call: _SilentCall) -> None:
        with self._lock:
            self._silent.append(call)
            if len(self._silent) <= MOST_SILENT:
                return
            waiting = Counter(one.client for one in self._silent)
            most = max(waiting.values())
            oldest = next(one for one in self._silent if waiting[one.client] == most)
            self._silent.remove(oldest)
        oldest.refuse(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MOST_SILENT} open calls have not sent a message"
        )

    def _has_message(self, call: _SilentCall) -> bool:
        """Note that a call's message has arrived. Returns whether the call was still waiting."""
        with self._lock:
            if call not in self._silent:
                return False
            self._silent.remove(call)
            return True

    def _expire(self) -> None:
        """Refuse the calls whose message is overdue."""
        while not self._closing.wait(0.2):
            now = time.monotonic()
            with self._lock:
                late = [call for call in self._silent if call.until < now]
                self._silent = [call for call in self._silent if call.until >= now]
            for call in late:
                call.refuse(
                    grpc.StatusCode.DEADLINE_EXCEEDED, f"no message was received within {FIRST_MESSAGE:g} s"
                )

    @contextmanager
    def _room(self, method: str, client: str, is_long: bool, context: grpc.ServicerContext) -> Iterator[None]:
        most = self._calls if is_long else SHORT_CALLS
        own = f"{method} {client}"
        with self._lock:
            full = self._running[method] >= most
            is_greedy = self._running[own] >= most // 2
            if not full and not is_greedy:
                self._running.update((method, own))
        name = method.rpartition("/")[2]
        if full or is_greedy:
            whose = "in all" if full else "of one client"
            bound = most if full else most // 2
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"there are already {bound} calls of {name} {whose}: try again later "
                "(server: --max-calls; node: --limit)",
            )
        try:
            yield
        finally:
            with self._lock:
                self._running.subtract((method, own))
                if not self._running[own]:
                    del self._running[own]


def client_of(peer: str) -> str:
    """The client of a call: the remote machine, or for this machine the connection.

    Args:
        peer: in the format of gRPC: ipv4:HOST:PORT, ipv6:%5BHOST%5D:PORT, unix:PATH.
    """
    host = host_of(peer)
    return peer if not host or host.startswith("127.") or host == "::1" else host


def host_of(peer: str) -> str:
    """The address of the machine that makes a call; empty for a unix socket."""
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    return host.removeprefix("::ffff:") if kind in ("ipv4", "ipv6") else ""


def _chained(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others
