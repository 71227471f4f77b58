"""What a job did in the last minutes: a listener of its events, for the charts and the map of tiles."""

from __future__ import annotations

import time
from collections import deque
from typing import Literal, NamedTuple

from imageloom.model import Box, Plain
from imageloom.records.events import Advanced, Collected, Done, Event, Failed, Retried

WINDOW = 300
"""Seconds that are kept."""
STEP = 5
"""Seconds of one bar of a chart."""
MOST_TIMES = 100
"""Maximum number of latencies that are kept of each second: the first ones."""
MOST_SPANS = 2000
LANE_SECONDS = 30
"""Seconds that a worker's lane shows."""
MOST_TILES = 4000
MOST_IMAGES = 8
"""Maximum number of large images, and of the tiles of each, that are kept."""

SpanState = Literal["done", "failed", "retried", "part"]


class Span(NamedTuple):
    """The time in which a worker processed an item, or a part of one, in seconds since the epoch."""

    worker: str
    key: str
    began: float
    ended: float
    state: SpanState


class Bar(Plain, frozen=True):
    """The items that ended within `STEP` seconds."""

    done: int
    failed: int
    median: float
    """Median of their latencies, in seconds."""
    slow: float
    """The 95th percentile."""


class LargeImage(Plain, frozen=True):
    """A large image in work."""

    key: str
    width: int
    height: int
    """Size of what the current step makes, in pixels; 0 if it is not known."""
    tiles: tuple[Box, ...]
    """The tiles of the current step that are done."""
    done: int
    total: int
    stage: int
    stages: int


class ActivityView(Plain, frozen=True):
    """The activity of a job, to be shown."""

    until: float
    """The time of the end, in seconds since the epoch."""
    bars: tuple[Bar, ...]
    """The oldest first; the last one ends at `until`."""
    spans: tuple[Span, ...]
    """Those that ended in the last `LANE_SECONDS`."""
    images: tuple[LargeImage, ...]


class _Second:
    __slots__ = ("at", "done", "failed", "times")

    def __init__(self, at: int) -> None:
        self.at, self.done, self.failed = at, 0, 0
        self.times: list[float] = []


class _Image:
    def __init__(self) -> None:
        self.step = (-1, -1)
        """The output and its phase."""
        self.tiles: deque[Box] = deque(maxlen=MOST_TILES)
        self.advanced = Advanced("", 0, 1, 1, 1)


class Activity:
    """The listener. It is called in the driver's thread, and read from any other one."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque(maxlen=WINDOW + STEP)
        self._spans: deque[Span] = deque(maxlen=MOST_SPANS)
        self._images: dict[str, _Image] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Done(result, _, worker, waited):
                self._end(result.key, worker, result.started, result.times.total, "done", waited)
            case Failed(result, _, worker):
                self._end(result.key, worker, result.started, result.times.total, "failed")
            case Retried(result, _, worker):
                self._span(worker, result.key, result.started, result.times.total, "retried")
            case Collected(task, outcome):
                if task.part is not None and outcome.results:
                    result = outcome.results[0]
                    worker = result.worker or outcome.worker
                    self._span(worker, result.key, result.started, result.times.total, "part")
                    if result.failure is None:
                        self._add_tile(result.key, (task.part.output, task.part.phase), task.part.write)
            case Advanced():
                if image := self._images.get(event.key):
                    image.advanced = event

    def _end(
        self, key: str, worker: str, began: float, seconds: float, state: SpanState, waited: float = 0.0
    ) -> None:
        if self._images.pop(key, None) is None:  # its parts have spans of their own
            self._span(worker, key, began, seconds, state)
        now = int(time.time())
        if not self._seconds or self._seconds[-1].at < now:
            self._seconds.append(_Second(now))
        second = self._seconds[-1]
        if state == "done":
            second.done += 1
            if len(second.times) < MOST_TIMES:
                second.times.append(waited or seconds)
        else:
            second.failed += 1

    def _span(self, worker: str, key: str, began: float, seconds: float, state: SpanState) -> None:
        if began and worker:
            self._spans.append(Span(worker, key, began, began + seconds, state))

    def _add_tile(self, key: str, step: tuple[int, int], box: Box) -> None:
        image = self._images.get(key)
        if image is None:
            if len(self._images) >= MOST_IMAGES:
                return
            image = self._images[key] = _Image()
        if image.step != step:
            image.step = step
            image.tiles = deque(maxlen=MOST_TILES)
        image.tiles.append(box)

    def view(self, now: float) -> ActivityView:
        """The last minutes before this time, in seconds since the epoch."""
        until = (int(now) // STEP + 1) * STEP
        first = until - WINDOW
        grouped: list[list[_Second]] = [[] for _ in range(WINDOW // STEP)]
        for second in self._seconds.copy():
            if first <= second.at < until:
                grouped[(second.at - first) // STEP].append(second)
        spans = tuple(span for span in self._spans.copy() if span.ended >= now - LANE_SECONDS)
        images = tuple(_shown(key, image) for key, image in list(self._images.items()))
        return ActivityView(until, tuple(map(_bar, grouped)), spans, images)


def _bar(seconds: list[_Second]) -> Bar:
    times = sorted(each for second in seconds for each in list(second.times))
    median, slow = (times[len(times) // 2], times[len(times) * 95 // 100]) if times else (0.0, 0.0)
    return Bar(sum(one.done for one in seconds), sum(one.failed for one in seconds), median, slow)


def _shown(key: str, image: _Image) -> LargeImage:
    last, tiles = image.advanced, tuple(image.tiles.copy())
    width = max([last.width, *(box.x1 for box in tiles)])
    height = max([last.height, *(box.y1 for box in tiles)])
    return LargeImage(key, width, height, tiles, last.done, last.total, last.stage, last.stages)
