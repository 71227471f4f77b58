"""The process that forks the decoding processes of one worker. It loads their modules, and has one thread.

It never had the worker's credentials: it is a process of the fork server, or a new interpreter. It ends when the
worker closes the line, or ends. Its children end with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from imageloom import codecs
from imageloom.model import Format, Plain
from imageloom.system import confinement
from imageloom.system.machine import BLAS_THREADS, half_of_memory

MOST_BYTES = 1 << 16
"""Maximum size of one request, in bytes."""


class Fork(Plain, frozen=True, tag=True):
    """Fork a process. The answer is its id. Descriptors come with it: a line, shared memory, perhaps a file."""

    operators: tuple[str, ...] = ()
    """Paths of the files that it may read: those of operators, and those that steps name."""
    memory: int = 0
    """Maximum memory for data in bytes; 0: half of the machine's memory."""
    formats: tuple[Format, ...] = ()
    """The formats that it will need. Their codecs are imported before the fork, once for all processes."""


class End(Plain, frozen=True, tag=True):
    """End a process if it has not ended. The answer is its exit code, negative for a signal."""

    process: int


_request = msgspec.msgpack.Decoder(Fork | End).decode


class Zygote:
    """The worker's side of the line. It is not thread-safe.

    Args:
        line: the line to a process that runs `serve`; None to start a new interpreter.
    """

    def __init__(self, line: socket.socket | None = None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if line is None:
            line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = _start(theirs.fileno())
        self._line = line

    def ask(self, request: Fork | End, descriptors: Sequence[int] = ()) -> int:
        """Send a request and wait for its answer.

        Raises:
            OSError: the process has ended, or cannot fork.
        """
        socket.send_fds(self._line, [msgspec.msgpack.encode(request)], descriptors)
        answer = self._line.recv(64)
        if not answer:
            raise ConnectionResetError("the process that starts decoding processes has ended")
        if isinstance(request, Fork) and int(answer) < 0:
            raise OSError(-int(answer), os.strerror(-int(answer)))
        return int(answer)

    def close(self) -> None:
        """End the process and all its children."""
        self._line.close()
        if self._process is not None:
            self._process.wait()


def _start(line: int) -> subprocess.Popen[bytes]:
    """Start a new interpreter with a cleared environment. It finds the same modules."""
    variables = confinement.environment(os.environ)
    variables |= {name: variables.get(name, "1") for name in BLAS_THREADS}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path in confinement.readable())
    code = f"from imageloom.worker.zygote import main; main({line})"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=variables,
        pass_fds=[line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def main(line: int) -> None:
    """Run in a new interpreter."""
    with contextlib.suppress(ConnectionError):  # the worker has ended
        serve(socket.socket(fileno=line))


def serve(line: socket.socket) -> None:
    """Fork processes, until the other end of the line is closed.

    The modules are loaded for the first request: most workers need no decoding process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal
    own = os.getpid()
    readable: list[str] | None = None
    while True:
        data, descriptors, _, _ = socket.recv_fds(line, MOST_BYTES, 3)
        if not data:
            return
        if readable is None:
            readable = _prepare()
        request = _request(data)
        if isinstance(request, End):
            line.send(str(_end(request.process)).encode())
            continue
        if len(descriptors) > 2:
            from imageloom.worker import large_sandboxed  # noqa: F401 - else each child would import it
        for format in request.formats:
            with contextlib.suppress(Exception):  # the child fails by name
                codecs.get(format)
        try:
            child = os.fork()
        except OSError as error:
            child = -(error.errno or 1)
        if child == 0:
            from imageloom.worker import sandboxed  # is loaded

            try:
                memory = request.memory or half_of_memory()
                paths = [*readable, *request.operators, *map(os.path.realpath, request.operators)]
                sandboxed.run(descriptors, own, paths, memory)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(str(child).encode())


def _prepare() -> list[str]:
    """Load once what all children need. Returns the paths that they may read."""
    import simplejpeg  # noqa: F401

    from imageloom.codecs import jpeg  # noqa: F401
    from imageloom.worker import sandboxed  # noqa: F401
    from imageloom.worker.setup import configure_process

    configure_process()
    readable = confinement.readable()
    gc.freeze()
    return readable


def _end(child: int) -> int:
    os.kill(child, signal.SIGKILL)  # it is a child that nobody has waited for, so its id is not used again
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
