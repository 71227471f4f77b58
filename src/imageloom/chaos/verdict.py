"""What a run has left, against what it should have: looked at from the outside, without what imageloom says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MOST = 5
"""Names that are told of each kind of trouble."""


def compare(folder: Path, wanted: Path) -> Iterator[str]:
    """What is wrong in a folder that should be another's equal, file by file and byte by byte."""
    ours, theirs = _names(folder), _names(wanted)
    different = [name for name in sorted(ours & theirs) if not _are_equal(folder / name, wanted / name)]
    for what, names in (
        ("missing", sorted(theirs - ours)),
        ("not equal to serial's", different),
        ("there and should not be", sorted(ours - theirs)),
    ):
        if names:
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            yield f"{what}: {', '.join(names[:MOST])}{more}"


def left_in_memory(paths: set[str]) -> Iterator[str]:
    """What is left of the shared memory that processes had, who have all ended."""
    for path in sorted(paths):
        if os.path.exists(path):
            yield f"shared memory is left: {path}"


def _names(folder: Path) -> set[str]:
    """All that lies below a folder; folders have a slash."""
    return {str(p.relative_to(folder)) + "/" * p.is_dir() for p in folder.rglob("*")}


def _are_equal(one: Path, other: Path) -> bool:
    if one.is_dir() or other.is_dir():
        return one.is_dir() and other.is_dir()
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
