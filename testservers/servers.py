"""What the object stores for tests have in common: processes on loopback that keep all they have in a temporary
folder, and Swift's own interface, which leads past all S3 clients."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote

PATIENCE = 60.0
"""Seconds that the servers may take to start, and that any request may take."""


class ObjectServer:
    """Servers of objects with the interfaces of S3 and Swift; their processes end with the block.

    Args:
        folder: where all that it stores lies; it need not be there yet.
    """

    user: ClassVar[str]
    secret: ClassVar[str]
    account: ClassVar[str]
    """The path of Swift's own interface."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._token = ""
        self._servers: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which S3 clients find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.user,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all servers and wait until they answer."""
        raise NotImplementedError

    def close(self) -> None:
        for server in self._servers:
            server.kill()
        for server in self._servers:
            server.wait()
        self._servers.clear()

    def _start(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            self._servers.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment())
            )

    def _wait(self, *ports: int) -> None:
        """Until all ports take connections.

        Raises:
            RuntimeError: a server has ended, or it takes too long.
        """
        until = time.monotonic() + PATIENCE
        while not all(map(_is_open, ports)):
            if any(server.poll() is not None for server in self._servers) or time.monotonic() > until:
                logs = "\n".join(
                    path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log")
                )
                raise RuntimeError(f"{type(self).__name__} does not start:\n{logs}")
            time.sleep(0.02)

    # By Swift's own interface, past all S3 clients

    def make_bucket(self, name: str, writable: bool = True) -> None:
        """A new bucket; one that is not writable may be read by the user `test:reader`."""
        headers = {} if writable else {"X-Container-Read": "test:reader"}
        self._native("PUT", name, headers)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self._native("PUT", f"{bucket}/{quote(key)}", body=data)

    def get(self, bucket: str, key: str) -> bytes:
        return self._native("GET", f"{bucket}/{quote(key)}")

    def keys(self, bucket: str) -> list[str]:
        """All keys of a bucket, 10,000 at the most."""
        return self._native("GET", bucket).decode().splitlines()

    def contents(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """All objects below a prefix, by their keys without it."""
        return {
            key.removeprefix(prefix): self.get(bucket, key)
            for key in self.keys(bucket)
            if key.startswith(prefix)
        }

    def _authenticate(self, user: str, key: str) -> None:
        headers = self._ask("GET", "/auth/v1.0", {"X-Auth-User": user, "X-Auth-Key": key})[1]
        self._token = headers["X-Auth-Token"]

    def _native(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> bytes:
        return self._ask(
            method, f"{self.account}/{path}", {"X-Auth-Token": self._token, **(headers or {})}, body
        )[0]

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> tuple[bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read()
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {response.reason}")
            return data, dict(response.getheaders())
        finally:
            connection.close()


def environment() -> dict[str, str]:
    """The environment of servers that are Python programs of these same packages."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that are free, none of those that outgoing connections get."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(12_000, 20_000), 1000):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no ports are free")


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
