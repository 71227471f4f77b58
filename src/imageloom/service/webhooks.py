"""Webhooks: other programs are told when a job ends and when items fail.

What is to be told is in the service's database until it was delivered, so it survives a restart. Requests are
signed as in Standard Webhooks (standardwebhooks.com): HMAC-SHA256 over id, time and body. The addresses
are those that the operator of the service has given: nothing that callers of the interface send becomes one. No
redirect is followed, and nobody is shown an answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import logging
import os
import random
import secrets
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imageloom import __version__
from imageloom.errors import StorageError, UsageError
from imageloom.service.state import Notice, ServiceState
from imageloom.system.machine import is_loopback
from imageloom.system.private import private_folder

MOST_ADDRESSES = 10
TIMEOUT = 10.0
"""Time-out of a request in seconds."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0
"""Seconds until something is sent again. The pause doubles each time."""
MOST_TRIES = 15
"""Number of attempts, in about seven hours."""
MOST_TOGETHER = 100
"""Maximum number of failed items in one request."""
COLLECT = 0.5
"""Seconds for which failed items are collected."""
PREFIX = "whsec_"
NAME = "webhook.secret"

log = logging.getLogger(__name__)


def check_webhooks(urls: Sequence[str]) -> None:
    """Check the addresses of webhooks.

    Raises:
        UsageError: there are too many, or one is not valid.
    """
    if len(urls) > MOST_ADDRESSES:
        raise UsageError(f"there are {len(urls)} webhooks, the maximum is {MOST_ADDRESSES} (--webhook)")
    for url in urls:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise UsageError(f"--webhook {url}: it is no address") from None
        if parts.scheme not in ("http", "https") or not host or parts.fragment or not url.isascii():
            raise UsageError(f"--webhook {url}: expected https://HOST/PATH")
        if parts.username is not None:
            raise UsageError(
                "--webhook: the address must not contain a user or password: requests are signed"
            )
        if parts.scheme == "http" and not is_loopback(host):
            raise UsageError(f"--webhook {url}: names of files would be sent in the clear: use https")


def secret_of(path: str, folder: Path) -> bytes:
    """The secret that signs the requests.

    Args:
        path: of the file whose first line it is; empty for one in `folder`, which is made if there is none.

    Raises:
        UsageError: it is not valid.
        StorageError: the file cannot be read or written.
    """
    place = Path(path) if path else folder / NAME
    try:
        if not path:
            _make(folder, place)
        text = place.read_text("ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot use the secret in {place} (--webhook-secret): {error}") from None
    try:
        found = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        found = b""
    if len(found) < 24:
        raise UsageError(
            f"the secret in {place} is not valid: it is {PREFIX} and at least 24 random bytes in Base64"
        )
    return found


def _make(folder: Path, place: Path) -> None:
    private_folder(folder)
    try:
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(file, "w", encoding="ascii") as opened:
        opened.write(f"{PREFIX}{base64.b64encode(secrets.token_bytes(32)).decode()}\n")


def signature(secret: bytes, id: str, moment: int, body: bytes) -> str:
    """The value of the header `webhook-signature`."""
    digest = hmac.digest(secret, f"{id}.{moment}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


class Webhooks:
    """Sends what the database has to be sent, in a thread for each address. Thread-safe.

    Args:
        state: has the addresses.
        secret: see `secret_of`.
    """

    def __init__(self, state: ServiceState, secret: bytes) -> None:
        self._state, self._secret = state, secret
        self._lock = threading.Lock()
        self._failed: dict[tuple[int, str], list[dict[str, str]]] = {}
        self._is_leaving = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_all, args=(url,), name="webhook", daemon=True)
            for url in state.webhooks
        ]
        if self._threads:
            self._threads.append(threading.Thread(target=self._collect, name="webhooks", daemon=True))
        for thread in self._threads:
            thread.start()

    def failed(self, job: int, flow: str, key: str, kind: str, message: str) -> None:
        """Tell that an item has failed. Several are told together."""
        if self._threads:
            item = {"key": key, "failure": kind, "message": message[:2000]}
            with self._lock:
                self._failed.setdefault((job, flow), []).append(item)

    def flush(self) -> None:
        """Record the failed items that were collected."""
        with self._lock:
            failed, self._failed = self._failed, {}
        for (job, flow), items in failed.items():
            for first in range(0, len(items), MOST_TOGETHER):
                together: dict[str, Any] = {
                    "job": job,
                    "flow": flow,
                    "items": items[first : first + MOST_TOGETHER],
                }
                self._state.add_notice("items.failed", together)

    def close(self) -> None:
        """Stop sending. What was not delivered is sent after the next start."""
        self._is_leaving.set()
        for thread in self._threads:
            thread.join(TIMEOUT + 1)
        self.flush()

    def _collect(self) -> None:
        while not self._is_leaving.wait(COLLECT):
            try:
                self.flush()
            except StorageError as error:
                log.error("%s", error)

    def _send_all(self, url: str) -> None:
        while not self._is_leaving.wait(COLLECT):
            try:
                while not self._is_leaving.is_set():
                    notice = self._state.next_notice(url)
                    if notice is None or notice.due > time.time():
                        break
                    self._deliver(url, notice)
            except StorageError as error:
                log.error("%s", error)

    def _deliver(self, url: str, notice: Notice) -> None:
        reason = self._send(url, notice)
        if not reason:
            self._state.remove_notice(notice)
        elif notice.tries + 1 >= MOST_TRIES or reason == "410":
            log.warning("webhook %s: %s: given up after %d attempts", _place(url), reason, notice.tries + 1)
            self._state.remove_notice(notice)
        else:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**notice.tries) * random.uniform(0.8, 1.2)
            log.info("webhook %s: %s: next attempt in %.0f s", _place(url), reason, pause)
            self._state.put_off(notice, time.time() + pause)

    def _send(self, url: str, notice: Notice) -> str:
        """Send a request. Returns why it was not delivered; empty if it was."""
        parts, moment = urlsplit(url), int(time.time())
        id = f"msg_{hashlib.sha256(f'{url} {notice.id} '.encode() + notice.body).hexdigest()[:32]}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"imageloom/{__version__}",
            "webhook-id": id,
            "webhook-timestamp": str(moment),
            "webhook-signature": signature(self._secret, id, moment, notice.body),
        }
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = _connection(parts.scheme, parts.hostname or "", parts.port)
        try:
            connection.request("POST", target, notice.body, headers)
            status = connection.getresponse().status
        except (http.client.HTTPException, OSError) as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        finally:
            connection.close()
        return "" if 200 <= status < 300 else str(status)


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)


def _place(url: str) -> str:
    """An address for the log: its path and parameters may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
