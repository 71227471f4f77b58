"""Operators that hang, or kill their worker, on marked images. They record the begin and the end of each image.

For the tests of engines, with `Recipe.operators`. The environment variable IMAGELOOM_STAGE is the folder of the
notes. Workers inherit it from the process that opens the engine. Waiting operators return when the file `release`
exists in this folder, so each test ends. Each image has one colour: red is its number, and blue is 255 if it is
marked.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imageloom.model import Pixels
from imageloom.operators import operator


def _in_stage(name: str) -> Path:
    return Path(os.environ["IMAGELOOM_STAGE"]) / name


@contextmanager
def _noted(image: Pixels) -> Iterator[bool]:
    """Record the image's begin and end, with process id and time. Yields whether the image is marked."""
    number, _, blue = image[0, 0].tolist()
    _note("begin", number)
    yield blue == 255
    _note("end", number)


def _note(what: str, number: int) -> None:
    """Append one line, in one write: many processes write to this file."""
    file = os.open(_in_stage("notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{what} {number} {os.getpid()} {time.monotonic()}\n".encode())
    finally:
        os.close(file)


def _wait_for_release(between: Callable[[], None]) -> None:
    release = _in_stage("release")
    while not release.exists():
        between()


def _sleep() -> None:
    time.sleep(0.01)


@operator("point", examples=("wait",))
def wait(image: Pixels) -> Pixels:
    """Wait for the file `release`, with any image."""
    with _noted(image):
        _wait_for_release(_sleep)
    return image


@operator("point", examples=("hang_on_mark 0",))
def hang_on_mark(image: Pixels, *, seconds: float) -> Pixels:
    """Hang on a marked image. Sleep for `seconds` on any other image."""
    with _noted(image) as is_marked:
        if is_marked:
            _wait_for_release(_sleep)
        else:
            time.sleep(seconds)
    return image


@operator("point", examples=("spin_on_mark 0",))
def spin_on_mark(image: Pixels, *, seconds: float) -> Pixels:
    """Loop without end on a marked image. Sleep for `seconds` on any other image."""
    with _noted(image) as is_marked:
        if is_marked:
            _wait_for_release(lambda: None)
        else:
            time.sleep(seconds)
    return image


@operator("point", examples=("die_on_mark 0",))
def die_on_mark(image: Pixels, *, seconds: float) -> Pixels:
    """Kill the worker process on a marked image. Sleep for `seconds` on any other image."""
    with _noted(image) as is_marked:
        if is_marked:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
    return image
