"""Engine redis: a worker's container that dies and is started again in its place."""

from __future__ import annotations

import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from imageloom.driver.run import Driver
from imageloom.engines import Settings, open_engine
from imageloom.engines.redis import wire as redis_wire
from imageloom.engines.redis.wire import STREAMS, results_key
from imageloom.model import Job
from imageloom.records.events import Done, Event, Retried
from imageloom.records.ledger import Ledger
from imageloom.testing.engines import HARMFUL, recipe_of
from program import COMMAND, wait_until
from redis_servers import GivenServer, slow_photos

CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
"""Processes with numbers of their own, which all end with the first."""


class Container:
    """A worker in a container, which is killed as soon as it has begun something, and started again."""

    def __init__(self, server: GivenServer, root: Path) -> None:
        self._server = server
        place = [*server.place, "--root", str(root), "--operators", HARMFUL, "-j1"]
        self._command = [*CONTAINER, *COMMAND, "worker", "--engine", "redis", *place]
        self.names: list[str] = []
        """Of those who had something in hand, one after the other."""
        self._running: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._live_twice)
        self._thread.start()

    def _live_twice(self) -> None:
        for life in range(2):
            process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
            self._running.append(process)
            wait_until(partial(self._is_alive, life))
            if not life:
                wait_until(self._has_said_begun)
                process.kill()
                process.wait()
                wait_until(lambda: self._idle() > 0.4)

    def _idle(self) -> float:
        """Seconds since what is held was renewed."""
        held = self._server.client.xpending_range(STREAMS["worker"], "imageloom", "-", "+", 10)
        return held[0]["time_since_delivered"] / 1000 if held else 1.0

    def _has_said_begun(self) -> bool:
        """Whether a worker has reported that it begins an item: what was only delivered costs no attempt."""
        keys = self._server.client.scan_iter(results_key("*"))
        return any(self._server.client.xinfo_stream(key)["last-generated-id"] != b"0-0" for key in keys)

    def _is_alive(self, life: int) -> bool:
        return len(self._look()) > life

    def _look(self) -> list[str]:
        client, stream = self._server.client, STREAMS["worker"]
        if client.exists(stream):
            held = client.xpending_range(stream, "imageloom", "-", "+", 10)
            is_new_life = len(self._running) > len(self.names)
            if is_new_life and held and held[0]["time_since_delivered"] < 300:
                self.names.append(held[0]["consumer"].decode())
        return self.names

    def close(self) -> None:
        self._thread.join()
        for process in self._running:
            process.kill()
            process.wait()


def test_it_is_another_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the same host and process ids. What its dead self had in hand has cost an attempt all the same, or an
    item that kills containers would be done by each of them, for ever."""
    if subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user may have processes with numbers of their own here")
    monkeypatch.setattr(redis_wire, "LEASE", 1.0)
    photos, out = slow_photos(tmp_path / "photos", 1), tmp_path / "out"
    events: list[Event] = []
    server = GivenServer(tmp_path / "server")
    container = Container(server, tmp_path)
    engine = open_engine("redis", Settings(0, timeout=30.0, connect=server.url))
    try:
        with Ledger(tmp_path / "ledger.db") as ledger:
            job = Job(str(photos), str(out), recipe_of("toil 4"))
            summary = Driver(job, engine, ledger, "redis", [events.append]).run()
    finally:
        engine.close()
        container.close()
        server.close()
    first, second = ("/".join(name.split("/")[:3]) for name in container.names)
    assert first == second, "it is no test otherwise"
    assert summary.done == 1
    kinds = [
        event.result.failure.kind for event in events if isinstance(event, Retried) and event.result.failure
    ]
    assert kinds == ["WorkerLost"]
    assert [event.attempt for event in events if isinstance(event, Done)] == [2]
