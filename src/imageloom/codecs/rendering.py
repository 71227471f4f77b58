"""Runs the programs in `renderers` and answers their requests."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from imageloom.codecs import renderers
from imageloom.codecs.bits import Data
from imageloom.codecs.renderers import ANSWER, HEAD, REQUEST
from imageloom.errors import CorruptImage, LimitExceeded, UnsupportedImage
from imageloom.system import confinement

_PROGRAM = str(Path(renderers.__file__))
_MEMORY = 900 << 20
"""Address space of a renderer in bytes, with its libraries, beside 16 bytes per pixel."""
_PIXELS_PER_SECOND = 2_000_000
_MOST_READ = 1 << 30
"""Maximum number of bytes that a renderer may ask for."""


def render(name: str, data: Data, first: str, second: str, what: str, pixels: int = 0) -> bytes:
    """Run a renderer on a document.

    Args:
        name: the function's name in `renderers`.
        first, second: its arguments.
        what: the kind of document, for messages.
        pixels: number of pixels to draw.

    Raises:
        CorruptImage: the library refuses the document, or has crashed.
        LimitExceeded: it needs too much memory or processor time.
        UnsupportedImage: it needs a password.
        MoreNeeded: the document is not complete.
    """
    if confinement.is_confined():  # it has limits already, and must not start a process
        return _drawn_here(name, data, first, second, what)
    seconds = 2 + pixels // _PIXELS_PER_SECOND
    arguments = (name, first, second, len(data), _MEMORY + 16 * pixels, seconds)
    command = [sys.executable, "-P", _PROGRAM, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            answer = _answered(process, data)
        finally:
            process.kill()
    if answer is not None:
        kind, body = answer
        if kind == ANSWER:
            return body
        raise _refusal(body.decode(errors="replace"), what)
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise LimitExceeded(f"drawing the {what} takes more than {seconds} s of processor time")
    if process.returncode == -signal.SIGABRT:
        raise LimitExceeded(f"the {what} needs too much memory")
    raise CorruptImage(f"the {what} cannot be drawn: the library ended with {process.returncode}")


def _drawn_here(name: str, data: Data, first: str, second: str, what: str) -> bytes:
    """Run a renderer in this process."""
    document: Any = renderers.Held(data[: len(data)])
    try:
        return renderers.PROGRAMS[name](document, first, second)
    except Exception as error:
        raise _refusal(f"{type(error).__name__}: {error}", what) from None


def _refusal(text: str, what: str) -> Exception:
    """The error for the message of a library."""
    message = " ".join(text.split())
    if "password" in message.lower():
        return UnsupportedImage(f"the {what} can only be opened with a password")
    if "MemoryError" in message:
        return LimitExceeded(f"the {what} needs too much memory")
    return CorruptImage(f"the {what} cannot be drawn: {message}")


def _answered(process: subprocess.Popen[bytes], data: Data) -> tuple[bytes, bytes] | None:
    """The kind and the body of the last message; None if the process has ended without one."""
    assert process.stdin is not None
    assert process.stdout is not None
    left = _MOST_READ
    while len(head := process.stdout.read(HEAD.size)) == HEAD.size:
        kind, at, count = HEAD.unpack(head)
        if kind != REQUEST:
            body = process.stdout.read(count)
            return (kind, body) if len(body) == count else None
        left -= count
        if left < 0:
            raise LimitExceeded("the document is read too often")
        try:
            process.stdin.write(data[at : at + count])
            process.stdin.flush()
        except BrokenPipeError:
            return None
    process.wait()
    return None
