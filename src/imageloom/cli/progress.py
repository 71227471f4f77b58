"""Progress of a run for people: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from imageloom.cli.text import say
from imageloom.errors import ImageloomError
from imageloom.model import Job
from imageloom.records.events import Advanced, Done, Event, Failed, Skipped, Started
from imageloom.records.summary import per_second
from imageloom.system.printable import printable

if TYPE_CHECKING:
    from tqdm import tqdm

PERIOD = 5.0
"""Seconds between two progress lines if stderr is not a terminal."""
REDRAW = 0.1
"""Seconds between two drawings of the bar."""
LEAST_SECONDS = 1.0
"""Seconds after which a rate is shown: a shorter time says little."""


class Tally:
    """The numbers of a run so far.

    The rate and the remaining time count the items that this run processes, from its first task on. Items that are
    skipped take no time. A large image counts as the share of its tiles that are done.
    """

    def __init__(self) -> None:
        self.done = self.failed = self.skipped = 0
        self.total: int | None = None
        """Number of the source's items, if it is known."""
        self._began: float | None = None
        self._large: dict[str, Advanced] = {}
        """The large images in progress."""

    def __call__(self, event: Event) -> None:
        match event:
            case Started() if self._began is None:
                self._began = time.monotonic()
            case Done(result):
                self.done += 1
                self._large.pop(result.key, None)
            case Failed(result):
                self.failed += 1
                self._large.pop(result.key, None)
            case Skipped():
                self.skipped += 1
            case Advanced(key):
                self._large[key] = event

    @property
    def seen(self) -> int:
        """Number of items that have ended."""
        return self.done + self.failed + self.skipped

    def speed(self) -> str:
        """Rate and remaining time as text, such as "4.5/s, about 2 min left"; empty at the start."""
        elapsed = time.monotonic() - self._began if self._began is not None else 0.0
        worked = self.done + self.failed + sum(one.share for one in self._large.values())
        if elapsed < LEAST_SECONDS or not worked:
            return ""
        rate = worked / elapsed
        if self.total is None or self.seen >= self.total:
            return per_second(rate)
        left = (self.total - self.skipped - worked) / rate
        return f"{per_second(rate)}, about {duration(left)} left"

    def tiles(self) -> str:
        """The tiles of the first large image in progress as text; empty if there is none."""
        for one in self._large.values():
            stage = f"step {one.stage} of {one.stages}, " if one.stages > 1 else ""
            more = f" and {len(self._large) - 1} more" if len(self._large) > 1 else ""
            return f"{one.key}: {stage}tile {one.done:,} of {one.total:,}{more}"
        return ""


def duration(seconds: float) -> str:
    """A time in words: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def count_items(job: Job, tally: Tally) -> None:
    """Count the items of the source in another thread, and set the tally's total."""

    def count() -> None:
        from imageloom.driver.source import Source

        with contextlib.suppress(ImageloomError):  # the driver reports it
            tally.total = sum(1 for _ in Source.of(job))

    if job.recipe.pages != "all":  # the number of items is known only when each file was opened
        threading.Thread(target=count, daemon=True).start()


class Bar:
    """A progress bar on a terminal."""

    def __init__(self, job: Job) -> None:
        from tqdm import tqdm

        self._tally = Tally()
        shape = "{n_fmt}/{total_fmt} images |{bar}| {desc}"
        self._bar: tqdm[Any] = tqdm(bar_format=shape, dynamic_ncols=True, file=sys.stderr)
        self._next = 0.0
        count_items(job, self._tally)

    def __call__(self, event: Event) -> None:
        self._tally(event)
        if (now := time.monotonic()) >= self._next:
            self._next = now + REDRAW
            self._draw()

    def _draw(self) -> None:
        tally = self._tally
        self._bar.n, self._bar.total = tally.seen, tally.total
        shown = [f"{tally.failed} failed"] if tally.failed else []
        shown += filter(None, (tally.speed(), printable(tally.tiles())))
        self._bar.set_description_str(", ".join(shown), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        self._draw()
        self._bar.close()


class Lines:
    """A progress line every few seconds.

    Args:
        job: the job, to count its items when the first line is due; None if their number is unknown.
    """

    def __init__(self, job: Job | None) -> None:
        self._job = job
        self._tally = Tally()
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        tally = self._tally
        tally(event)
        now = time.monotonic()
        if now - self._last < PERIOD:
            return
        self._last = now
        if self._job is not None:
            count_items(self._job, tally)
            self._job = None
        skipped = f" ({tally.skipped} skipped)" if tally.skipped else ""
        shown = (f"{tally.done} done{skipped}", f"{tally.failed} failed", tally.speed(), tally.tiles())
        say(", ".join(filter(None, shown)), err=True)

    def close(self) -> None:
        """Nothing is open."""
