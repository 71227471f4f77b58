"""Clients that lie, beside honest workers: the run completes, and what they say is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageloom.testing.engines import HARMFUL
from imageloom.testing.liars import NodeLiar, RedisLiar, ZeromqLiar
from lied import Case
from program import Run, free_port, imageloom
from redis_servers import GivenServer
from service import Program

HONEST = 40
SLOW = "toil 0.1 | resize 48x"
"""Honest workers take their time, so that there is something to do for liars."""


def checked(case: Case, told: int) -> None:
    print(f"{told} lies in {case.seconds:.1f} s")  # noqa: T201
    case.check()
    assert told > 5
    assert any(word in case.ran.stderr for word in ("refused", "ignored", "dropped")), case.ran.stderr


def test_a_lying_worker_beside_an_honest_one(tmp_path: Path) -> None:
    from imageloom.engines.zeromq.wire import ClientKeys, read_keys, secure_client

    case = Case(tmp_path, HONEST, pipeline=SLOW)
    assert imageloom("keys", tmp_path / "keys", "--client", "liar").returncode == 0
    keys = read_keys(str(tmp_path / "keys" / "liar.key"), ClientKeys)
    address = f"tcp://127.0.0.1:{free_port()}"
    with ZeromqLiar(address, lambda peer: secure_client(peer, keys)) as liar:
        flags = ("--bind", address, "--keys", tmp_path / "keys" / "server.key")
        case.run("zeromq", "out", *flags, "-j", 1, "--operators", HARMFUL)
    checked(case, liar.told)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GivenServer]:
    server = GivenServer(tmp_path / "redis")
    yield server
    server.close()


def test_a_lying_writer_on_the_redis_server(tmp_path: Path, server: GivenServer) -> None:
    case = Case(tmp_path, HONEST, pipeline=SLOW)
    with RedisLiar(server.url) as liar:
        case.run("redis", "out", *server.place, "-j", 1, "--operators", HARMFUL)
    checked(case, liar.told)


def test_a_lying_node_beside_an_honest_one(tmp_path: Path) -> None:
    case = Case(tmp_path, HONEST, pipeline=SLOW)
    node = Program(
        "node", "--root", tmp_path, "--limit", 1, "--listen", "127.0.0.1:0", "--operators", HARMFUL
    )
    try:
        with NodeLiar() as liar:
            flags = ("--connect", f"{liar.address},{node.address}", "--timeout", 3)
            case.run("nodes", "out", *flags, "--operators", HARMFUL)
    finally:
        node.kill()
    checked(case, liar.told)


# The first rank of an MPI job

_FIRST_RANK = """
import os, socket, sys
from multiprocessing.connection import Connection
import msgspec
from imageloom.engines.mpi.wire import Kind, Peer, Ready, pack, unpack
from imageloom.testing.lies import lies_about
from imageloom.worker.message import Message

tried = {folder!r} + "/tried"
turn = len(os.listdir(tried))
open(f"{{tried}}/{{turn}}", "w").close()
if turn >= 6:
    os.execv({mpiexec!r}, [{mpiexec!r}, *sys.argv[1:]])
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[-2])
pipe = Connection(line.detach())
shared = ({canary!r}, "/dev/shm/../" + {canary!r}, "/dev/shm/mpich/../.." + {canary!r})
pipe.send_bytes(pack(0, Kind.READY, msgspec.msgpack.encode(Ready((Peer("x", 1), Peer("x", 2)), shared))))
task = msgspec.msgpack.decode(unpack(pipe.recv_bytes())[2])
said = [pack(1, Kind.RESULT, body) for _, body in lies_about(Message(task["id"]))]
none = (b"", pack(7, Kind.RESULT), pack(2**31, Kind.RESTART), pack(1, Kind.LEFT))
pipe.send_bytes(none[turn // 2] if turn % 2 else said[17 * turn % len(said)])
pipe.recv_bytes()
while True:
    pipe.recv_bytes()
"""


def test_a_lying_first_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job but the last lies once; what it names as its shared memory is left alone."""
    from imageloom.engines.mpi.job import find_mpiexec

    case = Case(tmp_path, 8)
    canary = str(tmp_path / "canary" / "beside.jpg")
    (tmp_path / "tried").mkdir()
    program = tmp_path / "mpiexec"
    text = _FIRST_RANK.format(folder=str(tmp_path), mpiexec=find_mpiexec(), canary=canary)
    program.write_text(f"#!{sys.executable}\n{text}")
    program.chmod(0o755)
    monkeypatch.setattr("imageloom.engines.mpi.engine.find_mpiexec", lambda: str(program))
    options: dict[str, Any] = {"engine": "mpi", "jobs": 1, "ledger": tmp_path / "mpi.db", "timeout": 3}
    run = Run("resize 48x", case.photos, case.out, **options)
    assert run.summary.done + run.summary.failed == 8
    case.check_files(set(run.failed))
    assert len(list((tmp_path / "tried").iterdir())) > 3
