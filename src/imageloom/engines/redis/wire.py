"""The protocol of the engine `redis`: keys, their contents, and the connection."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from imageloom.errors import MissingExtra, StorageError, UsageError
from imageloom.model import Plain, Task

if TYPE_CHECKING:
    from redis import Redis
    from redis.exceptions import RedisError

log = logging.getLogger("imageloom.redis")

Role = Literal["worker", "assembler"]

STREAMS: dict[Role, str] = {"worker": "imageloom:worker", "assembler": "imageloom:assembler"}
"""The streams of deliveries, by role: an assembler encodes whole large outputs, a worker processes all other
tasks."""
GROUP = "imageloom"
DEAD = "imageloom:dead"
"""The stream of dead letters: items that have finally failed."""
FIELD = "data"
"""The field of an entry of any stream, with MessagePack. In a run's results: a message with the result of an item,
or without a result if a worker returns the rest of a delivery."""
BEGUN = "begun"
"""The field of an entry of a run's results, with a message that reports the begin of a delivery."""

LEASE = 10.0
"""Length of a lease in seconds. A delivery whose lease was not renewed is taken away after one to two leases."""
RUN_EXPIRY = 60.0
"""Minimum time in seconds for which a run without a sign of its driver counts as alive."""
STREAM_EXPIRY = 3600.0
"""Time in seconds after which the streams of a run without a driver expire."""
PATIENCE = 1.0
"""Longest time for which a read blocks, in seconds."""
SILENCE = PATIENCE + 9.0
"""Time-out for an answer of the server, in seconds."""
FIRST_BACKOFF = 0.02
"""First pause before a connection is tried again, in seconds. It doubles after each failure in a row."""
LONGEST_BACKOFF = 2.0
OLDEST_SERVER = 7
VERSION = 3
"""Version of the entries of the streams."""


class Delivery(Plain, frozen=True):
    """A task for a worker. Its id is the delivery's number."""

    version: int
    run: str
    lease: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
    """Length of its lease, in seconds."""
    timeout: Annotated[float, msgspec.Meta(gt=0.0)]
    """Time-out of one item, in seconds."""
    task: Task


class DeadLetter(Plain, frozen=True):
    """An item that has finally failed."""

    key: str
    source: str
    sink: str
    kind: str
    message: str
    attempts: int
    time: float
    """Time of the failure, in seconds since the epoch."""


def run_key(run: str) -> str:
    """The key that exists while the run's driver is alive."""
    return f"imageloom:run:{run}"


def results_key(run: str) -> str:
    """The key of the stream of a run's results."""
    return f"imageloom:results:{run}"


def shown(url: str) -> str:
    """A server's address without user and password."""
    try:
        parts = urlsplit(
            re.sub(r"//.*@", "//", url)
        )  # up to the last @: a password may contain any character
    except ValueError:  # brackets around something else than an address
        return "an invalid address"
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def connect(url: str, reads_tasks: bool = False) -> Redis:
    """A client of a server. It does not connect yet. Values above the limits of `replies` are skipped.

    Args:
        reads_tasks: whether it reads tasks, which have a higher size limit.

    Raises:
        MissingExtra: the client library is not installed.
        UsageError: the address is not that of a Redis server.
    """
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        from imageloom.engines.redis.replies import BoundedParser, TaskParser
    except ImportError:
        raise MissingExtra("the engine redis", "redis") from None
    if url.partition("://")[0].lower() not in ("redis", "rediss", "unix"):
        raise UsageError(
            "--connect: the address of a Redis server must begin with redis://, or rediss:// for TLS; for "
            "example: redis://localhost:6379"
        )
    try:
        return Redis.from_url(
            url,
            protocol=2,
            parser_class=TaskParser if reads_tasks else BoundedParser,
            socket_connect_timeout=5.0,
            socket_timeout=SILENCE,
            retry=Retry(NoBackoff(), 0),  # the callers repeat commands
        )
    except (ValueError, TypeError):  # their text may contain a part of the password
        raise UsageError(
            f"--connect {shown(url)}: not an address of a Redis server; in a password, each special character, "
            "such as @ or /, must be written as %XX"
        ) from None


def check_server(client: Redis, url: str) -> None:
    """Log in, and check the version of the server.

    Raises:
        StorageError: it cannot be reached, refuses the login, or is too old.
    """
    from redis.exceptions import RedisError

    try:
        hello: Any = client.execute_command("HELLO")  # type: ignore[no-untyped-call]
    except RedisError as error:
        raise refusal(error, url) from None
    version = dict(zip(hello[::2], hello[1::2], strict=False)).get(b"version", b"0").decode()
    if int(version.partition(".")[0]) < OLDEST_SERVER:
        raise StorageError(
            f"the server at {shown(url)} is Redis {version}; {OLDEST_SERVER} or later is needed"
        )


def refusal(error: RedisError, url: str) -> StorageError:
    """The exception for a server's error. Its message does not have the user's name."""
    from redis.exceptions import AuthenticationError, NoPermissionError

    where = shown(url)
    said = re.sub(r"User \S+ has", "the user has", str(error))
    if isinstance(error, NoPermissionError):
        return StorageError(f"the Redis server at {where} denies a command that imageloom needs: {said}")
    if isinstance(error, AuthenticationError) or said.startswith(("NOAUTH", "WRONGPASS")):
        return StorageError(f"the Redis server at {where} refuses the user or the password (--connect)")
    return StorageError(f"cannot use the Redis server at {where}: {said.replace(url, where)}")


def is_fatal(error: RedisError) -> bool:
    """Whether a retry cannot help."""
    from redis.exceptions import AuthenticationError, NoPermissionError

    return isinstance(error, (AuthenticationError, NoPermissionError)) or str(error).startswith("NOAUTH")
