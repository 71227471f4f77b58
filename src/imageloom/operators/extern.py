"""Operators of users: Python files that a user names, and packages that declare an entry point.

A package declares its operators in its pyproject.toml:

    [project.entry-points."imageloom.operators"]
    mine = "my_package.my_operators"

The name is free: the operators' own names are those of their functions.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

from imageloom.errors import ImageloomError, TaskRefused, UsageError
from imageloom.system.registry import Registry

_PACKAGES = Registry("operator", {}, labels=True)
_loaded: dict[str, str] = {}
"""The SHA-256 of each file whose operators are registered, by its path."""
_loading = threading.RLock()
reloaded: list[Callable[[str], object]] = []
"""Functions to call with a module's name before it is loaded again. They clear caches that depend on it."""


def load_files(paths: Sequence[str], digests: Sequence[str] = ()) -> None:
    """Import files of operators. A file is imported once, and again if another digest is required.

    Args:
        digests: required SHA-256 of each file, see `digests_of`; empty to accept any content.

    Raises:
        UsageError: a file does not exist or raises an error; the message names the file and the line.
        TaskRefused: a file has another digest.
    """
    for path, digest in zip_longest(paths, digests[: len(paths)], fillvalue=""):
        if path not in _loaded or digest not in ("", _loaded[path]):
            _load_file(path, digest)


def digests_of(paths: Sequence[str]) -> tuple[str, ...]:
    """The SHA-256 of each file as it was imported."""
    load_files(paths)
    return tuple(_loaded[path] for path in paths)


def _load_file(path: str, digest: str) -> None:
    with _loading:
        if path in _loaded and digest in ("", _loaded[path]):  # another thread has loaded it
            return
        try:
            source = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot load operators from {path}: {error.strerror}") from None
        found = sha256(source).hexdigest()
        if digest not in ("", found):
            raise TaskRefused(
                f"the operators file {path} differs from the one at the start of the job: it was edited, or this "
                "worker sees another file at the same path"
            )
        _loaded.pop(path, None)  # if the file raises, none of its operators stays registered
        _run(path, source)
        _loaded[path] = found


def _run(path: str, source: bytes) -> None:
    name = f"imageloom_user_{zlib.crc32(path.encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UsageError(f"cannot load operators from {path}: it is not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    if name in sys.modules:
        for call in reloaded:
            call(name)
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # the bytes that were hashed
    except Exception as error:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        if isinstance(error, SyntaxError):
            lines.append(error.lineno)
            error = SyntaxError(error.msg)
        where = f"line {lines[-1]}: " if lines else ""
        raise UsageError(f"cannot load operators from {path}: {where}{_name_of(error)}{error}") from None


def _name_of(error: Exception) -> str:
    """The class of an error as the start of a message. Imageloom's own errors need none."""
    return "" if isinstance(error, ImageloomError) else f"{type(error).__name__}: "


@cache
def load_packages() -> None:
    """Import the modules that installed packages declare, once; those that cannot be imported are logged."""
    for _ in _PACKAGES.plugins():
        pass


@cache
def _packages() -> frozenset[str]:
    """Names of the packages that declare operators."""
    return frozenset(module.__name__.partition(".")[0] for _, module in _PACKAGES.plugins())


def is_installed(module: str) -> bool:
    """Whether other processes can load the operators of a module: it is imageloom's own, of a file that was named,
    or of an installed package."""
    return module.startswith("imageloom") or module.partition(".")[0] in _packages()


def contents(paths: Iterable[str]) -> list[int]:
    """The CRC-32 of each file. It changes when an operator is edited."""
    found = []
    for path in paths:
        with open(path, "rb") as file:
            found.append(zlib.crc32(file.read()))
    return found
