"""Places of all families, each with a way past the store to look into it, and servers that last for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testservers.servers import ObjectServer

from imageloom.api import process
from imageloom.stores import open_store
from imageloom.stores.object import _memories
from program import draw

KNOWN_HOSTS = "IMAGELOOM_KNOWN_HOSTS"


class Folder:
    """A local folder, by whatever address."""

    def __init__(self, path: Path, address: str = "") -> None:
        self.path = path
        self.address = address or str(path)
        path.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        (self.path / key).parent.mkdir(parents=True, exist_ok=True)
        (self.path / key).write_bytes(data)

    def contents(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.path)): p.read_bytes() for p in self.path.rglob("*") if p.is_file()}


class Bucket:
    """A folder of a new bucket."""

    def __init__(self, server: ObjectServer, name: str) -> None:
        self._server = server
        self._name = name
        self.address = f"s3://{name}/in here"
        server.make_bucket(name)

    def put(self, key: str, data: bytes) -> None:
        self._server.put(self._name, f"in here/{key}", data)

    def contents(self) -> dict[str, bytes]:
        return self._server.contents(self._name, "in here/")

    def outputs(self) -> list[str]:
        """The keys that are not hidden."""
        keys = [key.removeprefix("in here/") for key in self._server.keys(self._name)]
        return [key for key in keys if not key.startswith(".imageloom/")]


def reach(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the S3 clients of this test and of what it starts ask there."""
    open_store.cache_clear()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


class Memory:
    """obstore's memory, by its own functions."""

    def __init__(self, name: str) -> None:
        from obstore.store import MemoryStore

        self.address = f"memory://{name}/folder"
        self._client = _memories[name] = MemoryStore()

    def put(self, key: str, data: bytes) -> None:
        import obstore

        obstore.put(self._client, f"folder/{key}", data)

    def remove(self, key: str) -> None:
        import obstore

        obstore.delete(self._client, f"folder/{key}")

    def contents(self) -> dict[str, bytes]:
        import obstore

        paths = [found["path"] for page in obstore.list(self._client) for found in page]
        return {p.removeprefix("folder/"): obstore.get(self._client, p).bytes().to_bytes() for p in paths}


class FsspecMemory:
    """fsspec's memory: a dictionary."""

    def __init__(self, name: str) -> None:
        from fsspec.implementations.memory import MemoryFileSystem

        self._fs: Any = MemoryFileSystem()
        self._root = f"/{name}"
        self.address = f"memory://{name}"
        if self._fs.exists(self._root):
            self._fs.rm(self._root, recursive=True)
        self._fs.makedirs(self._root)

    def put(self, key: str, data: bytes) -> None:
        self._fs.makedirs(f"{self._root}/{key}".rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{key}", data)

    def contents(self) -> dict[str, bytes]:
        found = self._fs.store.items()
        return {k.removeprefix(f"{self._root}/"): f.getvalue() for k, f in found if k.startswith(self._root)}


_SFTP = """
import asyncio, asyncssh, sys

class Server(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return (username, password) == ("me", "secret")

async def serve():
    key = asyncssh.generate_private_key("ssh-ed25519")
    acceptor = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Server, server_host_keys=[key],
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=sys.argv[1].encode()),
    )
    print(acceptor.get_port(), key.export_public_key().decode(), flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@contextmanager
def sftp_server(folder: Path) -> Iterator[int]:
    """A process that serves a folder by SFTP, to the user `me` with the password `secret`; its port.

    Its key is the one that is known, here and in processes that are started.
    """
    command = [sys.executable, "-c", _SFTP, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout
        before = os.environ.get(KNOWN_HOSTS)
        with tempfile.NamedTemporaryFile("w") as known:
            try:
                port, kind, key, *_ = server.stdout.readline().decode().split()
                known.write(f"[127.0.0.1]:{port} {kind} {key}\n")
                known.flush()
                os.environ[KNOWN_HOSTS] = known.name
                yield int(port)
            finally:
                server.kill()
                os.environ.pop(KNOWN_HOSTS, None)
                if before is not None:
                    os.environ[KNOWN_HOSTS] = before


def peak(count: int, folder: Path) -> int:
    """Bytes that Python holds at the most while so many images are done."""
    place, sink = Memory(f"crowd-{count}"), Memory(f"crowd-{count}-sink")
    data = draw(folder / "photo.png", width=4, height=4).read_bytes()
    for number in range(count):
        place.put(f"{number % 100:02}/{number:06}.png", data)
    open_store.cache_clear()
    tracemalloc.start()
    try:
        summary = process("invert", place.address, sink.address, engine="threads", jobs=2)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (summary.done, summary.failed) == (count, 0)
    return most
