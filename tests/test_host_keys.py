"""An SFTP server is who it was: its key is known, or is accepted at the first visit when that is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import KNOWN_HOSTS, sftp_server
from program import contents, draw, imageloom

PIPELINE = "resize 32x32"
COUNT = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The port of a server with photos, and the file that has its key."""
    served = tmp_path_factory.mktemp("served")
    for number in range(COUNT):
        draw(served / "in" / f"{number}.jpg", number)
    with sftp_server(served) as port:
        yield port, os.environ[KNOWN_HOSTS]


@pytest.fixture
def port(server: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the server, which nobody knows yet."""
    port, hosts = server
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FSSPEC_SFTP_PASSWORD", "secret")
    monkeypatch.setenv("GIVEN_HOSTS", hosts)
    monkeypatch.delenv(KNOWN_HOSTS)
    return port


def run(port: int, out: Path, *flags: str) -> tuple[int, str]:
    ran = imageloom("run", PIPELINE, f"sftp://me@127.0.0.1:{port}/in", out, "--engine", "serial", *flags)
    return ran.returncode, ran.stderr


def known(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".ssh" / "known_hosts"


def other_key() -> str:
    import asyncssh

    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


def test_an_unknown_host_is_refused_by_name(port: int, out: Path, tmp_path: Path) -> None:
    code, said = run(port, out)
    assert code == 4, said
    assert f"[127.0.0.1]:{port} is not known: ssh-ed25519 SHA256:" in said
    assert "--accept-host-keys" in said
    assert not known(tmp_path).exists()
    assert not out.exists() or contents(out) == {}


def test_the_first_visit_is_written_down_and_is_known_from_then_on(
    port: int, out: Path, tmp_path: Path
) -> None:
    code, said = run(port, out, "--accept-host-keys")
    assert code == 0, said
    (line,) = known(tmp_path).read_text().splitlines()
    assert line.startswith(f"[127.0.0.1]:{port} ssh-ed25519 ")
    assert known(tmp_path).stat().st_mode & 0o777 == 0o600
    code, said = run(port, tmp_path / "again")
    assert code == 0, said
    assert len(contents(out)) == len(contents(tmp_path / "again")) == COUNT


def test_worker_processes_accept_what_their_run_accepts(port: int, out: Path, tmp_path: Path) -> None:
    address = f"sftp://me@127.0.0.1:{port}/in"
    flags = ("--accept-host-keys", "--engine", "processes", "-j", "2")
    ran = imageloom("run", PIPELINE, address, out, *flags)
    assert ran.returncode == 0, ran.stderr
    assert len(known(tmp_path).read_text().splitlines()) == 1


@pytest.mark.parametrize("flags", [(), ("--accept-host-keys",)])
@pytest.mark.parametrize("kind", ["same type", "another type"])
def test_a_changed_key_is_refused_whatever_is_accepted(
    port: int, out: Path, tmp_path: Path, flags: tuple[str, ...], kind: str
) -> None:
    import asyncssh

    key = other_key()
    if kind == "another type":
        key = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode().strip()
    known(tmp_path).parent.mkdir(parents=True)
    known(tmp_path).write_text(f"[127.0.0.1]:{port} {key}\n")
    code, said = run(port, out, *flags)
    assert code == 4, said
    assert f"the host key of [127.0.0.1]:{port} has changed" in said
    assert known(tmp_path).read_text() == f"[127.0.0.1]:{port} {key}\n"


def test_a_file_of_known_hosts_can_be_named(port: int, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KNOWN_HOSTS, os.environ["GIVEN_HOSTS"])
    code, said = run(port, out)
    assert code == 0, said


def test_a_file_of_known_hosts_that_makes_no_sense_is_named(port: int, out: Path, tmp_path: Path) -> None:
    known(tmp_path).parent.mkdir(parents=True)
    known(tmp_path).write_bytes(b"\xff\xfe junk\n")
    code, said = run(port, out)
    assert code == 4, said
    assert str(known(tmp_path)) in said
