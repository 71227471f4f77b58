"""Redis servers for tests: real ones, on a free port of the loopback, with a password for the default user."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from imageloom.engines.redis.server import _binary
from imageloom.testing.engines import HARMFUL
from program import draw, free_port, start, wait_until


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
        file = folder / "address"
        file.write_text(f"{self.url}\n")
        self.place = ("--connect-file", str(file))
        self.client: Any = Redis.from_url(self.url, protocol=2)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the server does not start"
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        self.kill()


class Workers:
    """`imageloom worker` on a server, as on another machine."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def start(self, url: str, root: Path, *flags: str) -> subprocess.Popen[str]:
        flags = ("--root", str(root), "--operators", HARMFUL, *flags)
        arguments = ("worker", "--engine", "redis", *flags)
        environment = {**os.environ, "IMAGELOOM_CONNECT": url}
        worker = start(*arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.running:
            worker.kill()
            worker.wait()


def slow_photos(folder: Path, count: int = 2) -> Path:
    for number in range(count):
        draw(folder / f"{number}.png", number, 1200, 900)
    return folder
