"""Operators from outside: files that a user names, and packages that declare an entry point.

A package makes its operators known in its pyproject.toml:

    [project.entry-points."imageloom.operators"]
    mine = "my_package.my_operators"
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
import zlib
from collections.abc import Iterable
from functools import cache, lru_cache

from imageloom.errors import UsageError

GROUP = "imageloom.operators"


def load_files(paths: Iterable[str]) -> None:
    """Import files whose operators register themselves; each is imported once.

    Raises:
        UsageError: a file is not there, or raises; names the file and the line.
    """
    for path in paths:
        _load_file(path)


@cache
def _load_file(path: str) -> None:
    name = f"imageloom_user_{zlib.crc32(path.encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise UsageError(f"cannot load operators from {path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f"line {lines[-1]}: " if lines else ""
        raise UsageError(
            f"cannot load operators from {path}: {where}{type(error).__name__}: {error}"
        ) from None


@lru_cache(maxsize=1)
def load_packages() -> None:
    """Import the modules that installed packages declare.

    Raises:
        UsageError: a module raises; names the package's entry point.
    """
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            raise UsageError(f"cannot load the operators of {point.value}: {error}") from error


def contents(paths: Iterable[str]) -> list[int]:
    """A checksum of each file: an operator that was edited means something else."""
    found = []
    for path in paths:
        with open(path, "rb") as file:
            found.append(zlib.crc32(file.read()))
    return found
