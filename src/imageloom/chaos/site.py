"""The environment of a run under faults: a server, external workers, a proxy, a disk that can be filled."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from random import Random

from imageloom.chaos.proxy import Proxy
from imageloom.errors import StorageError, UsageError

PROGRAM = [sys.executable, "-c", "from imageloom.cli import main; main()"]
NEAR, FAR = "127.0.0.1", "127.0.0.2"
"""Addresses of a run and of its proxies. The ports are equal, because ZeroMQ announces its second port."""
START = 20.0
"""Time-out for the start of a process, in seconds."""


class Site:
    """The environment of consecutive runs.

    Args:
        folder: folder for all files except the sinks.
        environment: environment variables of all processes.
        disk: size of a separate disk for the sinks in bytes; 0 for none.
    """

    def __init__(self, folder: str, environment: dict[str, str], disk: int = 0) -> None:
        self.folder, self.environment = folder, environment
        self.flags: list[str] = []
        """Of `imageloom run`."""
        self.proxies: list[Proxy] = []
        self.sinks = os.path.join(folder, "sinks")
        """Path of the folder of the sinks, for the runs."""
        self._prefix: list[str] = []
        self._closing = contextlib.ExitStack()
        self._server: object = None
        os.makedirs(self.sinks)
        self.view = self.sinks
        """Path of the same folder, for this process."""
        if disk:
            self._mount(disk)

    def close(self) -> None:
        self._closing.close()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of imageloom. Its output goes into a log file."""
        with open(os.path.join(self.folder, "log"), "ab") as log:
            return subprocess.Popen(
                [*self._prefix, *PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                process_group=0,  # Ctrl-C must reach only `imageloom chaos`
            )

    def start_behind_proxies(self, engine: str, jobs: int, source: str) -> None:
        """Start a server or external workers behind proxies, so that their connections to a run can be cut."""
        if engine == "redis":
            self._lead_redis(jobs)
        elif engine == "zeromq":
            self._lead_zeromq(jobs, source)
        else:
            self._lead_nodes(jobs, source)

    def restart_server(self) -> None:
        """Restart the site's server, if it has one."""
        from imageloom.engines.redis.server import Server

        if isinstance(self._server, Server):
            self._server.revive()

    @property
    def server(self) -> int | None:
        """The process ID of the site's server; None if it has none."""
        from imageloom.engines.redis.server import Server

        return self._server.pid if isinstance(self._server, Server) else None

    def cut(self, random: Random) -> bool:
        return random.choice(self.proxies).cut(random)

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Fill the disk of the sinks."""
        with tempfile.NamedTemporaryFile(dir=self.view) as file:
            size = 0
            for _ in range(100):
                free = _free(self.view)
                with contextlib.suppress(OSError):  # a run has written meanwhile
                    os.posix_fallocate(file.fileno(), size, free)
                    size += free
                if not free:
                    break
            yield

    def _lead_redis(self, jobs: int) -> None:
        from imageloom.engines.redis.server import Server

        self._server = server = Server()
        self._closing.callback(server.close)
        path = self._proxy(os.path.join(self.folder, "proxy"), server.url.removeprefix("unix://"))
        self.flags = ["--connect", f"unix://{path}", "--jobs", str(jobs)]

    def _lead_zeromq(self, jobs: int, source: str) -> None:
        port = _free_ports(2)
        for number in (port, port + 1):
            self._proxy((FAR, number), (NEAR, number))
        from imageloom.engines.zeromq.wire import make_keys

        server, client = make_keys(os.path.join(self.folder, "keys"), ["client"])
        self.flags = ["--bind", f"tcp://{NEAR}:{port}", "--keys", server]
        place = ("--connect", f"tcp://{FAR}:{port}", "--keys", client, "--jobs", str(jobs))
        self._keep("worker", "--engine", "zeromq", *place, "--root", source, "--root", self.folder)

    def _lead_nodes(self, jobs: int, source: str) -> None:
        port = _free_ports(1)
        self._proxy((FAR, port), (NEAR, port))
        self.flags = ["--connect", f"{FAR}:{port}"]
        limits = ("--listen", f"{NEAR}:{port}", "--limit", str(jobs))
        self._keep("node", *limits, "--root", source, "--root", self.folder)
        until = time.monotonic() + START
        while not _listens(port):
            if time.monotonic() > until:
                raise StorageError("the node did not start")
            time.sleep(0.02)

    def _proxy(self, address: str | tuple[str, int], behind: str | tuple[str, int]) -> str | tuple[str, int]:
        proxy = Proxy(address, behind)
        self.proxies.append(proxy)
        self._closing.callback(proxy.close)
        return proxy.address

    def _keep(self, *arguments: str) -> None:
        """Keep a command running while the site is open."""
        process = self.start(*arguments)

        def end() -> None:
            process.terminate()
            try:
                process.wait(START)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self._closing.callback(end)

    def _mount(self, size: int) -> None:
        """Mount a file system of this size for the sinks, visible only to these processes."""
        mount = f"mount -t tmpfs -o size={size} none {shlex.quote(self.sinks)}"
        script = f"{mount} && echo there && exec sleep infinity"
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
        try:
            holder = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.environment
            )
        except FileNotFoundError:
            raise UsageError("--fill-disk needs the program `unshare`, to mount a small disk") from None
        self._closing.callback(holder.wait)
        self._closing.callback(holder.kill)
        assert holder.stdout is not None
        with holder.stdout as said:
            if said.readline() != b"there\n":
                self.close()
                raise UsageError("--fill-disk: this system does not allow users to mount a small disk")
        self._prefix = [
            *("nsenter", "--user", "--mount", "--preserve-credentials"),
            "--target",
            str(holder.pid),
        ]
        self.view = f"/proc/{holder.pid}/root{self.sinks}"


def _free(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((NEAR, port)) == 0


def _free_ports(count: int) -> int:
    """The first of `count` consecutive ports that are free on both addresses."""
    for _ in range(100):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError, OverflowError):
            port = 0
            for offset in range(count):
                for host in (NEAR, FAR):
                    probe = probes.enter_context(socket.socket())
                    probe.bind((host, port + offset if port else 0))
                    port = port or probe.getsockname()[1]
            return port
    raise StorageError("no free ports on the loopback interface")
