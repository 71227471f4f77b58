"""A relay: the source and the sink of a run, which its driver serves to workers on other machines.

The address is relay://HOST:PORT/source or relay://HOST:PORT/sink. The task carries what the connection needs: a
token of the run, and the certificate of its driver. `service/relay/` is the other side.
"""

from __future__ import annotations

import http.client
import ssl
import time
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import NoReturn
from urllib.parse import quote, urlencode

import msgspec

from imageloom import errors
from imageloom.errors import (
    ItemError,
    LimitExceeded,
    StorageError,
    TaskRefused,
    UnreadableItem,
    UnwritableOutput,
)
from imageloom.model import Item, Plain, Relay, Unlisted
from imageloom.stores.files import write_file
from imageloom.stores.remote import RemoteStore, Staging

SCHEME = "relay"
PIECE = 8 << 20
"""Maximum bytes of a request's or an answer's body. A larger file is read and written in several requests."""
SILENCE = 20.0
"""Seconds to wait for the driver's answer."""
PATIENCE = 60.0
"""Seconds for which a request is repeated if the driver cannot be reached."""
PAUSE = 0.1
"""Seconds before the first repetition. Each further one waits twice as long, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 2.0
CHECKSUM = "X-Checksum"
"""Header: the CRC-32 of the body, in hexadecimal digits."""
SIZE = "X-Size"
"""Header: the size of the whole file, in bytes."""
MOST_ERROR = 16 << 10
"""Maximum bytes of an answer that is not a file's content."""


class Refusal(Plain, frozen=True):
    """Why the driver did not do what was asked: the class name of an `ItemError`, and its message."""

    kind: str
    message: str

    @property
    def error(self) -> ItemError:
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, ItemError):
            return kind(self.message)
        return UnreadableItem(self.message)


@lru_cache(maxsize=8)
def open_relay(address: str, relay: Relay) -> RelayStore:
    """Open a relay.

    Raises:
        TaskRefused: the address or the certificate is not valid.
    """
    return RelayStore(address, relay)


class RelayStore(RemoteStore):
    """The source or the sink of a run, for its workers. It cannot be listed, and only its driver publishes.

    Args:
        address: relay://HOST:PORT/source or relay://HOST:PORT/sink.
        relay: what the connection needs.

    Raises:
        TaskRefused: the address or the certificate is not valid.
    """

    creates = False

    def __init__(self, address: str, relay: Relay) -> None:
        self.address = address
        self._staging = Staging()
        place, _, self._base = address.removeprefix(f"{SCHEME}://").partition("/")
        self._host, _, port = place.rpartition(":")
        if not (self._host and port.isascii() and port.isdecimal() and self._base in ("source", "sink")):
            raise TaskRefused(f"{address} is not the address of a relay: relay://HOST:PORT/source")
        self._port, self._token = int(port), relay.token
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False  # the certificate itself is known
        try:
            self._tls.load_verify_locations(cadata=relay.certificate)
        except ssl.SSLError as error:
            raise TaskRefused(f"the certificate of {address} is not valid: {error.reason}") from None
        self._idle: list[http.client.HTTPSConnection] = []

    # Reading

    def read(self, key: str, limit: int, planned: Item | None = None) -> bytes:
        pieces = list(self._pieces(key, limit, planned))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pieces(self, key: str, limit: int, planned: Item | None) -> Iterator[bytes]:
        at, size = 0, 1
        while at < size:
            piece, size = self._piece(key, at, PIECE, planned)
            if size > limit:
                raise LimitExceeded(
                    f"the file is {size:,} bytes, over the limit of {limit:,} (--max-file-size)"
                )
            if not piece and size:
                raise UnreadableItem("the file was changed while it was read")
            at += len(piece)
            yield piece

    def _piece(self, key: str, at: int, length: int, planned: Item | None = None) -> tuple[bytes, int]:
        """Bytes of a file from a position, and the size of the whole file."""
        asked = {"at": at, "length": length}
        if planned:
            asked |= {"size": planned.size, "mtime": planned.mtime_ns}
        body, headers = self._ask("GET", f"{quote(key)}?{urlencode(asked)}")
        if headers.get(CHECKSUM) != checksum(body):
            raise UnreadableItem("it was damaged on its way from the driver")
        return body, int(headers.get(SIZE, "0"))

    def head(self, key: str, length: int, start: int = 0) -> bytes:
        return self._piece(key, start, min(length, PIECE))[0]

    def fetch(self, key: str, path: str, limit: int, planned: Item | None = None) -> None:
        write_file(path, self.read(key, limit, planned))

    def find(self, key: str) -> Item | None:
        try:
            _, size = self._piece(key, 0, 0)
        except UnreadableItem:
            return None
        return Item(key, size)

    def items(self) -> Iterator[Item | Unlisted]:
        self._refuse()

    def prepare(self, scratch: str) -> None:
        self._refuse()

    def tidy(self) -> None:
        self._staging.tidy()

    def publish(self, token: str, key: str, maker: str = "", replace: bool = True) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StorageError(f"{self.address} is for the workers of one run: give the folder itself")

    # Writing

    def commit(self, token: str, key: str, maker: str, replace: bool) -> None:
        """Send staged bytes to the driver, which publishes them."""
        data = memoryview(self._staging.take(token))
        for at in range(0, max(1, len(data)), PIECE):
            piece = data[at : at + PIECE]
            self._ask("PUT", f"{token}?{urlencode({'at': at, 'total': len(data)})}", piece)

    def discard(self, token: str) -> None:
        super().discard(token)
        try:
            self._ask("DELETE", token, patience=0.0)
        except ItemError:
            return  # the driver removes what is left at the end of the run

    # Requests

    def _ask(
        self, method: str, target: str, body: memoryview | None = None, patience: float | None = None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        """Send a request and return the answer. It is repeated while the driver cannot be reached.

        Raises:
            ItemError: the driver's reason, or it cannot be reached.
        """
        until, pause = time.monotonic() + (PATIENCE if patience is None else patience), PAUSE
        while True:
            try:
                return self._try(method, target, body)
            except (OSError, http.client.HTTPException) as error:
                kind = UnwritableOutput if self._base == "sink" else UnreadableItem
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise kind(
                        f"{self._host}:{self._port} is not the driver of this run: it has another key"
                    ) from None
                if time.monotonic() + pause > until:
                    why = str(error) or type(error).__name__
                    raise kind(
                        f"cannot reach the driver at {self._host}:{self._port} (--relay): {why}"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _try(
        self, method: str, target: str, body: memoryview | None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        headers = {"Authorization": f"Bearer {self._token}"}
        if body is not None:
            headers[CHECKSUM] = checksum(body)
        connection = self._connection()
        try:
            connection.request(method, f"/{self._base}/{target}", body, headers)
            with connection.getresponse() as answer:
                is_good = answer.status == http.client.OK
                said = answer.read(PIECE + 1 if is_good else MOST_ERROR)
        except BaseException:
            connection.close()
            raise
        if is_good:
            self._idle.append(connection)
            return said, answer.headers
        connection.close()
        raise self._refusal(answer.status, said)

    def _refusal(self, status: int, said: bytes) -> Exception:
        if status in (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE):
            return http.client.HTTPException("the driver is busy")
        if status == http.client.UNAUTHORIZED:
            place = f"{self._host}:{self._port}"
            return TaskRefused(f"the driver at {place} does not accept the token: its run has ended")
        try:
            return msgspec.json.decode(said, type=Refusal).error
        except msgspec.MsgspecError:
            return UnreadableItem(f"the driver answered with status {status}")

    def _connection(self) -> http.client.HTTPSConnection:
        """A connection that no other thread uses."""
        try:
            return self._idle.pop()
        except IndexError:
            return http.client.HTTPSConnection(self._host, self._port, timeout=SILENCE, context=self._tls)

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()


def checksum(data: bytes | memoryview) -> str:
    """The checksum of a body, as in `CHECKSUM`."""
    return f"{zlib.crc32(data):08x}"
