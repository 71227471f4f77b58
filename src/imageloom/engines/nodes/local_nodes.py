"""Nodes that a run starts on this machine. If a process dies or hangs, only its item in progress is charged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import grpc

from imageloom.engines import Settings
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.local import address_in, completed_items, serve
from imageloom.engines.nodes.transport import REFUSED, Node, NodeTransport
from imageloom.model import Failure
from imageloom.scheduling.protocol import Broken, Died, Drop, End, Joined, Returned
from imageloom.system.exits import cause_of
from imageloom.worker.fork_server import warm_up
from imageloom.worker.process import start

LATE = 1.0
"""Time in seconds for a process to end after its call has failed."""


class _Process(Node):
    """A node with its process, which has the other end of a pipe."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        super().__init__(f"node-{process.pid}")
        self.process, self.pid, self.pipe = process, process.pid or 0, pipe
        self.has_died = asyncio.Event()

    def kill(self) -> None:
        if not self.has_died.is_set():
            self.process.kill()


class LocalNodes(NodeTransport):
    """The transport of a run without given nodes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(None, settings.timeout)
        self._settings = settings
        self._context = warm_up(serve.__module__)
        self._folder = tempfile.mkdtemp(prefix="imageloom-")
        self._processes: set[_Process] = set()

    def start(self) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        settings = self._settings
        arguments = self._folder, theirs, settings.memory, settings.guard
        process = start(self._context, serve, *arguments, sandboxed=settings.sandbox.is_on)
        theirs.close()
        node = _Process(process, ours)
        node.said = Joined(node.name, 0, is_ready=False, reports_begin=True)
        self._nodes[node.name] = node
        self._processes.add(node)
        self._events.append(node.said)
        self._loop.add_reader(ours.fileno(), self._read, node)

    def end(self, command: End | Drop) -> None:
        """End a process. For a drop, only cancel the call."""
        node = self._nodes.get(command.worker)
        if isinstance(command, Drop) or not isinstance(node, _Process):
            super().end(command)
            return
        node.said = None
        node.kill()
        for call in node.calls.values():
            call.cancel()

    def close(self, patience: float) -> None:
        super().close(patience)
        for node in self._processes:
            node.process.terminate()
        until = time.monotonic() + patience
        for node in self._processes:
            node.process.join(max(0.0, until - time.monotonic()))
            if node.process.is_alive():
                node.process.kill()
                node.process.join()
            node.process.close()
            node.pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, node: _Process) -> None:
        """Handle a process that is ready or has ended."""
        if not os.read(node.pipe.fileno(), 64):
            self._note_end(node)
        elif not node.is_up:
            node.connect(rpc.open_async_channel(address_in(self._folder, node.pid), None))
            self._is_up(node)

    def _note_end(self, node: _Process) -> None:
        self._loop.remove_reader(node.pipe.fileno())
        node.pipe.close()
        node.process.join(LATE)
        if node.process.is_alive():
            node.process.kill()
            node.process.join()
        self._processes.discard(node)
        trouble = f"its worker died: {cause_of(node.process.exitcode)}"
        node.process.close()
        if node.said and not node.is_up:
            node.said = None
            self._report(Died(node.name, Failure("WorkerLost", trouble, True)))
        node.is_up, node.is_gone = False, True
        node.has_died.set()
        self._is_down(node, trouble)

    async def _has_failed(self, node: Node, number: int, has_begun: bool, error: Any) -> None:
        """A failed call means that its process has died. The cause is known a moment later."""
        if error.code() in (*REFUSED, grpc.StatusCode.RESOURCE_EXHAUSTED) or not isinstance(node, _Process):
            await super()._has_failed(node, number, has_begun, error)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(node.has_died.wait(), LATE)
        node.kill()
        await node.has_died.wait()
        done = completed_items(self._folder, node.pid, number)
        if done is None:
            self._report(Returned(node.name, number))
        else:
            self._report(Broken(node.name, number, Failure("WorkerLost", node.trouble, True), done))
