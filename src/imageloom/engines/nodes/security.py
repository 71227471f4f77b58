"""Authentication and encryption: TLS and a token. They are required if other machines can reach the address.

The token is a secret that both sides have in a file. It is sent with each call, so it needs TLS except on
loopback.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import grpc

from imageloom.engines.nodes.config import Credentials, is_local
from imageloom.errors import StorageError, UsageError

HEADER = "authorization"
OPEN_TO_ALL = "/grpc.health.v1.Health/Check"
"""Methods that need no token: the health check."""


def read_token(path: str) -> str:
    """Read the token in the first line of a file. It is empty without a file.

    Raises:
        StorageError: the file cannot be read.
        UsageError: the file is empty.
    """
    if not path:
        return ""
    token = _read(path).decode("ascii", "replace").partition("\n")[0].strip()
    if not token:
        raise UsageError(f"the token file {path} is empty")
    return token


def server_credentials(address: str, own: Credentials) -> grpc.ServerCredentials | None:
    """The credentials of a server that listens on this address; None on loopback, where none are needed.

    Raises:
        UsageError: other machines can reach the address, and the certificate or the token is missing.
    """
    if bool(own.certificate) != bool(own.key):
        raise UsageError("TLS needs both a certificate and its key (--certificate, --key)")
    if not is_local(address) and not (own.certificate and own.token):
        raise UsageError(
            f"other machines can reach {address}: it needs TLS and a token (--certificate, --key, --token)"
        )
    if not own.certificate:
        return None
    return grpc.ssl_server_credentials([(_read(own.key), _read(own.certificate))])


def channel_credentials(address: str, own: Credentials) -> grpc.ChannelCredentials | None:
    """The credentials of a client that connects to this address; None without TLS.

    Raises:
        UsageError: the address is on another machine, and no authority is given.
    """
    if own.authority:
        return grpc.ssl_channel_credentials(_read(own.authority))
    if not is_local(address):
        raise UsageError(f"{address} is on another machine: it needs TLS (--authority FILE)")
    return None


class TokenCheck(grpc.ServerInterceptor):
    """Refuses calls without the token, before their messages are read."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusal: Any = grpc.stream_stream_rpc_method_handler(_refuse)  # it does not wait for a message

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        given = next((value for key, value in details.invocation_metadata if key == HEADER), "")
        given = given if isinstance(given, bytes) else given.encode()
        if details.method == OPEN_TO_ALL or hmac.compare_digest(given, self._expected):
            return continuation(details)
        return self._refusal


def _refuse(requests: Any, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong (--token FILE)")


def token_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of each call."""
    return ((HEADER, f"Bearer {token}"),) if token else ()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
