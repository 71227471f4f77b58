"""What notebooks and terminals show of jobs and images."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from imageloom.driver.source import Source
from imageloom.errors import ImageloomError
from imageloom.interface.results import Progress, of_event
from imageloom.model import Job
from imageloom.records.events import Event, Listener

if TYPE_CHECKING:
    from tqdm import tqdm

PERIOD = 0.2
"""Seconds between two updates of a progress bar in a notebook."""


class Bar:
    """A progress bar, as a context: in a notebook, or else on stderr. A second thread counts the items.

    Args:
        job: None: it shows nothing.
    """

    def __init__(self, job: Job | None) -> None:
        self._job = job
        self._expected = 0
        self._has_ended = False
        self._counts = dict.fromkeys(("done", "failed", "skipped"), 0)
        self._began = self._last = time.monotonic()
        self._handle: Any = None
        self._bar: tqdm[Any] | None = None
        self.listeners: tuple[Listener, ...] = (self._take,) if job else ()

    def __enter__(self) -> Self:
        if self._job is None:
            return self
        if display := _display():
            self._handle = display(_Html(self._progress(True), 0), display_id=True)
        else:
            from tqdm import tqdm

            self._bar = tqdm(unit=" images", dynamic_ncols=True, smoothing=0.1, file=sys.stderr)
        if self._job.recipe.pages != "all":  # the number of items is known only when each file was opened
            threading.Thread(target=self._count, args=(self._job,), daemon=True).start()
        return self

    def _count(self, job: Job) -> None:
        with suppress(ImageloomError):  # the driver reports it
            count = 0
            for count, _ in enumerate(Source.of(job), 1):  # noqa: B007
                if self._has_ended:
                    return
            self._expected = count
            if self._bar is not None:
                self._bar.total = count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended = True
        if self._handle is not None:
            self._handle.update(_Html(self._progress(False), 0))
        if self._bar is not None:
            self._bar.close()

    def _progress(self, is_running: bool) -> Progress:
        return Progress(**self._counts, seconds=time.monotonic() - self._began, is_running=is_running)

    def _take(self, event: Event) -> None:
        if (result := of_event(event, "")) is None:
            return
        self._counts[result.state] += 1
        if self._bar is not None:
            self._bar.update()
        now = time.monotonic()
        if self._handle is not None and now - self._last >= PERIOD:
            self._last = now
            self._handle.update(_Html(self._progress(True), self._expected))


class _Html:
    def __init__(self, progress: Progress, expected: int) -> None:
        self._progress, self._expected = progress, expected

    def __repr__(self) -> str:
        return str(self._progress)

    def _repr_html_(self) -> str:
        return progress_html(self._progress, self._expected)


def progress_html(progress: Progress, expected: int = 0) -> str:
    """A line about a job, with a bar while it runs.

    Args:
        expected: number of items of the job; 0: not known.
    """
    scale = f' value="{progress.total}" max="{expected}"' if expected else ""
    bar = f"<progress{scale}></progress> " if progress.is_running else ""
    return f'<div style="font-variant-numeric:tabular-nums">{bar}{progress}</div>'


def _display() -> Any:
    """IPython's function `display`, in a notebook's kernel; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
