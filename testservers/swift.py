"""OpenStack Swift with its S3 interface, on loopback and in a temporary folder: an object store for tests.

    with Swift(folder) as swift:
        swift.make_bucket("photos")
        os.environ |= swift.environment

Four processes of the wheel `swift` (proxy, account, container, object) with one replica and one device. Its own
tempauth knows one user; what memcached would hold lies in the proxy's memory. The folder's file system must
take extended attributes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from testservers.servers import PATIENCE, ObjectServer, environment, free_ports

USER, SECRET = "test:tester", "testing"

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
paste.filter_factory = testservers.swift:cache_factory
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


class Swift(ObjectServer):
    """A running Swift; its processes end with the block."""

    user, secret, account = USER, SECRET, "/v1/AUTH_test"

    def start(self) -> None:
        ports = free_ports(4)
        self.port = ports[0]
        self._configure(dict(zip(("proxy", "account", "container", "object"), ports, strict=True)))
        code = "import sys; from swift.common.wsgi import run_wsgi; sys.exit(run_wsgi(*sys.argv[1:]))"
        for kind in ("account", "container", "object", "proxy"):
            conf = str(self.folder / f"{kind}.conf")
            self._start(kind, sys.executable, "-W", "ignore", "-c", code, conf, f"{kind}-server")
        self._wait(*ports)
        self._authenticate(USER, SECRET)

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
        subprocess.run(command, env=environment(), check=True, timeout=PATIENCE)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
