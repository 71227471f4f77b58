"""A cluster of hosts: a driver, workers, and one host with the servers that they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
from testservers.swift import SECRET, USER

from hosts.network import HOME, SHARED, Host, Network
from imageloom.engines.redis.server import _binary
from imageloom.engines.zeromq.wire import make_keys

PYTHON = sys.executable
IMAGELOOM = (PYTHON, "-m", "imageloom")
KEYS = f"{HOME}/keys"
BUCKET = "photos"
OPERATORS = '''
import time
from imageloom import Pixels, operator

@operator("point", examples=("nap 1",))
def nap(image: Pixels, *, seconds: float) -> Pixels:
    """Take long, without taking the processor."""
    time.sleep(seconds)
    return image
'''
ENGINES = ("zeromq", "redis", "nodes", "dask")
STORAGES = ("folder", "s3")


class Cluster:
    """Hosts with one engine and one storage.

    Args:
        engine: name of the engine.
        storage: "folder" for a folder that all hosts share, "s3" for an object store on one host.
        workers: names of the hosts with workers.
        clocks: how far the clocks of hosts are ahead, in seconds, by the host's name.
    """

    def __init__(
        self,
        network: Network,
        engine: str,
        storage: str,
        workers: tuple[str, ...] = ("one", "two"),
        clocks: dict[str, int] | None = None,
        slots: int = 2,
    ) -> None:
        clocks = clocks or {}
        self.network, self.engine, self.storage, self.slots = network, engine, storage, slots
        self.driver, self.store, *self.workers = (
            network.host(name, clocks.get(name, 0)) for name in ("driver", "store", *workers)
        )
        self.hosts = [self.driver, self.store, *self.workers]
        self._issue()
        self.environment: dict[str, str] = {}
        if storage == "s3":
            self.environment |= {
                "AWS_ENDPOINT_URL": f"http://{self.store.address}:8080",
                "AWS_ACCESS_KEY_ID": USER,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1",
            }
        self.environment |= _ENVIRONMENTS.get(engine, dict)()
        if engine == "redis":
            self.environment["IMAGELOOM_CONNECT"] = (
                f"rediss://loom:sesame@{self.store.address}:6380/0?ssl_ca_certs={KEYS}/authority.pem"
            )

    def _issue(self) -> None:
        """Give all hosts certificates, a token, keys of CURVE, and the operators."""
        with tempfile.TemporaryDirectory() as folder:
            keys = Path(folder) / "keys"
            make_keys(str(keys), ["client"])
            authority = trustme.CA()
            own = authority.issue_cert(*(host.address for host in self.hosts))
            authority.cert_pem.write_to_path(str(keys / "authority.pem"))
            own.private_key_pem.write_to_path(str(keys / "key.pem"))
            own.cert_chain_pems[0].write_to_path(str(keys / "certificate.pem"))
            (keys / "token").write_text("a secret\n")
            for file in keys.iterdir():
                file.chmod(0o600)
            (Path(folder) / "slow.py").write_text(OPERATORS)
            for host in self.hosts:
                shutil.copytree(folder, host.home, dirs_exist_ok=True)

    @property
    def root(self) -> str:
        """What workers may read and write below."""
        return f"s3://{BUCKET}" if self.storage == "s3" else SHARED

    def place(self, name: str) -> str:
        """The address of a folder of the storage."""
        return f"{self.root}/{name}"

    # Servers

    def open(self) -> None:
        """Start the servers and the workers."""
        if self.storage == "s3":
            self.store.start(
                *(PYTHON, "-m", "hosts.servers", "swift", f"{HOME}/swift", "0.0.0.0:8080", BUCKET), env=TESTS
            )
            self.wait_for(self.store, 8080)
        if self.engine == "redis":
            self._start_redis()
        elif self.engine == "dask":
            self.store.start(
                *(PYTHON, "-m", "dask", "scheduler", "--protocol", "tls", "--host", self.store.address),
                *("--port", "8786", "--no-dashboard", "--no-show"),
                env=self.environment,
                output=self._log(self.store, "scheduler"),
            )
            self.wait_for(self.store, 8786)
        elif self.engine == "nodes":
            nodes = ", ".join(f"{host.address}:7001" for host in self.workers)
            credentials = "".join(f"  {name}: {KEYS}/{file}\n" for name, file in _CREDENTIALS.items())
            (self.driver.home / "nodes.yaml").write_text(f"nodes: [{nodes}]\ncredentials:\n{credentials}")
        for host in self.workers:
            self.work(host)

    def _start_redis(self) -> None:
        self.store.start(
            *(_binary(), "--port", "6379", "--bind", "127.0.0.1", "--dir", HOME, "--appendonly", "yes"),
            *("--save", "", "--user", "default", "off", "--user", "loom", "on", ">sesame"),
            *("~imageloom:*", "&*", "+@all", "-@dangerous", "-@admin"),
            output=self._log(self.store, "redis"),
        )
        self.store.start(
            *(PYTHON, "-m", "hosts.servers", "forward", "0.0.0.0:6380", "127.0.0.1:6379"),
            *(f"{KEYS}/certificate.pem", f"{KEYS}/key.pem"),
            env=TESTS,
            output=self._log(self.store, "forward"),
        )
        self.wait_for(self.store, 6380)

    def work(self, host: Host) -> subprocess.Popen[str]:
        """Start the workers of a host."""
        own = ("--root", self.root, "--operators", f"{HOME}/slow.py")
        command: tuple[object, ...]
        if self.engine == "zeromq":
            address = f"tcp://{self.driver.address}:5555"
            arguments = ("worker", "--engine", "zeromq", "--connect", address, "--keys", f"{KEYS}/client.key")
            command = (*IMAGELOOM, *arguments, *own, "-j", self.slots)
        elif self.engine == "redis":
            command = (*IMAGELOOM, "worker", "--engine", "redis", *own, "-j", self.slots)
        elif self.engine == "nodes":
            flags = [part for name, file in _CREDENTIALS.items() for part in (f"--{name}", f"{KEYS}/{file}")]
            listen = ("--listen", f"{host.address}:7001", "--limit", self.slots)
            command = (*IMAGELOOM, "node", *listen, *own, *flags)
        else:
            scheduler = f"tls://{self.store.address}:8786"
            command = (PYTHON, "-m", "dask", "worker", scheduler, "--host", host.address)
            command += ("--nworkers", self.slots, "--nthreads", 1, "--no-dashboard", "--memory-limit", 0)
        return host.start(*command, env=self.environment, output=self._log(host, "worker"))

    def wait_for(self, host: Host, port: int) -> None:
        """Until a port of a host takes connections."""
        code = (
            "import socket, sys, time\n"
            "while True:\n"
            "    try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1); break\n"
            "    except OSError: time.sleep(0.05)\n"
        )
        host.run(PYTHON, "-S", "-c", code, host.address, port)

    def _log(self, host: Host, name: str) -> Any:
        return open(host.home / f"{name}.log", "a", encoding="utf-8")

    # Runs

    def start(self, pipeline: str, source: str, sink: str, *more: object) -> subprocess.Popen[str]:
        """Start a run on the driver's host."""
        engine: tuple[object, ...] = ("--engine", self.engine)
        if self.engine == "zeromq":
            engine += ("--bind", "tcp://0.0.0.0:5555", "--keys", f"{KEYS}/server.key")
        elif self.engine == "nodes":
            engine += ("--nodes", f"{HOME}/nodes.yaml")
        elif self.engine == "dask":
            engine += ("--connect", f"tls://{self.store.address}:8786")
        run = (*IMAGELOOM, "run", pipeline, self.place(source), self.place(sink), *engine)
        return self.driver.start(
            *(*run, "--operators", f"{HOME}/slow.py", "--ledger", f"{HOME}/ledger.db"),
            *("--log-file", f"{HOME}/items.log", "--log-format", "json", "-q", *more),
            env=self.environment,
            output=self._log(self.driver, "run"),
        )

    def end(self, running: subprocess.Popen[str], seconds: float = 60.0) -> int:
        """Wait for the end of a run: its exit code."""
        return running.wait(seconds)

    # Files

    def put(self, folder: Path, name: str) -> None:
        """Copy a folder into the storage."""
        if self.storage == "folder":
            shutil.copytree(folder, self.network.shared / name)
            return
        shutil.copytree(folder, self.store.home / "put" / name)
        self._copy(f"{HOME}/put/{name}", name)

    def contents(self, name: str) -> dict[str, bytes]:
        """All files below a folder of the storage."""
        if self.storage == "folder":
            folder = self.network.shared / name
        else:
            folder = self.store.home / "got" / name
            shutil.rmtree(folder, ignore_errors=True)
            self._copy(name, f"{HOME}/got/{name}")
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def _copy(self, source: str, target: str) -> None:
        self.store.run(PYTHON, "-m", "hosts.objects", source, target, env=TESTS | self.environment)

    def logs(self) -> str:
        """The last lines that the programs of all hosts wrote."""
        files = [(host.name, path) for host in self.hosts for path in sorted(host.home.glob("*.log"))]
        return "\n".join(f"--- {name} {path.name}\n{path.read_text()[-1500:]}" for name, path in files)


_CREDENTIALS = {
    "certificate": "certificate.pem",
    "key": "key.pem",
    "token": "token",
    "authority": "authority.pem",
}
TESTS = {"PYTHONPATH": os.pathsep.join(sys.path)}
"""The environment of programs that are modules of the tests."""


def _dask() -> dict[str, str]:
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    own = {"CERT": f"{KEYS}/certificate.pem", "KEY": f"{KEYS}/key.pem"}
    roles = ("SCHEDULER", "WORKER", "CLIENT")
    return {
        f"{tls}CA_FILE": f"{KEYS}/authority.pem",
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    } | {f"{tls}{role}__{name}": path for role in roles for name, path in own.items()}


_ENVIRONMENTS = {"dask": _dask}


@contextmanager
def cluster(folder: Path, engine: str, storage: str, **more: Any) -> Iterator[Cluster]:
    """An open cluster."""
    with Network(folder) as network:
        made = Cluster(network, engine, storage, **more)
        made.open()
        yield made
