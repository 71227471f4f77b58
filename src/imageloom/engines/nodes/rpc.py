"""The common part of both sides of a call: limits, keep-alive, and the encoding of plain data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import imageloom_pb2_grpc
from imageloom.engines.nodes.config import Credentials
from imageloom.engines.nodes.limits import MOST_SILENT, SHORT_CALLS, CallLimits
from imageloom.engines.nodes.security import (
    TokenCheck,
    channel_credentials,
    read_token,
    server_credentials,
)
from imageloom.errors import InvalidResult, StorageError
from imageloom.model import UNREADABLE, Plain, Result, Task
from imageloom.system.machine import open_files

P = TypeVar("P", bound=Plain)

MOST_BYTES = 16 << 20
"""Maximum size of an answer, in bytes."""
MOST_ASKED = 1 << 20
"""Maximum size of a request, in bytes. A task of 64 items with the longest names is smaller."""
MOST_CONNECTIONS = 1024
"""Maximum number of connections to one server, and at most a quarter of the process's limit of open files."""
HANDSHAKE = 5.0
"""Time-out for the HTTP/2 handshake of a new connection, in seconds."""
IDLE = 10.0
"""Time without a call, in seconds, after which a connection is closed. Clients reconnect automatically."""
KEEP_ALIVE = 10.0
"""Idle time in seconds after which a keep-alive ping is sent."""
KEEP_ALIVE_ANSWER = 5.0
"""Time-out for the answer to a ping, in seconds."""

SERVER = pb.DESCRIPTOR.services_by_name["ImageProcessingServer"].full_name
NODE = pb.DESCRIPTOR.services_by_name["ImageProcessingNode"].full_name

stubs: Any = imageloom_pb2_grpc

_OPTIONS = (
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.keepalive_time_ms", int(1000 * KEEP_ALIVE)),
    ("grpc.keepalive_timeout_ms", int(1000 * KEEP_ALIVE_ANSWER)),
    ("grpc.keepalive_permit_without_calls", 1),
)
_CHANNEL_OPTIONS = (
    *_OPTIONS,
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),  # each channel has its own connection
    ("grpc.enable_http_proxy", 0),
)
_SERVER_OPTIONS = (
    *_OPTIONS,
    ("grpc.max_receive_message_length", MOST_ASKED),
    ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE)),
    ("grpc.max_connection_idle_ms", int(1000 * IDLE)),
    ("grpc.http2.min_ping_interval_without_data_ms", int(500 * KEEP_ALIVE)),
    ("grpc.so_reuseport", 0),  # a port that is in use is an error
)


def open_channel(address: str, own: Credentials) -> grpc.Channel:
    """A channel to an address. It does not connect yet."""
    credentials = channel_credentials(address, own)
    if credentials:
        return grpc.secure_channel(address, credentials, _CHANNEL_OPTIONS)
    return grpc.insecure_channel(address, _CHANNEL_OPTIONS)


def open_async_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """Like `open_channel`, for coroutines of the calling thread."""
    if credentials:
        return grpc.aio.secure_channel(address, credentials, _CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(address, _CHANNEL_OPTIONS)


class Service:
    """A listening gRPC server, with a health service and reflection.

    Args:
        servicer: handles the calls.
        name: full name of its service.
        calls: maximum number of concurrent calls of each method. One client may have half of them.

    Raises:
        UsageError: other machines can reach the address, and it has no TLS or token.
        StorageError: it cannot listen on the address.
    """

    def __init__(self, servicer: object, name: str, address: str, own: Credentials, calls: int) -> None:
        token = read_token(own.token)
        credentials = server_credentials(address, own)
        methods = len(pb.DESCRIPTOR.services_by_name[name.rpartition(".")[2]].methods)
        self._pool = ThreadPoolExecutor(MOST_SILENT + (methods + 2) * max(calls, SHORT_CALLS), "call")
        self._limits = CallLimits(calls)
        self._server = grpc.server(
            self._pool,
            interceptors=[*([TokenCheck(token)] if token else []), self._limits],
            options=(
                *_SERVER_OPTIONS,
                ("grpc.max_concurrent_streams", calls // 2),
                ("grpc.max_allowed_incoming_connections", min(MOST_CONNECTIONS, open_files() // 4)),
            ),
        )
        self._name = name
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        getattr(stubs, f"add_{name.rpartition('.')[2]}Servicer_to_server")(servicer, self._server)
        services = (name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, self._server)
        try:
            if credentials:
                self.port = self._server.add_secure_port(address, credentials)
            else:
                self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            self._limits.close()
            self._pool.shutdown()
            raise StorageError(
                f"cannot listen on {address}: it is in use, or it is not an address of this machine"
            ) from None
        host = address.rpartition(":")[0]
        self.address = address if address.startswith("unix:") else f"{host}:{self.port}"
        self._server.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def _set_health(self, status: Any) -> None:
        for name in ("", self._name):
            self._health.set(name, status)

    def leave(self) -> None:
        """Report that no new calls are accepted."""
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    def close(self, grace: float | None) -> None:
        """Accept no more calls, and end the calls in progress after `grace` seconds."""
        self.leave()
        self._server.stop(grace).wait()
        self._limits.close()
        self._pool.shutdown()


def pack(data: Plain) -> bytes:
    """Encode plain data as MessagePack, without fields that have their default value.

    So an older peer can read data that does not use new fields. It refuses data with unknown fields, because it
    must not ignore a part of the request.
    """
    return msgspec.msgpack.encode(_without_defaults(data))


_READY = msgspec.msgpack.Decoder(tuple[Task, Result])
"""Created before there are threads: msgspec 0.22 crashes if several threads use a type for the first time
together."""


def unpack(data: bytes, kind: type[P]) -> P:
    """Decode the plain data in a message.

    Raises:
        InvalidResult: it is not plain data, has another type, or unknown fields.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except UNREADABLE as error:
        raise InvalidResult(str(error)) from None


def _without_defaults(value: Any) -> Any:
    if isinstance(value, Plain):
        defaults = _defaults(type(value))
        return {
            name: _without_defaults(item)
            for name in value.__struct_fields__
            if (item := getattr(value, name)) != defaults.get(name, msgspec.NODEFAULT)
        }
    return [_without_defaults(one) for one in value] if isinstance(value, tuple) else value


_known: dict[type[Plain], dict[str, Any]] = {}


def _defaults(kind: type[Plain]) -> dict[str, Any]:
    if kind not in _known:
        fields = msgspec.structs.fields(kind)
        _known[kind] = {
            field.name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            for field in fields
            if not field.required
        }
    return _known[kind]
