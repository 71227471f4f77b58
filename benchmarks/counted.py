"""`imageloom` with the CPU time of its recorder counted, by the clock of each thread that works for it.

    python -m benchmarks.counted FILE run PIPELINE SOURCE SINK ...

FILE gets the seconds. The clock's own calls count as the recorder's; what makes the events does not: it is a
microsecond an item.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageloom.cli import main
from imageloom.records.recorder import Recorder

spent: list[float] = []


def counted(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return method(*arguments)
        finally:
            spent.append(time.thread_time() - began)

    return call


for name in ("__call__", "_sample", "close"):  # what the driver's thread calls, and the recorder's own thread
    setattr(Recorder, name, counted(getattr(Recorder, name)))
file = Path(sys.argv.pop(1))
try:
    main()
finally:
    file.write_text(f"{sum(spent)}")
