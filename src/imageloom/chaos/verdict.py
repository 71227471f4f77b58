"""Compares the results of a run with the expected results, without using imageloom's own records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MOST = 5
"""Maximum number of names in the message of a problem."""


def compare(folder: Path, wanted: Path) -> Iterator[str]:
    """Yield the differences between a folder and the expected one, comparing all files byte by byte."""
    ours, theirs = _names(folder), _names(wanted)
    different = [name for name in sorted(ours & theirs) if not _are_equal(folder / name, wanted / name)]
    for what, names in (
        ("missing", sorted(theirs - ours)),
        ("different from serial", different),
        ("unexpected", sorted(ours - theirs)),
    ):
        if names:
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            yield f"{what}: {', '.join(names[:MOST])}{more}"


def left_in_memory(paths: set[str]) -> Iterator[str]:
    """Yield the shared memory that remains after all processes have ended."""
    for path in sorted(paths):
        if os.path.exists(path):
            yield f"shared memory is left: {path}"


def _names(folder: Path) -> set[str]:
    """Relative paths of all files and folders below a folder; folders end with a slash."""
    return {str(p.relative_to(folder)) + "/" * p.is_dir() for p in folder.rglob("*")}


def _are_equal(one: Path, other: Path) -> bool:
    if one.is_dir() or other.is_dir():
        return one.is_dir() and other.is_dir()
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
