"""Commands in each state that a signal may find them in, started as people start them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from guests import keys
from program import COMMAND, draw, free_port, wait_until
from redis_servers import GivenServer

OPERATOR = """
import os
import time
from pathlib import Path

from imageloom import Pixels, operator

FOLDER = Path({folder!r})

@operator("point", examples=("linger",))
def linger(image: Pixels) -> Pixels:
    "Wait until the test lets it go."
    (FOLDER / f"begun-{{os.getpid()}}-{{time.monotonic_ns()}}").touch()
    while not (FOLDER / "released").exists():
        time.sleep(0.01)
    time.sleep(0.03)
    return image
"""
SLOW_IMPORT = OPERATOR + "\nlinger(None)\n"
"""It is loaded only when the test lets it go."""

ITEMS = 24


@dataclass
class Stage:
    """Where a program runs: its folder, and what it is given there."""

    folder: Path
    stack: ExitStack
    silent: list[socket.socket] = field(default_factory=list)

    @property
    def photos(self) -> Path:
        folder = self.folder / "photos"
        if not folder.exists():
            first = draw(folder / "00.jpg", 1, 48, 36)
            for number in range(1, ITEMS):
                os.link(first, folder / f"{number:02}.jpg")
        return folder

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def begun(self) -> int:
        """How often an operator has begun."""
        return len(list(self.folder.glob("begun-*")))

    def operators(self, text: str = OPERATOR) -> Path:
        path = self.folder / "operators.py"
        path.write_text(text.format(folder=str(self.folder)))
        return path

    def let_go(self) -> None:
        (self.folder / "released").touch()

    def silent_server(self) -> int:
        """The port of a server that accepts connections and never answers."""
        listening = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.setblocking(False)
        self.silent.append(listening)
        return int(listening.getsockname()[1])

    def is_called(self) -> bool:
        """Whether the server that never answers has a connection. It stays open."""
        try:
            connection, _ = self.silent[0].accept()
        except BlockingIOError:
            return False
        self.stack.enter_context(connection)
        return True


class Program:
    """A running command, and what belongs to it."""

    def __init__(self, stage: Stage, *arguments: object, **environment: str) -> None:
        self.stage = stage
        self.command = arguments[0]
        # A socket's path has at most 107 bytes: the folders of the tests are too long.
        self._temporary = Path(stage.stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        self.said = stage.folder / f"said-{arguments[0]}"
        with self.said.open("wb") as file:
            self.process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdout=file,
                stderr=file,
                env={**os.environ, "TMPDIR": str(self._temporary), **environment},
                cwd=stage.folder,
            )
        stage.stack.callback(self._end)
        self.family: list[psutil.Process] = []
        self.shared: set[str] = set()

    def _end(self) -> None:
        self.note_family()
        self.process.kill()
        self.process.wait()
        for one in self.family:
            if one.is_running():
                one.kill()

    @property
    def text(self) -> str:
        return self.said.read_text(errors="replace")

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for an event, unless the program ends before."""
        wait_until(lambda: condition() or self.process.poll() is not None)
        assert self.process.poll() is None, f"it has ended: {self.text}"

    def until_it_says(self, text: str) -> None:
        self.until(lambda: text in self.text)

    def note_family(self) -> None:
        """Note the processes of the program and the shared memory that they use."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        known = {child.pid for child in self.family}
        self.family += [child for child in children if child.pid not in known]
        for pid in (self.process.pid, *known):
            try:
                with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
                    lines = [line.split(maxsplit=5) for line in maps]
            except OSError:
                continue
            self.shared |= {f[5].strip() for f in lines if len(f) > 5 and f[5].startswith("/dev/shm/")}

    def leftovers(self) -> list[str]:
        """Processes, shared memory and temporary files that outlive the program."""
        left = [str(one) for one in self.family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        left += [name for name in self.shared if os.path.exists(name)]
        left += [str(path) for path in self._temporary.iterdir() if path.name != "dask-scratch-space"]
        if self.command in ("run", "watch", "demo"):
            left += [str(path) for path in self.stage.out.rglob(".imageloom*")]
        return left


# Situations: each brings a command into one state


def linger(stage: Stage, command: str, engine: str, *flags: object) -> Program:
    """A run or a watch whose first items are in hand."""
    program = Program(stage, command, "linger", stage.photos, stage.out, "--operators", stage.operators(),
                      "--engine", engine, "-j", 2, "--sandbox", "off", *flags)  # fmt: skip
    program.until(lambda: stage.begun)
    return program


def run_working(stage: Stage, engine: str) -> Program:
    return linger(stage, "run", engine)


def run_tiles(stage: Stage, engine: str) -> Program:
    """One image in tiles."""
    return linger(stage, "run", engine, "--tile", "always")


def watch_working(stage: Stage, engine: str) -> Program:
    return linger(stage, "watch", engine)


def run_starting(stage: Stage, engine: str) -> Program:
    """An operator's file takes long to load."""
    program = Program(stage, "run", "linger", stage.photos, stage.out, "--operators",
                      stage.operators(SLOW_IMPORT), "--engine", engine)  # fmt: skip
    program.until(lambda: stage.begun)
    return program


def run_listing(stage: Stage, engine: str) -> Program:
    """The source is a bucket that does not answer."""
    endpoint = f"http://127.0.0.1:{stage.silent_server()}"
    program = Program(stage, "run", "invert", "s3://bucket/photos", stage.out, "--engine", engine,
                      AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b",
                      AWS_ALLOW_HTTP="true")  # fmt: skip
    program.until(stage.is_called)
    return program


def run_previewing(stage: Stage, engine: str) -> Program:
    """A dry run reads the headers of many files."""
    first = draw(stage.folder / "many" / "first.jpg", 1, 48, 36)
    for number in range(3000):
        os.link(first, stage.folder / "many" / f"{number:04}.jpg")
    program = Program(stage, "run", "invert", stage.folder / "many", stage.out, "--dry-run")
    program.until_it_says("planned: ")
    return program


def waiting(stage: Stage, command: str, engine: str) -> Program:
    """All workers are elsewhere, and there are none."""
    place: tuple[object, ...]
    is_there: Callable[[], object] = stage.out.exists
    if engine == "zeromq":
        place = ("--bind", f"tcp://127.0.0.1:{free_port()}", "--keys", keys()[0])
    elif engine == "redis":
        place = redis_server(stage).place
    elif engine == "nodes":
        place, is_there = ("--connect", f"127.0.0.1:{stage.silent_server()}"), stage.is_called
    else:
        cluster = dask_cluster(stage)
        place, is_there = ("--connect", cluster.scheduler_address), lambda: cluster.scheduler.clients
    program = Program(stage, command, "invert", stage.photos, stage.out, "--engine", engine, *place, "-v")
    program.until(is_there)
    return program


def run_waiting(stage: Stage, engine: str) -> Program:
    return waiting(stage, "run", engine)


def watch_waiting(stage: Stage, engine: str) -> Program:
    return waiting(stage, "watch", engine)


def redis_server(stage: Stage) -> GivenServer:
    server = GivenServer(stage.folder / "redis")
    stage.stack.callback(server.close)
    return server


def dask_cluster(stage: Stage) -> Any:
    """A cluster without workers."""
    from distributed import LocalCluster

    return stage.stack.enter_context(LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None))


def watch_idle(stage: Stage, engine: str) -> Program:
    (stage.folder / "empty").mkdir()
    program = Program(stage, "watch", "invert", stage.folder / "empty", stage.out, "--engine", engine)
    program.until(stage.out.exists)
    return program


def worker(stage: Stage, engine: str, place: tuple[object, ...]) -> Program:
    return Program(stage, "worker", "--engine", engine, *place, "--root", stage.folder, "-j", 1,
                   "--operators", stage.operators(), "--sandbox", "off", "--health", 0)  # fmt: skip


def worker_waiting(stage: Stage, engine: str) -> Program:
    """There is no run."""
    if engine == "zeromq":
        place: tuple[object, ...] = ("--connect", f"tcp://127.0.0.1:{free_port()}", "--keys", keys()[1])
    else:
        place = redis_server(stage).place
    program = worker(stage, engine, place)
    program.until_it_says("health ")
    return program


def worker_working(stage: Stage, engine: str) -> Program:
    if engine == "zeromq":
        address = f"tcp://127.0.0.1:{free_port()}"
        ours: tuple[object, ...] = ("--bind", address, "--keys", keys()[0])
        theirs: tuple[object, ...] = ("--connect", address, "--keys", keys()[1])
    else:
        ours = theirs = redis_server(stage).place
    Program(stage, "run", "linger", stage.photos, stage.out, "--operators", stage.operators(),
            "--engine", engine, *ours, "--sandbox", "off")  # fmt: skip
    program = worker(stage, engine, theirs)
    program.until(lambda: stage.begun)
    return program


def node(stage: Stage, *flags: object) -> Program:
    program = Program(stage, "node", "--root", stage.folder, "--limit", 1, "--operators", stage.operators(),
                      "--sandbox", "off", *flags)  # fmt: skip
    program.until_it_says("node ")
    return program


def node_idle(stage: Stage, engine: str) -> Program:
    return node(stage)


def node_registering(stage: Stage, engine: str) -> Program:
    """Its server does not answer."""
    program = node(stage, "--server", f"127.0.0.1:{stage.silent_server()}")
    program.until(stage.is_called)
    return program


def node_working(stage: Stage, engine: str) -> Program:
    program = node(stage)
    address = program.text.split()[1].rstrip(":")
    Program(stage, "run", "linger", stage.photos, stage.out, "--operators", stage.operators(),
            "--engine", "nodes", "--connect", address)  # fmt: skip
    program.until(lambda: stage.begun)
    return program


def server(stage: Stage, *flags: object) -> Program:
    program = Program(stage, "server", "--root", stage.folder, "--listen", "127.0.0.1:0", "--state",
                      stage.folder / "jobs", "--operators", stage.operators(), *flags)  # fmt: skip
    program.until_it_says("server ")
    return program


def server_idle(stage: Stage, engine: str) -> Program:
    return server(stage)


def submit(stage: Stage, address: str) -> Program:
    return Program(stage, "submit", "linger", stage.photos, stage.out, "--server", address,
                   "--operators", stage.operators())  # fmt: skip


def server_waiting(stage: Stage, engine: str) -> Program:
    """It has a job, and no node."""
    program = server(stage)
    client = submit(stage, program.text.split()[1])
    client.until_it_says("job ")
    return program


def server_working(stage: Stage, engine: str) -> Program:
    program = server(stage)
    node(stage, "--server", program.text.split()[1])
    submit(stage, program.text.split()[1])
    program.until(lambda: stage.begun)
    return program


def submit_connecting(stage: Stage, engine: str) -> Program:
    program = submit(stage, f"127.0.0.1:{stage.silent_server()}")
    program.until(stage.is_called)
    return program


def submit_waiting(stage: Stage, engine: str) -> Program:
    program = submit(stage, server(stage).text.split()[1])
    program.until_it_says("job ")
    return program


def submit_working(stage: Stage, engine: str) -> Program:
    served = server(stage)
    node(stage, "--server", served.text.split()[1])
    program = submit(stage, served.text.split()[1])
    program.until(lambda: stage.begun)
    return program


def bench_working(stage: Stage, engine: str) -> Program:
    flags = ("--engines", engine, "--workers", 2, "--no-sweep", "--kills", 0, "--count", 4000)
    program = Program(stage, "bench", stage.photos, *flags, "--out", stage.folder / "bench")
    program.until(lambda: len(psutil.Process(program.process.pid).children()) > 0)
    return program


def chaos_working(stage: Stage, engine: str) -> Program:
    program = Program(stage, "chaos", "linger", stage.photos, "--engine", engine, "--kill-workers", "1/s", "--",
                      "--operators", stage.operators())  # fmt: skip
    program.until(lambda: stage.begun)
    return program


def scenario_working(stage: Stage, engine: str) -> Program:
    program = Program(stage, "scenario", "--choice", "random")
    program.until(lambda: len(psutil.Process(program.process.pid).children(recursive=True)) > 2)
    return program


def look_working(stage: Stage, engine: str) -> Program:
    program = Program(stage, "look", stage.photos, "linger", "--operators", stage.operators())
    program.until(lambda: stage.begun)
    return program


def demo_working(stage: Stage, engine: str) -> Program:
    program = Program(stage, "demo", "out", "--count", 300, "--pipeline", "median_blur 21")
    program.until((stage.out / "out").exists)
    return program


def plan_starting(stage: Stage, engine: str) -> Program:
    program = Program(stage, "plan", "linger", stage.photos / "00.jpg", "--operators",
                      stage.operators(SLOW_IMPORT))  # fmt: skip
    program.until(lambda: stage.begun)
    return program


def dead_connecting(stage: Stage, engine: str) -> Program:
    """The Redis server does not answer."""
    program = Program(stage, "dead", "list", "--connect", f"redis://127.0.0.1:{stage.silent_server()}/0")
    program.until(stage.is_called)
    return program
