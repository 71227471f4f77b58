"""Engine redis: who may, and who takes what."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageloom.api import process
from imageloom.engines import Settings, open_engine
from imageloom.engines.redis.wire import STREAMS
from imageloom.errors import StorageError, UsageError
from imageloom.testing.engines import contents
from program import imageloom, wait_until
from redis_servers import GivenServer, Workers, slow_photos


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GivenServer]:
    given = GivenServer(tmp_path / "server")
    yield given
    given.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def test_refusals_are_clear_and_tell_no_secret(server: GivenServer) -> None:
    server.client.acl_setuser("loom", True, passwords="+sesame", keys=["imageloom:*"], categories=["+@all"])
    server.client.acl_setuser("guest", True, passwords="+sesame", keys=["other:*"], categories=["+@all"])
    where = f"127.0.0.1:{server.port}/0"
    for user, password in (("loom", "wrong"), ("nobody", "sesame"), ("", "wrong"), ("guest", "sesame")):
        with pytest.raises(StorageError, match=r"refuses the user|denies a command") as caught:
            open_engine("redis", Settings(1, connect=f"redis://{user}:{password}@{where}"))
        assert f"redis://{where}" in str(caught.value)
        assert not any(word in str(caught.value) for word in ("sesame", "wrong", "guest", "nobody"))
    for address in ("http://user:sesame@host/", "host:6379", "redis://user:sesame@host:notaport/"):
        with pytest.raises(UsageError) as usage:
            open_engine("redis", Settings(1, connect=address))
        assert "sesame" not in str(usage.value)
    with pytest.raises(StorageError, match=r"cannot use the Redis server at redis://127.0.0.1:1"):
        open_engine("redis", Settings(1, connect="redis://user:sesame@127.0.0.1:1"))
    environment = {**os.environ, "IMAGELOOM_CONNECT": f"redis://loom:wrong@{where}"}
    refused = imageloom("worker", "--engine", "redis", "-j", "1", env=environment)
    assert refused.returncode == 4
    assert "refuses the user or the password" in refused.stderr
    assert "wrong" not in refused.stderr


def test_a_user_with_the_rights_to_our_keys_alone(
    photos: Path, tmp_path: Path, server: GivenServer, caplog: pytest.LogCaptureFixture
) -> None:
    """No dangerous commands, so no CLIENT UNBLOCK; INFO neither."""
    server.client.acl_setuser(
        "loom",
        True,
        passwords="+sesame",
        keys=["imageloom:*"],
        categories=["+@all", "-@dangerous", "-@admin"],
    )
    url = f"redis://loom:sesame@127.0.0.1:{server.port}/0"
    ledger = tmp_path / "ledger.db"
    options: dict[str, Any] = {"engine": "redis", "jobs": 1, "connect": url, "ledger": ledger}
    assert process("invert", photos, tmp_path / "out", **options).done == 6
    assert b"sesame" not in ledger.read_bytes()
    assert "sesame" not in caplog.text
    assert server.client.keys() == []


def test_roles_and_roots_of_workers(tmp_path: Path, server: GivenServer, workers: Workers) -> None:
    photos, out = slow_photos(tmp_path / "photos"), tmp_path / "out"
    one = workers.start(server.url, tmp_path, "-j", "1", "--role", "worker")
    other = workers.start(server.url, tmp_path, "-j", "1", "--role", "assembler")
    wait_until(lambda: {key.decode() for key in server.client.scan_iter()} >= set(STREAMS.values()))
    command = ["run", "gaussian_blur 2", photos, out, "--engine", "redis", *server.place]
    done = imageloom(*command, "--tile", "always")
    assert "2 of 2 done" in done.stdout, done.stderr
    process("gaussian_blur 2", photos, tmp_path / "serial", engine="serial", ledger=tmp_path / "s.db")
    assert contents(out) == contents(tmp_path / "serial")
    for worker in (one, other):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    wait_until(lambda: server.client.keys() == [])

    workers.start(server.url, photos, "-j", "1")
    refused = imageloom(*command[:3], tmp_path / "elsewhere", *command[4:])
    assert refused.returncode == 1
    assert "elsewhere is not below a root of this worker (--root)" in refused.stderr
