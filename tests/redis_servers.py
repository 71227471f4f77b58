"""Redis servers for tests: real ones, on a free port of the loopback, with a password for the default user."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from redis import Redis

from imageloom.engines.redis_server import _binary


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class GivenServer:
    """A server that somebody else runs."""

    def __init__(self, folder: Path, fsync: str = "everysec") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"
        self._command = [
            *(_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--requirepass", "secret"),
        ]
        self.client: Any = Redis.from_url(self.url, protocol=2)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self.client.ping()
                return
            except Exception:
                time.sleep(0.01)
        raise TimeoutError("the server does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        self.kill()
