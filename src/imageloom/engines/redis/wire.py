"""What driver and workers of the engine `redis` agree on: names of keys, what is in them, the connection."""

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
"""Of deliveries, by who takes them: an assembler encodes whole large outputs, a worker does all else."""
GROUP = "imageloom"
DEAD = "imageloom:dead"
"""The stream of dead letters: items that were given up."""
FIELD = "data"
"""Of an entry of any stream: it holds MessagePack. Of a run's results: a message with an item's result, or without
one where a worker gives the rest of a delivery back."""
BEGUN = "begun"
"""Of an entry of a run's results: a message without a result, sent when a worker begins a delivery."""

LEASE = 10.0
"""Seconds after which a delivery that its worker has not renewed is taken from it, or up to twice as many."""
RUN_EXPIRY = 60.0
"""Seconds, at the least, that a run whose driver is silent counts as alive."""
STREAM_EXPIRY = 3600.0
"""Seconds after which streams that no driver cares for are gone."""
PATIENCE = 1.0
"""Seconds that a read blocks at the most."""
SILENCE = PATIENCE + 9.0
"""Seconds after which a server that has not answered counts as gone."""
FIRST_BACKOFF = 0.02
"""Seconds before a connection is tried again; twice as long for each further time in a row."""
LONGEST_BACKOFF = 2.0
OLDEST_SERVER = 7
VERSION = 2
"""Of the entries of the streams."""


class Delivery(Plain, frozen=True):
    """A task on its way to a worker; its id is the delivery's number."""

    version: int
    run: str
    lease: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
    """Seconds for which it is the worker's, unless it renews them."""
    timeout: Annotated[float, msgspec.Meta(gt=0.0)]
    """Seconds that one of its items may take."""
    task: Task


class DeadLetter(Plain, frozen=True):
    """An item that failed for good."""

    key: str
    source: str
    sink: str
    kind: str
    message: str
    attempts: int
    time: float
    """Seconds since the epoch."""


def run_key(run: str) -> str:
    """A key that is there while the run's driver is alive."""
    return f"imageloom:run:{run}"


def results_key(run: str) -> str:
    """The stream of a run's results."""
    return f"imageloom:results:{run}"


def shown(url: str) -> str:
    """A server's address without what is secret in it."""
    parts = urlsplit(re.sub(r"//.*@", "//", url))  # up to the last one: a password may have any character
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def connect(url: str, reads_tasks: bool = False) -> Redis:
    """A client of a server; it does not connect yet. What is beyond the bounds of `replies` is skipped.

    Args:
        reads_tasks: it reads tasks, which may be larger than anything else.

    Raises:
        MissingExtra: the client library is not installed.
        UsageError: it is no address of a Redis server.
    """
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        from imageloom.engines.redis.replies import BoundedParser, TaskParser
    except ImportError:
        raise MissingExtra("the engine redis", "redis") from None
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise UsageError(
            "--connect: the address of a Redis server must have the form redis://USER:PASSWORD@HOST:PORT/0 or rediss://..."
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
    except (ValueError, TypeError):  # their text may hold a part of the password
        raise UsageError(
            f"--connect {shown(url)}: not an address of a Redis server; in a password, each special character, "
            "such as @ or /, must be written as %XX"
        ) from None


def check_server(client: Redis, url: str) -> None:
    """Log in, and see that the server is not too old.

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
    """A server's error in our words, without the user's name."""
    from redis.exceptions import AuthenticationError, NoPermissionError

    where = shown(url)
    said = re.sub(r"User \S+ has", "the user has", str(error))
    if isinstance(error, NoPermissionError):
        return StorageError(f"the Redis server at {where} denies a command that imageloom needs: {said}")
    if isinstance(error, AuthenticationError) or said.startswith(("NOAUTH", "WRONGPASS")):
        return StorageError(f"the Redis server at {where} refuses the user or the password (--connect)")
    return StorageError(f"cannot use the Redis server at {where}: {said.replace(url, where)}")


def is_fatal(error: RedisError) -> bool:
    """Whether trying again is of no use."""
    from redis.exceptions import AuthenticationError, NoPermissionError

    return isinstance(error, (AuthenticationError, NoPermissionError)) or str(error).startswith("NOAUTH")
