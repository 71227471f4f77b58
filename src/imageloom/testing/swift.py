"""OpenStack Swift with its S3 interface, on loopback and in a temporary folder: an object store for tests.

    with Swift(folder) as swift:
        swift.make_bucket("photos")
        os.environ |= swift.environment

Four processes of the wheel `swift` (proxy, account, container, object) with one replica and one device. Its own
tempauth knows one user; what memcached would hold lies in the proxy's memory. The folder's file system must
take extended attributes.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

USER, SECRET = "test:tester", "testing"
PATIENCE = 60.0
"""Seconds that the servers may take to start."""

_BACKEND = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
devices = {folder}/disks
mount_check = false
swift_dir = {folder}
user = {user}
workers = 0
disable_fallocate = true
recon_cache_path = {folder}
log_level = CRITICAL
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
user = {user}
workers = 0
log_level = CRITICAL
[pipeline:main]
pipeline = catch_errors gatekeeper cache s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
paste.filter_factory = imageloom.testing.swift:cache_factory
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
[filter:slo]
use = egg:swift#slo
"""


_RINGS = """
import sys
from swift.common.ring import RingBuilder
for ring in sys.argv[2:]:
    kind, port = ring.split("=")
    builder = RingBuilder(4, 1, 0)
    builder.add_dev(
        {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1}
    )
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""


class Cache:
    """What Swift keeps in memcached, for a proxy of one process."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        until, value = self._held.get(key, (0.0, None))
        return value if time.time() < until else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        self._held[key] = _deadline(time), value

    def incr(self, key: str, delta: int = 1, time: float = 0) -> int:
        value = max(0, int(self.get(key) or 0) + delta)
        self.set(key, value, time)
        return value

    def delete(self, key: str, server_key: str | None = None) -> None:
        self._held.pop(key, None)


def _deadline(seconds: float) -> float:
    """memcached's rule: 0 is for ever, and what is over 30 days is a point in time."""
    if seconds == 0:
        return float("inf")
    return seconds if seconds > 30 * 86400 else time.time() + seconds


def cache_factory(global_conf: dict[str, str], **conf: str) -> Callable[[Any], Any]:
    """The paste filter of that cache."""
    cache = Cache()

    def wrap(app: Any) -> Any:
        def serve(environment: dict[str, Any], start_response: Any) -> Any:
            environment["swift.cache"] = cache
            return app(environment, start_response)

        return serve

    return wrap


class Swift:
    """A running Swift; its processes end with the block.

    Args:
        folder: where all that it stores lies; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._servers: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which S3 clients find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Swift:
        ports = _free_ports(4)
        self.port = ports[0]
        self._configure(dict(zip(("proxy", "account", "container", "object"), ports, strict=True)))
        try:
            for kind in ("account", "container", "object", "proxy"):
                self._start(kind)
            self._wait(ports)
            self._token = self._authenticate()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for server in self._servers:
            server.kill()
        for server in self._servers:
            server.wait()
        self._servers.clear()

    def _configure(self, ports: dict[str, int]) -> None:
        (self.folder / "disks" / "disk").mkdir(parents=True, exist_ok=True)
        (self.folder / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
            "[storage-policy:0]\nname = one\ndefault = yes\n"
        )
        user = _user()
        for kind, port in ports.items():
            text = _PROXY if kind == "proxy" else _BACKEND
            (self.folder / f"{kind}.conf").write_text(
                text.format(kind=kind, port=port, folder=self.folder, user=user)
            )
        rings = [f"{kind}={port}" for kind, port in ports.items() if kind != "proxy"]
        command = [sys.executable, "-W", "ignore", "-c", _RINGS, str(self.folder), *rings]
        subprocess.run(command, env=_environment(), check=True, timeout=PATIENCE)

    def _start(self, kind: str) -> None:
        code = "import sys; from swift.common.wsgi import run_wsgi; sys.exit(run_wsgi(*sys.argv[1:]))"
        conf = str(self.folder / f"{kind}.conf")
        with open(self.folder / f"{kind}.log", "wb") as log:
            self._servers.append(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-c", code, conf, f"{kind}-server"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment(),
                )
            )

    def _wait(self, ports: list[int]) -> None:
        until = time.monotonic() + PATIENCE
        for port in ports:
            while True:
                if any(server.poll() is not None for server in self._servers) or time.monotonic() > until:
                    logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                    raise RuntimeError(f"Swift does not start:\n{logs}")
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)

    def _authenticate(self) -> str:
        headers = self._ask("GET", "/auth/v1.0", {"X-Auth-User": USER, "X-Auth-Key": SECRET})[1]
        return headers["X-Auth-Token"]

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

    def _native(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> bytes:
        return self._ask(
            method, f"/v1/AUTH_test/{path}", {"X-Auth-Token": self._token, **(headers or {})}, body
        )[0]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
