"""What counts as this machine, where neither keys nor TLS are asked for: only what is written as its loopback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imageloom.system.machine import is_loopback
from program import imageloom

ELSEWHERE = (
    "127.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.",
    "127.1",
    "127.0.0.1x",
    "localhost.evil.example",
    "xlocalhost",
    "1270.0.0.1",
    "0.0.0.0",
    "192.0.2.1",
)
COMMANDS = (
    "server --listen {host}:7000 --root {root}",
    "node --listen {host}:7000 --root {root}",
    "submit grayscale {root} {root}/out --server {host}:7000",
    "run grayscale {root} {root}/out --engine nodes --connect {host}:7000",
    "run grayscale {root} {root}/out --engine zeromq --bind tcp://{host}:5555",
    "worker --engine zeromq --connect tcp://{host}:5555 -j 1",
)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_host_that_only_looks_like_this_machine_is_none(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.0.7", "::1"])
def test_the_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_speaks_to_it_without_keys(tmp_path: Path, photos: Path, command: str) -> None:
    for host in ("127.evil.example", "localhost.evil.example"):
        ran = imageloom(*command.format(host=host, root=photos).split())
        assert ran.returncode == 2, ran
        assert host in ran.stderr
        assert "TLS" in ran.stderr or "keys" in ran.stderr


def test_no_credentials_are_left_out_for_it(photos: Path, out: Path) -> None:
    environment = {**os.environ, "IMAGELOOM_DRIVE_ENDPOINT": "http://127.evil.example:80"}
    ran = imageloom("run", "grayscale", photos, "gdrive://root/out", env=environment)
    assert ran.returncode == 2
    assert "IMAGELOOM_DRIVE_ENDPOINT" in ran.stderr
