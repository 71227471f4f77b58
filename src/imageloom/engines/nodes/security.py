"""Who may talk to whom: TLS and a token, which are asked for wherever another machine could listen in.

The token is a secret that both sides have in a file. It travels with each call, so it needs TLS off loopback.
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
"""What may be asked without a token: whether the service is up."""


def read_token(path: str) -> str:
    """The secret in the first line of a file; empty without a file.

    Raises:
        StorageError: the file cannot be read.
        UsageError: it is empty.
    """
    if not path:
        return ""
    token = _read(path).decode("ascii", "replace").partition("\n")[0].strip()
    if not token:
        raise UsageError(f"the token file {path} is empty")
    return token


def server_credentials(address: str, own: Credentials) -> grpc.ServerCredentials | None:
    """What a server that listens there shows; None on loopback, where nothing is asked for.

    Raises:
        UsageError: others could reach the address, and there is no certificate or no token.
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
    """How the side that connects checks the other one; None without TLS.

    Raises:
        UsageError: the address is another machine's, and no authority is given.
    """
    if own.authority:
        return grpc.ssl_channel_credentials(_read(own.authority))
    if not is_local(address):
        raise UsageError(f"{address} is on another machine: it needs TLS (--authority FILE)")
    return None


class TokenCheck(grpc.ServerInterceptor):
    """Refuses calls that do not carry the token, before any message of theirs is read."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusal: Any = grpc.stream_stream_rpc_method_handler(_refuse)  # it waits for no message

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
    """What each call carries."""
    return ((HEADER, f"Bearer {token}"),) if token else ()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
