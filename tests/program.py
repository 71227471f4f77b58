"""The program as people run it, and what it leaves on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from imageloom.codecs import get
from imageloom.samples import draw_photo

COMMAND = [sys.executable, "-c", "from imageloom.cli import main; main()"]


def imageloom(
    *arguments: object, cwd: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [*COMMAND, *(os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments)],
        cwd=cwd,
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
        **options,
    )


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the program and go on."""
    return subprocess.Popen([*COMMAND, *(str(a) for a in arguments)], text=True, **options)


def draw(path: Path, seed: int = 0, width: int = 120, height: int = 90) -> Path:
    """A small drawn photo in a file, JPEG or PNG by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = get("png" if path.suffix == ".png" else "jpeg")
    path.write_bytes(codec.encode(draw_photo(seed, width, height), 90))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def names(folder: Path) -> list[str]:
    """All that lies below a folder: files, folders, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
