"""Configuration files, and what the generated code and the wire keep to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import imageloom
from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes.config import (
    ClientConfig,
    Credentials,
    NodeConfig,
    NodesConfig,
    is_local,
    read_config,
)
from imageloom.engines.nodes.rpc import pack, stubs, unpack
from imageloom.engines.nodes.security import channel_credentials, server_credentials
from imageloom.errors import InvalidResult, UsageError
from imageloom.model import Failure, Item, Limits, Output, Plain, Recipe, Result, Step, Task, Work

PACKAGE = Path(imageloom.__file__).parent


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        "# a loaded node\nlisten: 127.0.0.1:7001\nroots: [/data, /more]\nload: 0.9\nacceptance: optional\n"
        "credentials:\n  token: secret.txt\n"
    )
    config = read_config(str(path), NodeConfig)
    assert config == NodeConfig(
        "127.0.0.1:7001",
        roots=("/data", "/more"),
        load=0.9,
        acceptance="optional",
        credentials=Credentials("secret.txt"),
    )
    path.write_text("load: auto\n")
    assert read_config(str(path), NodeConfig).load == "auto"
    path.write_text("")
    assert read_config(str(path), ClientConfig) == ClientConfig()


@pytest.mark.parametrize(
    ("kind", "text", "line", "message"),
    [
        (NodesConfig, "nodes:\n  - 127.0.0.1:1\n  - nowhere\n", 3, "'nowhere' is not an address"),
        (NodesConfig, "nodes:\n  - 127.0.0.1:70000\n", 2, "is not an address"),
        (NodesConfig, "\nchoice: best\n", 2, "there are: random, least-loaded, two-choices, weighted"),
        (NodesConfig, "rejections: -1\n", 1, "must not be negative"),
        (
            NodesConfig,
            "nodes: []\nchoise: random\n",
            2,
            "unknown key choise; the keys are: nodes, choice",
        ),
        (NodesConfig, "fallback: maybe\n", 1, "Invalid enum value"),
        (NodesConfig, "seed: 1\nseed: 2\n", 2, "seed is given twice"),
        (NodesConfig, "nodes: [a:1\n", 2, "expected ',' or ']'"),
        (NodesConfig, "- a:1\n", 1, "expected a mapping with nodes"),
        (NodeConfig, "# load\n\nload: 1.5\n", 3, "must be from 0 to 1"),
        (NodeConfig, "acceptance: never\n", 1, "Invalid enum value"),
        (NodeConfig, "credentials:\n  token: a\n  tokens: b\n", 3, "unknown key tokens"),
        (NodeConfig, "limit: many\n", 1, "Expected `int`"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    kind: type[Plain], text: str, line: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_config(str(path), kind)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert message in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.yaml: No such file"):
        read_config(str(tmp_path / "none.yaml"), NodesConfig)


@pytest.mark.parametrize("address", ["0.0.0.0:7000", "10.1.2.3:7000", "[::]:7000", "example.org:7000"])
def test_what_others_can_reach_needs_tls_and_a_token(address: str) -> None:
    assert not is_local(address)
    for own in (Credentials(), Credentials("token"), Credentials("", "cert", "key")):
        with pytest.raises(UsageError, match="needs TLS and a token"):
            server_credentials(address, own)
    with pytest.raises(UsageError, match="needs TLS"):
        channel_credentials(address, Credentials("token"))


@pytest.mark.parametrize("address", ["127.0.0.1:7000", "localhost:7000", "[::1]:7000", "unix:/tmp/a"])
def test_loopback_needs_nothing(address: str) -> None:
    assert is_local(address)
    assert server_credentials(address, Credentials()) is None


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    """If it fails: python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src --grpc_python_out=src
    src/imageloom/engines/nodes/imageloom.proto"""
    root, out = PACKAGE.parent, tmp_path / "set"
    proto = PACKAGE / "engines" / "nodes" / "imageloom.proto"
    command = ["grpc_tools.protoc", "-I", str(root), f"--descriptor_set_out={out}", str(proto)]
    subprocess.run([sys.executable, "-m", *command], check=True, timeout=60)
    (made,) = FileDescriptorSet.FromString(out.read_bytes()).file
    ours = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(ours)
    for file in (made, ours):
        maps = [entry for message in file.message_type for entry in message.nested_type]
        for field in (field for message in (*file.message_type, *maps) for field in message.field):
            field.ClearField("json_name")  # follows from the name, and only the tool writes it down
    assert ours == made
    types = (PACKAGE / "engines" / "nodes" / "imageloom_pb2.pyi").read_text()
    for message in made.message_type:
        for field in message.field:
            assert re.search(rf"^    {field.name}: ", types, re.MULTILINE), f"{message.name}.{field.name}"
    for service in made.service:
        channel = grpc.insecure_channel("unix:/nowhere")
        stub = getattr(stubs, f"{service.name}Stub")(channel)
        assert {method.name for method in service.method} <= vars(stub).keys()
        channel.close()


def full_task() -> Task:
    recipe = Recipe((Output((Step("resize", {"width": 64}),), "web", "png", 90),), "fast", (), "strip")
    works = tuple(Work(Item(f"{n}.jpg", n, n), (f"{n}.png",), n, n + 1) for n in range(3))
    return Task(7, "3", "/in", "/out", recipe, Limits(max_pixels=5), works)


def test_plain_data_comes_through_as_it_was() -> None:
    task = full_task()
    assert unpack(pack(task), Task) == task
    result = Result("a.jpg", failure=Failure("CorruptImage", "cut off"), pixels=3)
    assert unpack(pack(result), Result) == result


def test_a_peer_that_does_not_know_a_field_reads_what_does_not_use_it_and_refuses_the_rest() -> None:
    class NewerResult(Result, frozen=True):
        colours: int = 0

    plain = NewerResult("a.jpg", pixels=3)
    assert unpack(pack(plain), Result) == Result("a.jpg", pixels=3)
    with pytest.raises(InvalidResult, match="colours"):
        unpack(pack(NewerResult("a.jpg", colours=2)), Result)
    assert unpack(pack(Result("a.jpg")), NewerResult) == NewerResult("a.jpg")
