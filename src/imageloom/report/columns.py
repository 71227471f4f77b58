"""The bars of the page's timeline as compressed columns of numbers: 100,000 items take a few megabytes."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from imageloom.model import STAGES
from imageloom.records.timeline import ASSEMBLED, PART, Attempt, Timeline
from imageloom.report.charts import labels
from imageloom.report.figures import DEATHS, Figures, rows
from imageloom.system.printable import shows

MOST_BARS = 150_000
"""Maximum number of attempts that are shown. Of more, only every second, third, ... is, and all failed ones."""

WIDE = (
    "started",
    "read",
    "decode",
    "filter",
    "encode",
    "write",
    "lost",
    "wait",
    "collected",
    "publish",
    "row",
)
"""Columns of 32 bits; moments and durations are in `unit` microseconds."""
NARROW = ("outcome", "number", "died")
"""Columns of 8 bits."""


def columns(figures: Figures, timeline: Timeline) -> dict[str, Any]:
    """The data for the page's script: sizes and names as JSON, numbers and keys as one block in base64.

    The block is compressed with zlib: all wide columns, all narrow columns, then the keys, separated by line
    feeds. The bars are sorted by row, and by time in each row. Publications are in the last row, the driver's.
    """
    names = rows(timeline)
    shown = [worker.name for worker in figures.workers]
    place = {name: row for row, name in enumerate(shown)}
    attempts = timeline.attempts
    step = -(-len(attempts) // MOST_BARS) or 1
    if step > 1:
        attempts = [a for turn, a in enumerate(attempts) if a.outcome or turn % step == 0]
    driver = len(shown)

    def where(a: Attempt) -> tuple[int, int]:
        """The row and the beginning; what was put together of parts has only its publication."""
        if a.made_at == ASSEMBLED:
            return driver, a.collected
        return place.get(names[a.worker], driver), max(0, a.started)

    attempts = sorted(attempts, key=where)
    latest = max((a.collected + a.publish for a in attempts), default=0)
    unit = 1
    while latest / unit >= 2**32 - 1:
        unit *= 10
    wide = np.array([_wide(a, *where(a), unit) for a in attempts], np.int64).reshape(-1, len(WIDE))
    narrow = np.array(
        [(a.outcome, min(a.number, 255), a.kind in DEATHS) for a in attempts], np.uint8
    ).reshape(-1, len(NARROW))
    keys = "\n".join(_line(a) for a in attempts)
    block = b"".join(
        (
            np.ascontiguousarray(np.clip(wide, 0, 2**32 - 1).T.astype("<u4")).tobytes(),
            np.ascontiguousarray(narrow.T).tobytes(),
            keys.encode("utf-8", "replace"),
        )
    )
    return {
        "count": len(attempts),
        "step": step,
        "unit": unit,
        "seconds": figures.seconds,
        "rows": [*labels(shown), "driver"],
        "wide": WIDE,
        "narrow": NARROW,
        "block": base64.b64encode(zlib.compress(block, 6)).decode(),
    }


def _wide(a: Attempt, row: int, begin: int, unit: int) -> tuple[int, ...]:
    wait = max(0, a.started - a.submitted) if a.submitted >= 0 else 0
    stages = [0 if a.made_at == ASSEMBLED else getattr(a, stage) for stage in STAGES]
    publish = 0 if a.made_at == PART else a.publish
    moments = (begin, *stages, a.lost, wait, a.collected, publish)
    return (*(value // unit for value in moments), row)


def _line(a: Attempt) -> str:
    """A key as one line that can be shown, with its part."""
    key = a.key if a.key.isprintable() else "".join(c if shows(c) else "\ufffd" for c in a.key)
    return f"{key} ({a.part})" if a.part else key
