"""Wrong tokens and certificates, junk, older and newer peers: each answered by a status, nothing lost."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from msgspec.structs import replace

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes.config import Credentials
from imageloom.engines.nodes.rpc import open_channel, pack, stubs
from imageloom.errors import PipelineError, StorageError, UsageError
from imageloom.model import Item, Job, Limits, Output, Recipe, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.service.client import Client
from imageloom.service.messages import to_job, to_request
from program import contents, draw, imageloom
from service import Program, Site, site

KEYS = ("token", "certificate", "key", "authority")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("secure")
    for number in range(3):
        draw(folder / "photos" / f"{number}.jpg", number)
    with site(folder, tmp_path_factory.mktemp("state")) as made:
        yield made


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """Those of a server and a client that trust each other."""
    folder = tmp_path_factory.mktemp("keys")
    authority = trustme.CA()
    own = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "authority"))
    own.private_key_pem.write_to_path(str(folder / "key"))
    own.cert_chain_pems[0].write_to_path(str(folder / "certificate"))
    (folder / "token").write_text("a secret\n")
    return Credentials(*(str(folder / name) for name in KEYS))


@pytest.fixture(scope="module")
def secure(place: Site, credentials: Credentials) -> Program:
    """A server and a node with TLS and a token."""
    flags = [part for name in KEYS for part in (f"--{name}", getattr(credentials, name))]
    server = place.server(*flags)
    place.node("--server", server.address, *flags)
    return server


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory, place: Site) -> Iterator[Program]:
    """A server without any, and one node."""
    with site(place.folder, tmp_path_factory.mktemp("open")) as made:
        server = made.server()
        made.node("--server", server.address)
        yield server


def job(place: Site, sink: str) -> Job:
    recipe = Recipe((Output(Pipeline("resize 32x32 | grayscale").steps),))
    return Job(str(place.folder / "photos"), str(place.folder / sink), recipe)


def test_with_tls_and_the_token_a_job_is_done(place: Site, secure: Program, credentials: Credentials) -> None:
    client = Client(secure.address, Credentials(credentials.token, authority=credentials.authority))
    assert client.submit(job(place, "tls")).status == pb.JOB_SUCCESS
    client.close()
    assert len(contents(place.folder / "tls")) == 3


def test_a_wrong_token_or_certificate_is_refused(
    place: Site, secure: Program, credentials: Credentials, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another secret\n")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "stranger"))
    common = ["submit", "invert", "photos", "refused", "--server", secure.address, "--root", place.folder]
    trusted = ["--authority", credentials.authority]
    for flags, message in (
        ([*trusted, "--token", wrong], "UNAUTHENTICATED: the token is missing or wrong"),
        (trusted, "UNAUTHENTICATED: the token is missing or wrong"),
        (["--authority", tmp_path / "stranger", "--token", credentials.token], "cannot reach the server"),
        (["--token", credentials.token], "cannot reach the server"),
    ):
        ran = imageloom(*common, *flags)
        assert (ran.returncode, message in ran.stderr) == (4, True), ran.stderr
    assert not (place.folder / "refused").exists()


def test_no_service_listens_to_others_without_credentials(place: Site, credentials: Credentials) -> None:
    for command in ("node", "server"):
        ran = imageloom(command, "--listen", "0.0.0.0:0", "--root", place.folder)
        assert ran.returncode == 2, ran.stderr
        assert "it needs TLS and a token" in ran.stderr
        ran = imageloom(command, "--listen", "127.0.0.1:0")
        assert ran.returncode == 2
        assert "--root" in ran.stderr
    taken = socket.create_server(("127.0.0.1", 0))
    ran = imageloom("node", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--root", place.folder)
    taken.close()
    assert ran.returncode == 4
    assert "cannot listen on" in ran.stderr


def call(address: str, method: str, data: bytes) -> grpc.StatusCode:
    """The status of a call with any bytes."""
    with open_channel(address, Credentials()) as channel:
        invoke: Any = channel.unary_stream(method, lambda sent: sent, lambda got: got)
        try:
            list(invoke(data, timeout=10))
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_junk_is_answered_and_changes_nothing(place: Site, open_server: Program) -> None:
    host, _, port = open_server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 64)
    server = "/imageloom.nodes.ImageProcessingServer"
    assert call(open_server.address, f"{server}/Submit", b"\xff" * 1000) == grpc.StatusCode.INTERNAL
    assert call(open_server.address, f"{server}/Submit", b"") == grpc.StatusCode.INVALID_ARGUMENT
    assert call(open_server.address, f"{server}/None", b"") == grpc.StatusCode.UNIMPLEMENTED
    assert call(open_server.address, f"{server}/Submit", bytes(17 << 20)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    client = Client(open_server.address, Credentials())
    assert client.submit(job(place, "after-junk")).status == pb.JOB_SUCCESS
    client.close()


def test_junk_as_a_task_is_refused_and_so_is_what_leaves_the_roots(place: Site) -> None:
    node = place.node()
    method = "/imageloom.nodes.ImageProcessingNode/Perform"
    for junk in (b"", b"\xc1", b"\x81\xa1a\x01", bytes(100)):
        sent = pb.TaskRequest(task=junk).SerializeToString()
        assert call(node.address, method, sent) == grpc.StatusCode.INVALID_ARGUMENT
    outside = Task(1, "1", "/etc", "/tmp", Recipe(()), Limits(), (Work(Item("a.jpg"), ("a.jpg",), 1),))
    with open_channel(node.address, Credentials()) as channel:
        stub = stubs.ImageProcessingNodeStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.Perform(pb.TaskRequest(task=pack(outside)), timeout=10))
    error: Any = raised.value
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "is not below a root" in error.details()


def test_health_and_reflection_answer(
    open_server: Program, secure: Program, credentials: Credentials
) -> None:
    for address, own in (
        (open_server.address, Credentials()),
        (secure.address, Credentials(authority=credentials.authority)),  # without the token
    ):
        with open_channel(address, own) as channel:
            health: Any = health_pb2_grpc
            check = health.HealthStub(channel).Check
            for name in ("", "imageloom.nodes.ImageProcessingServer"):
                answer = check(health_pb2.HealthCheckRequest(service=name), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with open_channel(open_server.address, Credentials()) as channel:
        reflection: Any = reflection_pb2_grpc
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=10)
        names = {service.name for service in answer.list_services_response.service}
    assert "imageloom.nodes.ImageProcessingServer" in names


def test_an_older_clients_job_means_what_it_meant_then(place: Site, open_server: Program) -> None:
    """All that the first version of the request had: three fields, and one that was given up since."""
    old = pb.JobRequest(
        source=str(place.folder / "photos"),
        sink=str(place.folder / "old"),
        outputs=[pb.Output(pipeline="resize 32x32 | grayscale")],
    )
    field_900 = b"\xa2\x38\x03abc"
    request = pb.JobRequest.FromString(old.SerializeToString() + field_900)
    meant = to_job(request)
    assert meant == replace(job(place, "old"), links="inside")
    assert meant.limits == Limits()
    assert meant.attempts == 3
    with open_channel(open_server.address, Credentials()) as channel:
        receipts = list(stubs.ImageProcessingServerStub(channel).Submit(request, timeout=30))
    assert receipts[-1].status == pb.JOB_SUCCESS
    assert receipts[-1].id
    assert len(contents(place.folder / "old")) == 3


def test_what_a_newer_client_needs_is_refused_by_name(place: Site, open_server: Program) -> None:
    request = to_request(job(place, "new"), "", False)
    request.needs.append("colour-management")
    with open_channel(open_server.address, Credentials()) as channel, pytest.raises(grpc.RpcError) as raised:
        list(stubs.ImageProcessingServerStub(channel).Submit(request, timeout=30))
    error: Any = raised.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "does not support colour-management" in error.details()


def test_a_job_comes_through_a_request_as_it_was(place: Site) -> None:
    steps = Pipeline("resize 10x20 fit=cover | gaussian_blur 1.25 | flip").steps
    outputs = (Output(steps, "web/small", "png", 70), Output((), "plain"))
    recipe = Recipe(outputs, "exact", (), "strip")
    full = Job(
        "/a", "/b", recipe, Limits(1, 2, 3), ("*.jpg",), ("x*",), "skip", True, attempts=7, links="refuse"
    )
    assert to_job(to_request(full, "1", False)) == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decode": "wild"}, "decode"),
        ({"if_exists": "explode"}, "if_exists"),
        ({"source": ""}, "a source, a sink"),
        ({"outputs": []}, "at least one output"),
        ({"outputs": [pb.Output(pipeline="resizee 1x1")]}, "no operator 'resizee'"),
        ({"outputs": [pb.Output(folder="../../etc")]}, "below the sink"),
        ({"outputs": [pb.Output(format="doc")]}, "no format 'doc'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_its_reason(
    change: dict[str, Any], message: str, place: Site
) -> None:
    request = to_request(job(place, "wrong"), "1", False)
    for name, value in change.items():
        request.ClearField(name)
        request.MergeFrom(pb.JobRequest(**{name: value}))
    with pytest.raises((UsageError, PipelineError), match=message):
        to_job(request)


def test_a_run_without_any_node_says_which_were_tried(place: Site) -> None:
    where = [place.folder / "photos", place.folder / "none"]
    ran = imageloom("run", "invert", *where, "--engine", "nodes", "--connect", "nowhere")
    assert ran.returncode == 2
    assert "'nowhere' is not an address" in ran.stderr
    client = Client("127.0.0.1:1", Credentials())
    with pytest.raises(StorageError, match="cannot reach"):
        client.cancel("1")
    client.close()
