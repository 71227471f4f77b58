"""Hostile files done in processes of their own: what came of each, and which went over a bound."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bounded import KILLED_AFTER, Stage
from imageloom import errors
from imageloom.testing.hostile import Hostile

SECONDS = 2.0
BYTES = 256 << 20
_PROGRAM = Path(__file__).with_name("bounded.py")
_STAGES = msgspec.json.Decoder(list[Stage])


def outcomes(files: Sequence[Hostile], folder: Path, processes: int = 1) -> dict[str, list[Stage]]:
    """The stages of each file by its name; one that ends its process has a last stage that says so.

    Args:
        folder: an empty one.
        processes: how many run at the same time.
    """
    source = folder / "source"
    source.mkdir()
    for file in files:
        file.write(source)
    names = [file.name for file in files]
    found: dict[str, list[Stage]] = {}
    with ThreadPoolExecutor(processes) as pool:
        shares = (names[n::processes] for n in range(processes))
        sinks = (folder / f"sink-{n}" for n in range(processes))
        for some in pool.map(_share, [source] * processes, sinks, shares):
            found |= some
    return found


def _share(source: Path, sink: Path, names: list[str]) -> dict[str, list[Stage]]:
    """Those of one process at a time; after one that is killed the next goes on behind the file."""
    found: dict[str, list[Stage]] = {}
    while rest := names[len(found) :]:
        run = subprocess.run(
            [sys.executable, str(_PROGRAM), str(source), str(sink)],
            input="\n".join(rest),
            capture_output=True,
            check=False,
            timeout=60 + KILLED_AFTER * len(rest),
            text=True,
        )
        lines = run.stdout.splitlines()
        found |= {name: _STAGES.decode(line) for name, line in zip(lines[::2], lines[1::2], strict=False)}
        if run.returncode:
            said = signal.Signals(-run.returncode).name if run.returncode < 0 else run.stderr[-2000:]
            assert len(lines) % 2, said
            found[lines[-1]] = [Stage("killed", "Crash", said, 0, 0)]
    return found


def wrong(files: Sequence[Hostile], found: dict[str, list[Stage]]) -> list[str]:
    """Files that went over a bound, or whose failure has no name or should not be one."""
    said = []
    for file in files:
        stages = found[file.name]
        for stage in stages:
            kind = getattr(errors, stage.failure or "", None)
            by_name = stage.failure is None or (isinstance(kind, type) and issubclass(kind, errors.ItemError))
            is_over = stage.seconds > SECONDS or stage.bytes > BYTES
            if is_over or not by_name or (file.harmless and stage.failure):
                said.append(f"{file.name}: {stage}")
        if file.harmless is False and not any(stage.failure for stage in stages):
            said.append(f"{file.name}: done, though it is to be refused")
    return said


def summary(found: dict[str, list[Stage]]) -> str:
    """How many ended in which way, the slowest and the largest."""
    stages = [(name, stage) for name, some in found.items() for stage in some]
    kinds = Counter(f"{stage.name} {stage.failure or 'done'}" for _, stage in stages)
    slowest = max(stages, key=lambda of: of[1].seconds)
    largest = max(stages, key=lambda of: of[1].bytes)
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return (
        f"{len(found)} files: {counts}; slowest {slowest[0]} ({slowest[1].name}) {slowest[1].seconds:.2f} s; "
        f"largest {largest[0]} ({largest[1].name}) {largest[1].bytes / 1e6:.0f} MB"
    )
