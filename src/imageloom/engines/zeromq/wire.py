"""What goes over the wires of the engine zeromq: messages, addresses, and the keys of both sides.

Each message is a header, which names the protocol with its version, a kind, and a body in MessagePack. Nothing of
it is ever unpickled. Workers write to the server's port; the port beside it, the control channel, speaks to all
workers at once.
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
from imageloom.model import Plain

VERSION = 1
PROTOCOL = b"imageloom/"
HEADER = PROTOCOL + b"%d" % VERSION
MOST_TOLD = 1 << 20
"""Bytes of a message to the server: what is larger is nothing of ours, and its sender is cut off."""
MOST_ASKED = 16 << 20
"""Bytes of a message to a worker."""
MOST_SUBSCRIBED = 4096
"""Bytes of a message to the control channel: who listens there says little."""
MOST_WAITING = 64
"""Messages of one sender that wait to be read: then it waits."""
HANDSHAKE = 5000
"""Milliseconds until a new connection must have proved who it is."""
BACKLOG = 128
"""Connections that wait to be accepted."""

P = TypeVar("P", bound=Plain)
log = logging.getLogger("imageloom.zeromq")


class Hello(Plain, frozen=True, omit_defaults=True):
    """A worker's first word."""

    host: Annotated[str, msgspec.Meta(pattern=r"\A[\w.:%-]{1,253}\Z")]
    pid: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    previous: Annotated[bytes, msgspec.Meta(max_length=255)] = b""
    """The routing id that it had before, where it has let go of all that it was given under it."""
    local: bytes = b""
    """What the server has given to the workers that it has started itself."""


class Welcome(Plain, frozen=True):
    """The server's answer."""

    control: int
    """Port of the control channel."""
    heartbeat: float
    """Seconds from one to the next, both ways."""
    silence: float
    """Seconds without a word after which the other side is taken for lost."""


class Beat(Plain, frozen=True):
    """A worker's heartbeat."""

    holding: Annotated[tuple[int, ...], msgspec.Meta(max_length=4096)]
    """The deliveries that it has in hand."""


class Delivery(Plain, frozen=True):
    """A delivery that concerns its worker no more, but for the item that it is at."""

    number: int


def body_of(kind: type[P], body: bytes) -> P | None:
    """A message's body, or None, with a line in the log, where it is not one."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("ignored data that is not a %s: %s", kind.__name__, error)
        return None


# Addresses


def split(address: str) -> tuple[str, str]:
    """Host and port of an address; the port may be an asterisk.

    Raises:
        UsageError: it is none of ours.
    """
    found = re.fullmatch(r"tcp://(\[[0-9a-fA-F:.%\w]+\]|[^:/\s]+):(\d{1,5}|\*)", address)
    if found is None:
        raise UsageError(f"{address!r} is not an address, such as tcp://127.0.0.1:5555")
    return found[1], found[2]


def check_secured(address: str, keys: object, file: str) -> None:
    """Refuse to speak without keys, on this machine too: whoever reaches a port could fill the memory behind it.

    Raises:
        UsageError: it names the command that makes some.
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
    """Keys of a server that knows no clients yet."""
    return ServerKeys(*_pair(), {})


def add_clients(server: ServerKeys, *names: str) -> tuple[ServerKeys, dict[str, ClientKeys]]:
    """The server's keys with those of more clients."""
    clients = {name: ClientKeys(*_pair(), server.public) for name in names}
    known = server.clients | {name: keys.public for name, keys in clients.items()}
    return msgspec.structs.replace(server, clients=known), clients


def _pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def read_keys(path: str, kind: type[P]) -> P:
    """The keys of a file.

    Raises:
        UsageError: it is no such file.
    """
    side = "server" if kind is ServerKeys else "client"
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except OSError as error:
        raise UsageError(f"cannot read the keys {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(f"{path} is not a file of {side} keys made by `imageloom keys`") from None


def make_keys(folder: str, names: Sequence[str]) -> list[str]:
    """Make `server.key` where there is none, and a file of keys for each name of a client; the paths of all.

    Raises:
        UsageError: a client of that name has its keys.
        StorageError: the folder cannot be written into.
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
    """Keys into a file that its owner alone may read, whole or not at all."""
    beside = f"{path}.{os.getpid()}"
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(keys)) + b"\n")
    os.replace(beside, path)


def secure_server(socket: zmq.Socket[bytes], keys: ServerKeys) -> None:
    """Have a socket that is bound take encrypted connections alone, of clients that `authenticate` knows."""
    socket.curve_server = True
    socket.curve_secretkey = keys.secret.encode()
    socket.zap_domain = b"imageloom"


def secure_client(socket: zmq.Socket[bytes], keys: ClientKeys) -> None:
    socket.curve_serverkey = keys.server.encode()
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()


def authenticate(channel: zmq.Socket[bytes], keys: ServerKeys) -> None:
    """Answer a question of libzmq, whether a client may come in (ZAP, RFC 27 of ZeroMQ)."""
    version, request, _, address, _, mechanism, *credentials = channel.recv_multipart()
    known = {z85.decode(public) for public in keys.clients.values()}
    if mechanism == b"CURVE" and credentials and credentials[0] in known:
        verdict = [b"200", b"OK"]
    else:
        log.warning("refused %s: its key is unknown", address.decode(errors="replace"))
        verdict = [b"400", b"its key is not known"]
    channel.send_multipart([version, request, *verdict, b"", b""])


def options(socket: zmq.Socket[Any], address: str, most: int) -> None:
    """What all sockets are set to.

    Args:
        most: bytes of a message that comes in.
    """
    socket.linger = 0
    socket.maxmsgsize = most
    socket.rcvhwm = MOST_WAITING
    socket.handshake_ivl = HANDSHAKE
    socket.backlog = BACKLOG
    socket.ipv6 = "[" in address
