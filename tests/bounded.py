"""Run as a program: does each file of a folder by itself and says what came of it, how long, how much memory.

    python bounded.py SOURCE SINK

One line of JSON for each file: its name, the kind and the message of its failure or null, the seconds of
processor time, and by how many bytes the resident memory rose at its highest (Linux).
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

from imageloom.model import Item, Limits, Output, Recipe, Step, Task, Work
from imageloom.stores.local import LocalStore
from imageloom.work import perform


def main(source: Path, sink: Path) -> None:
    store = LocalStore(str(sink))
    store.prepare()
    recipe = Recipe((Output((Step("flip"),)),))
    for path in sorted(source.iterdir()):
        item = Item(path.name, path.stat().st_size)
        task = Task(1, "1", str(source), store.address, recipe, Limits(), (Work(item, (path.name,), 1),))
        before = _memory("VmRSS")
        _forget_peak()
        began = time.process_time()
        failure = perform(task).results[0].failure
        seconds = time.process_time() - began
        said = None if failure is None else [failure.kind, failure.message]
        line = {"name": path.name, "failure": said, "seconds": seconds, "bytes": _memory("VmHWM") - before}
        os.write(1, json.dumps(line).encode() + b"\n")


def _memory(field: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at the highest since it was last forgotten."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
