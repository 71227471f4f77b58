"""The protocol of the engine zeromq: messages, addresses, and the keys of both sides.

A message has three parts: a header with the protocol and its version, a kind, and a body in MessagePack. Pickle is
not used. Workers send to the server's port. The next port is the control channel, which sends to all workers.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import zmq
from zmq.utils import z85

from imageloom.errors import StorageError, UsageError
from imageloom.model import UNREADABLE, Plain

VERSION = 2
PROTOCOL = b"imageloom/"
HEADER = PROTOCOL + b"%d" % VERSION
MOST_TOLD = 1 << 20
"""Maximum size of a message to the server, in bytes. The sender of a larger one is disconnected."""
MOST_ASKED = 16 << 20
"""Maximum size of a message to a worker, in bytes."""
MOST_SUBSCRIBED = 4096
"""Maximum size of a message to the control channel, in bytes: subscribers only send short messages."""
MOST_WAITING = 64
"""Maximum number of unread messages of one sender. Then the sender is blocked."""
HANDSHAKE = 5000
"""Time-out for the authentication of a new connection, in milliseconds."""
BACKLOG = 128
"""Maximum number of connections that wait to be accepted."""

P = TypeVar("P", bound=Plain)
log = logging.getLogger("imageloom.zeromq")


class Hello(Plain, frozen=True, omit_defaults=True):
    """A worker's first message."""

    host: Annotated[str, msgspec.Meta(pattern=r"\A[\w.:%-]{1,253}\Z")]
    pid: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    previous: Annotated[bytes, msgspec.Meta(max_length=255)] = b""
    """Its previous routing id, if it has dropped all deliveries that it had under that id."""
    local: bytes = b""
    """A token that the server gives to the workers that it has started itself."""


class Welcome(Plain, frozen=True):
    """The server's answer."""

    control: int
    """Port of the control channel."""
    heartbeat: float
    """Seconds between two heartbeats, in both directions."""
    silence: float
    """Time-out of heartbeats in seconds. After it, the other side counts as lost."""


class Beat(Plain, frozen=True):
    """A worker's heartbeat."""

    holding: Annotated[tuple[int, ...], msgspec.Meta(max_length=4096)]
    """The numbers of the deliveries that it has."""


class Delivery(Plain, frozen=True):
    """A delivery that the worker must drop, except for the item in progress."""

    number: int


def body_of(kind: type[P], body: bytes) -> P | None:
    """Decode a message's body. If it is invalid, this is logged, and None is returned."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except UNREADABLE as error:
        log.warning("ignored data that is not a %s: %s", kind.__name__, error)
        return None


# Addresses


def split(address: str) -> tuple[str, str]:
    """Host and port of an address; the port may be an asterisk.

    Raises:
        UsageError: the address is invalid.
    """
    found = re.fullmatch(r"tcp://(\[[0-9a-fA-F:.%\w]+\]|[^:/\s]+):(\d{1,5}|\*)", address)
    if found is None:
        raise UsageError(f"{address!r} is not an address, such as tcp://127.0.0.1:5555")
    return found[1], found[2]


def check_secured(address: str, keys: object, file: str) -> None:
    """Require keys, also on this machine, because any user who can connect to a port could exhaust the memory.

    Raises:
        UsageError: there are no keys. The message has the command that makes them.
    """
    split(address)
    if not keys:
        raise UsageError(
            f"{address} needs keys: make them with `imageloom keys DIR`, then give --keys DIR/{file}.key"
        )


# Keys


class ServerKeys(Plain, frozen=True):
    """CURVE keys of the driver's side, as text in Z85."""

    public: str
    secret: str
    clients: dict[str, str]
    """The public keys of all workers that may connect, by name."""


class ClientKeys(Plain, frozen=True):
    """CURVE keys of a worker."""

    public: str
    secret: str
    server: str
    """The public key of the server that it trusts."""


def new_server_keys() -> ServerKeys:
    """New keys of a server without clients."""
    return ServerKeys(*_pair(), {})


def add_clients(server: ServerKeys, *names: str) -> tuple[ServerKeys, dict[str, ClientKeys]]:
    """The server's keys with new clients added, and the keys of each new client by name."""
    clients = {name: ClientKeys(*_pair(), server.public) for name in names}
    known = server.clients | {name: keys.public for name, keys in clients.items()}
    return msgspec.structs.replace(server, clients=known), clients


def _pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def read_keys(path: str, kind: type[P]) -> P:
    """Read the keys from a file.

    Raises:
        UsageError: the file cannot be read, or is not a file of keys.
    """
    side = "server" if kind is ServerKeys else "client"
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except OSError as error:
        raise UsageError(f"cannot read the keys {path}: {error.strerror}") from None
    except UNREADABLE:
        raise UsageError(f"{path} is not a file of {side} keys made by `imageloom keys`") from None


def make_keys(folder: str, names: Sequence[str]) -> list[str]:
    """Make `server.key` if it does not exist, and a file of keys for each client. Returns the paths of all files.

    Raises:
        UsageError: a client with this name has keys already.
        StorageError: the folder is not writable.
    """
    path = os.path.join(folder, "server.key")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        server = read_keys(path, ServerKeys) if os.path.exists(path) else new_server_keys()
        for name in names:
            if not re.fullmatch(r"[\w.-]+", name) or name == "server":
                raise UsageError(f"{name!r} is not a name of a client: use letters, digits, dots and dashes")
            if name in server.clients:
                raise UsageError(f"{path} already has a client {name!r}: choose another name (--client)")
        server, clients = add_clients(server, *names)
        made = {os.path.join(folder, f"{name}.key"): keys for name, keys in clients.items()}
        for target, keys in [*made.items(), (path, server)]:
            _write(target, keys)
    except OSError as error:
        raise StorageError(f"cannot write keys into {folder}: {error.strerror}") from None
    return [path, *made]


def _write(path: str, keys: Plain) -> None:
    """Write keys into a file that only its owner may read, atomically."""
    beside = f"{path}.{os.getpid()}"
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(keys)) + b"\n")
    os.replace(beside, path)


def secure_server(socket: zmq.Socket[bytes], keys: ServerKeys) -> None:
    """Make a listening socket accept only encrypted connections, of clients that `authenticate` accepts."""
    socket.curve_server = True
    socket.curve_secretkey = keys.secret.encode()
    socket.zap_domain = b"imageloom"


def secure_client(socket: zmq.Socket[bytes], keys: ClientKeys) -> None:
    socket.curve_serverkey = keys.server.encode()
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()


def authenticate(channel: zmq.Socket[bytes], keys: ServerKeys) -> None:
    """Answer one request of libzmq: whether a client may connect (ZAP, RFC 27 of ZeroMQ)."""
    version, request, _, address, _, mechanism, *credentials = channel.recv_multipart()
    known = {z85.decode(public) for public in keys.clients.values()}
    if mechanism == b"CURVE" and credentials and credentials[0] in known:
        verdict = [b"200", b"OK"]
    else:
        log.warning("refused %s: its key is unknown", address.decode(errors="replace"))
        verdict = [b"400", b"its key is not known"]
    channel.send_multipart([version, request, *verdict, b"", b""])


def options(socket: zmq.Socket[Any], address: str, most: int) -> None:
    """Set the options that all sockets have in common.

    Args:
        most: maximum size of an incoming message, in bytes.
    """
    socket.linger = 0
    socket.maxmsgsize = most
    socket.rcvhwm = MOST_WAITING
    socket.handshake_ivl = HANDSHAKE
    socket.backlog = BACKLOG
    socket.ipv6 = "[" in address
