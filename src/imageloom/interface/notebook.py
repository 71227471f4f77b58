"""What notebooks and terminals show of jobs and images."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from imageloom.interface.results import Progress, of_event
from imageloom.records.events import Event, Listener

if TYPE_CHECKING:
    from tqdm import tqdm

PERIOD = 0.2
"""Seconds between two updates of a progress bar in a notebook."""


class Bar:
    """A progress bar, as a context: in a notebook, or else on stderr.

    Args:
        is_wanted: False: it shows nothing.
    """

    def __init__(self, is_wanted: bool) -> None:
        self._counts = dict.fromkeys(("done", "failed", "skipped"), 0)
        self._began = self._last = time.monotonic()
        self._handle: Any = None
        self._bar: tqdm[Any] | None = None
        self.listeners: tuple[Listener, ...] = (self._take,) if is_wanted else ()

    def __enter__(self) -> Self:
        if self.listeners and (display := _display()):
            self._handle = display(_Html(self._progress(True)), display_id=True)
        elif self.listeners:
            from tqdm import tqdm

            self._bar = tqdm(unit=" images", dynamic_ncols=True, smoothing=0.1, file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.update(_Html(self._progress(False)))
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
            self._handle.update(_Html(self._progress(True)))


class _Html:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __repr__(self) -> str:
        return str(self._progress)

    def _repr_html_(self) -> str:
        return progress_html(self._progress)


def progress_html(progress: Progress) -> str:
    """A line about a job, with a bar while it runs."""
    bar = "<progress></progress> " if progress.is_running else ""
    return f'<div style="font-variant-numeric:tabular-nums">{bar}{progress}</div>'


def _display() -> Any:
    """IPython's function `display`, in a notebook's kernel; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
