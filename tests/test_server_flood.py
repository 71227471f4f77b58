"""A server and a node under ten times the calls, connections, jobs and nodes that they take: valid ones go on."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes.config import Credentials
from imageloom.engines.nodes.rpc import open_channel, pack, stubs
from imageloom.errors import StorageError
from imageloom.model import Item, Job, Limits, Output, Recipe, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.service.client import Client
from imageloom.service.messages import to_request
from program import contents, draw, wait_until
from service import Program, Site, site

COUNT = 3
SERVICE = "/imageloom.nodes.ImageProcessingServer"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    for number in range(COUNT):
        draw(tmp_path / "shared" / "photos" / f"{number}.jpg", number)
    (tmp_path / "state").mkdir()
    with site(tmp_path / "shared", tmp_path / "state") as made:
        yield made


def job(place: Site, sink: str) -> Job:
    recipe = Recipe((Output(Pipeline("resize 32x32").steps),))
    return Job(str(place.folder / "photos"), str(place.folder / sink), recipe)


def finish(place: Site, server: Program, sink: str, token: str = "", seconds: float = 5.0) -> None:
    """A valid client's job is done, and soon."""
    began = time.monotonic()
    with contextlib.closing(Client(server.address, Credentials(token))) as client:
        assert client.submit(job(place, sink)).status == pb.JOB_SUCCESS
    assert time.monotonic() - began < seconds
    assert len(contents(place.folder / sink)) == COUNT


def memory(server: Program) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


@contextlib.contextmanager
def silent(
    address: str, method: str, count: int, metadata: tuple[tuple[str, str], ...] = ()
) -> Iterator[list[Any]]:
    """So many calls, over eight connections, that send no message."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(60)
        yield from ()

    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.insecure_channel(address, options) for _ in range(8)]
    invoke: list[Any] = [channel.stream_stream(f"{SERVICE}/{method}") for channel in channels]
    calls = [invoke[number % 8](nothing(), metadata=metadata) for number in range(count)]
    try:
        yield calls
    finally:
        over.set()
        for channel in channels:
            channel.close()


@pytest.mark.parametrize("has_token", [False, True])
@pytest.mark.parametrize("method", ["Submit", "Register"])
def test_silent_calls_shut_nobody_out(place: Site, tmp_path: Path, method: str, has_token: bool) -> None:
    token = tmp_path / "token"
    token.write_text("a secret\n")
    server = place.server("--token", token)
    place.node("--server", server.address, "--token", token)
    before = memory(server)
    metadata = (("authorization", "Bearer a secret"),) if has_token else ()
    with silent(server.address, method, 640, metadata) as calls:
        finish(place, server, "out", str(token))
        assert memory(server) - before < 100 << 20
        wait_until(lambda: all(not call.is_active() for call in calls[:256]), 10)
        codes = Counter(call.code() for call in calls if not call.is_active())
    if has_token:
        assert set(codes) <= {EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
        assert "have not sent a message" in calls[0].details()
    else:  # a loaded machine may take too long to connect
        assert codes.pop(grpc.StatusCode.UNAUTHENTICATED) >= 256
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}


def test_ten_times_as_many_connections_are_closed_in_time(place: Site) -> None:
    files = 256

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    server = place.server(preexec_fn=few_files)
    place.node("--server", server.address)
    finish(place, server, "before")
    host, _, port = server.address.rpartition(":")
    seen = psutil.Process(server.process.pid)
    before = seen.memory_info().rss
    with contextlib.ExitStack() as stack:
        for number in range(10 * files // 4):
            with contextlib.suppress(OSError):
                raw = stack.enter_context(socket.create_connection((host, int(port)), 5))
                raw.sendall(b"PRI * HTTP/2.0\r\n"[: number % 16])
        assert seen.num_fds() < files // 4 + 64
        finish(place, server, "after", seconds=12)
        assert seen.memory_info().rss - before < 100 << 20


def test_clients_that_follow_are_bounded_and_the_others_told_so(place: Site) -> None:
    server = place.server("--max-calls", 8)
    place.slow_node(2, "--server", server.address)
    with contextlib.closing(Client(server.address, Credentials())) as client:
        id = client.submit(job(place, "out"), detached=True).id

        def follow(_: int) -> str:
            with contextlib.closing(Client(server.address, Credentials())) as other:
                try:
                    return pb.JobStatus.Name(other.follow(id).status)
                except StorageError as error:
                    return str(error)

        with ThreadPoolExecutor(80) as pool:
            found = Counter(pool.map(follow, range(80)))
    assert found.pop("JOB_SUCCESS") == 8
    (reason,) = found
    assert "RESOURCE_EXHAUSTED" in reason
    assert "--max-calls" in reason


def test_jobs_are_bounded_queued_and_done_one_after_the_other(place: Site) -> None:
    bounds = ("--max-running", 2, "--max-client-jobs", 6, "--max-jobs", 100)
    server = place.server(*bounds)
    seen = psutil.Process(server.process.pid)
    before = seen.num_fds()
    with contextlib.closing(Client(server.address, Credentials())) as client:
        accepted, refused = [], []
        for number in range(60):
            try:
                accepted.append(client.submit(job(place, f"out{number}"), detached=True).id)
            except StorageError as error:
                refused.append(str(error))
        assert len(accepted) == 6
        assert all("RESOURCE_EXHAUSTED" in reason and "--max-client-jobs" in reason for reason in refused)
        assert len(list(place.state.glob("*.request"))) == 6
        assert seen.num_fds() < before + 60
        assert client.cancel(accepted[5]).status == pb.JOB_CANCELLED
        assert client.submit(job(place, "late"), detached=True).id, "a place is free again"
        server.leave()
        server = place.server(*bounds, listen=server.address)
        place.node("--server", server.address)
        assert [client.follow(id).status for id in accepted[:5]] == [pb.JOB_SUCCESS] * 5
        assert client.follow(accepted[5]).status == pb.JOB_CANCELLED
    for number in range(5):
        assert len(contents(place.folder / f"out{number}")) == COUNT
    finish(place, server, "valid")


def register(address: str, node: str, leaving: bool = False) -> tuple[grpc.StatusCode, str]:
    with open_channel(address, Credentials()) as channel:
        try:
            stubs.ImageProcessingServerStub(channel).Register(
                pb.NodeNotice(address=node, leaving=leaving), timeout=10
            )
        except grpc.RpcError as error:
            failed: Any = error
            return failed.code(), failed.details()
    return grpc.StatusCode.OK, ""


def test_nodes_that_register_are_bounded(place: Site) -> None:
    server = place.server("--max-nodes", 16)
    place.node("--server", server.address)
    finish(place, server, "before")
    seen = psutil.Process(server.process.pid)
    with socket.create_server(("127.0.0.1", 0)) as silent_one:
        port = silent_one.getsockname()[1]
        nodes = [f"127.0.0.1:{port}", *(f"127.0.0.{number}:{port}" for number in range(2, 160))]
        codes = Counter(register(server.address, node)[0] for node in nodes)
        assert codes[grpc.StatusCode.OK] <= 8, "half of them, of one host"
        assert codes.total() == 159
        assert seen.num_threads() < 200
        finish(place, server, "after")


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1:80",
        "169.254.169.254:80",
        "0.0.0.0:{port}",
        "unix:/run/other",
        "unix:{port}",
        "no.example:1",
    ],
)
def test_a_node_registers_no_address_but_its_own(place: Site, address: str) -> None:
    server = place.server()
    with socket.create_server(("0.0.0.0", 0)) as other:
        named = address.format(port=other.getsockname()[1])
        for leaving in (False, True):
            code, reason = register(server.address, named, leaving)
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert "an address of another host" in reason
        other.settimeout(0.5)
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize("id", ["../x", "a/b", "a\0b", "a\n", "a" * 65, ".", "ä", "*"])
def test_an_id_never_becomes_another_path(place: Site, id: str) -> None:
    (place.state.parent / "x.receipt").write_text('{"id": "stolen"}')
    server = place.server()
    with open_channel(server.address, Credentials()) as channel:
        stub = stubs.ImageProcessingServerStub(channel)
        request = to_request(job(place, "out"), id, True)
        for call in (
            lambda: list(stub.Submit(request, timeout=10)),
            lambda: list(stub.Follow(pb.JobQuery(id=id), timeout=10)),
            lambda: stub.Cancel(pb.JobQuery(id=id), timeout=10),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                call()
            error: Any = raised.value
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "letters, digits and hyphens" in error.details()
    assert sorted(path.name for path in place.state.iterdir() if "ledger" not in path.name) == []


ADDRESSES = (
    "http://{host}/photos",
    "https://{host}/photos",
    "s3://{host}/photos",
    "sftp://{host}/photos",
    "ftp://{host}/photos",
    "smb://{host}/photos",
    "webhdfs://{host}/photos",
    "simplecache::http://{host}/photos",
    "zip://photos::http://{host}/a.zip",
    "file:///etc",
    "file://{root}/../../../etc",
    "{root}/../state",
    "{root}::http://{host}/photos",
    "http://{host}{root}",
    "/proc/self/fd",
    "",
)


def hostile(place: Site, listener: socket.socket) -> list[str]:
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    return [address.format(host=host, root=place.folder) for address in ADDRESSES]


def test_a_job_makes_the_server_connect_to_nobody(place: Site) -> None:
    server = place.server()
    place.node("--server", server.address)
    codes = set()
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        open_channel(server.address, Credentials()) as channel,
    ):
        stub = stubs.ImageProcessingServerStub(channel)
        valid = to_request(job(place, "out"), "", False)
        for address in hostile(place, other):
            for name in ("source", "sink"):
                request = pb.JobRequest()
                request.CopyFrom(valid)
                setattr(request, name, address)
                with pytest.raises(grpc.RpcError) as raised:
                    list(stub.Submit(request, timeout=10))
                error: Any = raised.value
                codes.add(error.code())
        for operators in ("/etc/passwd", "http://127.0.0.1/x.py", str(place.folder / "x.py")):
            request = pb.JobRequest()
            request.CopyFrom(valid)
            request.operators.append(operators)
            with pytest.raises(grpc.RpcError):
                list(stub.Submit(request, timeout=10))
        other.settimeout(0.5)
        with pytest.raises(TimeoutError):
            other.accept()
    assert codes <= {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
    assert not list(place.state.glob("*.request"))
    finish(place, server, "after")


def test_a_task_makes_a_node_connect_to_nobody(place: Site) -> None:
    node = place.node()
    good = str(place.folder / "photos")
    work = (Work(Item("0.jpg"), ("0.jpg",), 1),)
    recipe = Recipe((Output(Pipeline("resize 32x32").steps),))
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        open_channel(node.address, Credentials()) as channel,
    ):
        stub = stubs.ImageProcessingNodeStub(channel)
        for address in hostile(place, other)[:-1]:
            for source, sink in ((address, good), (good, address)):
                task = Task(1, "1", source, sink, recipe, Limits(), work)
                with pytest.raises(grpc.RpcError) as raised:
                    list(stub.Perform(pb.TaskRequest(task=pack(task)), timeout=10))
                error: Any = raised.value
                assert error.code() == grpc.StatusCode.PERMISSION_DENIED
        other.settimeout(0.5)
        with pytest.raises(TimeoutError):
            other.accept()
