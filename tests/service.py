"""Servers and nodes as processes of their own, for tests."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from program import imageloom

ONE_BY_ONE = [
    sys.executable,
    "-c",
    "from imageloom.recipes import plan; plan.BATCH_ITEMS = 1; from imageloom.cli import main; main()",
]
"""The program with one item in each task, so that a few photos keep nodes busy for a while."""


class Program:
    """A command of the service that runs, with the address that it listens on."""

    def __init__(self, *arguments: object, **options: Any) -> None:
        self.process = subprocess.Popen(
            [*ONE_BY_ONE, *map(str, arguments)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            **options,
        )
        self.address = self._line().split()[1].rstrip(":")

    def _line(self) -> str:
        """The first line that it says."""
        assert self.process.stderr is not None
        ready, _, _ = select.select([self.process.stderr], [], [], 30)
        line = self.process.stderr.readline() if ready else ""
        assert line.startswith(("node", "server")), line + (self.process.stderr.read() if ready else "")
        return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._close()

    def leave(self) -> int:
        """Ask it to leave, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._close()
        return code

    def _close(self) -> None:
        if self.process.stderr:
            self.process.stderr.close()


class Site:
    """A folder that a server and its nodes share, and one for the server alone."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state
        self.ledger = state / "ledger.db"
        self.running: list[Program] = []

    def node(self, *flags: object) -> Program:
        return self._started("node", "--root", self.folder, "--limit", 1, *flags)

    def slow_node(self, delay: float, *flags: object) -> Program:
        """A node that takes so many seconds longer for each task."""
        return self.node("--load", 1, "--delay", delay, *flags)

    def server(self, *flags: object, listen: str = "127.0.0.1:0", **options: Any) -> Program:
        common = ["--root", self.folder, "--listen", listen, "--state", self.state]
        return self._started("server", *common, "--ledger", self.ledger, *flags, **options)

    def nodes_file(self, *addresses: str, more: str = "") -> Path:
        path = self.state / "nodes.yaml"
        path.write_text(f"nodes: [{', '.join(addresses)}]\n{more}")
        return path

    def submit(
        self, server: Program, pipeline: str, source: Path, sink: Path, *flags: object
    ) -> subprocess.CompletedProcess[str]:
        return imageloom("submit", pipeline, source, sink, "--server", server.address, *flags)

    def _started(self, *arguments: object, **options: Any) -> Program:
        self.running.append(Program(*arguments, **options))
        return self.running[-1]


@contextlib.contextmanager
def site(folder: Path, state: Path) -> Iterator[Site]:
    """A site whose processes end with it."""
    made = Site(folder, state)
    try:
        yield made
    finally:
        for program in made.running:
            if program.process.poll() is None:
                program.kill()
