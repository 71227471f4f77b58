"""Drawings of what a job does, as SVG: throughput, latency, a lane for each worker, maps of tiles.

They stretch to the width of the page, so they have no text: the page says the same in words beside them. Colours
come from the page's style sheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from imageloom.model import Box, Plain
from imageloom.service.activity import LANE_SECONDS, STEP, WINDOW, ActivityView, Bar, LargeImage, Span
from imageloom.service.web.forms import duration, rate

WIDTH, HEIGHT = 600, 90
"""Size of a chart in its own units."""
GAP = 2.0
MOST_LANES = 64
MOST_SPANS = 400
"""Maximum number of spans of a lane that are drawn: the latest."""


class Chart(Plain, frozen=True):
    """A drawing, with what it says in words."""

    svg: Markup
    title: str
    top: str
    """The value at its upper edge."""
    summary: str


class Lane(Plain, frozen=True):
    """The last seconds of a worker."""

    worker: str
    svg: Markup
    busy: float
    """Share of the time that it worked, from 0 to 1."""
    latest: str
    """The item that it ended last."""


class TileMap(Plain, frozen=True):
    """A large image with its tiles."""

    image: LargeImage
    svg: Markup


def throughput(bars: Sequence[Bar]) -> Chart:
    """Items per second, those that failed on top."""
    most = max([bar.done + bar.failed for bar in bars] or [0])
    shapes = []
    for place, bar in enumerate(bars):
        done, failed = _scaled(bar.done, most), _scaled(bar.failed, most)
        shapes += [
            _bar(place, len(bars), 0, done, "g-done"),
            _bar(place, len(bars), done, failed, "g-failed"),
        ]
    ended = sum(bar.done + bar.failed for bar in bars)
    failed_all = sum(bar.failed for bar in bars)
    summary = f"{ended} items ended in the last {WINDOW // 60} minutes, {failed_all} of them failed"
    return Chart(_svg(shapes, WIDTH, HEIGHT, summary), "Throughput", rate(most / STEP), summary)


def latency(bars: Sequence[Bar]) -> Chart:
    """The median and the 95th percentile of the latencies."""
    most = max([bar.slow for bar in bars] or [0.0])
    shapes = []
    for place, bar in enumerate(bars):
        median, slow = _scaled(bar.median, most), _scaled(bar.slow, most)
        shapes.append(_bar(place, len(bars), 0, median, "g-median"))
        shapes.append(_bar(place, len(bars), median, slow - median, "g-slow"))
    last = next((bar for bar in reversed(bars) if bar.slow), None)
    summary = (
        f"latest: median {duration(last.median)}, 95 of 100 within {duration(last.slow)}"
        if last
        else "no items"
    )
    return Chart(_svg(shapes, WIDTH, HEIGHT, summary), "Latency", duration(most) if most else "–", summary)


def _scaled(value: float, most: float) -> float:
    return HEIGHT * value / most if most else 0.0


def _bar(place: int, count: int, above: float, height: float, kind: str) -> str:
    if height <= 0:
        return ""
    wide = WIDTH / count
    x, y = place * wide + GAP / 2, HEIGHT - above - height
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{wide - GAP:.1f}" height="{height:.1f}"/>'


def lanes(view: ActivityView, now: float) -> list[Lane]:
    """A lane for each worker that ended something lately, by name."""
    found: dict[str, list[Span]] = {}
    for span in view.spans:
        found.setdefault(span.worker, []).append(span)
    return [_lane(worker, found[worker], now) for worker in sorted(found)[:MOST_LANES]]


def _lane(worker: str, spans: Sequence[Span], now: float) -> Lane:
    first, scale = now - LANE_SECONDS, WIDTH / LANE_SECONDS
    shapes, busy = [], 0.0
    for span in spans[-MOST_SPANS:]:
        began, ended = max(first, span.began), min(now, span.ended)
        if ended <= first:
            continue
        busy += max(0.0, ended - began)
        x, wide = (began - first) * scale, max(0.8, (ended - began) * scale)
        shapes.append(f'<rect class="g-{span.state}" x="{x:.1f}" y="0" width="{wide:.1f}" height="14"/>')
    share = min(1.0, busy / LANE_SECONDS)
    text = f"busy {100 * share:.0f} % of the last {LANE_SECONDS} seconds"
    return Lane(worker, _svg(shapes, WIDTH, 14, text), share, spans[-1].key)


def tile_map(image: LargeImage, in_work: Iterable[Box]) -> TileMap:
    """The tiles of a large image: those that are done, and those in work."""
    shapes = [_tile(box, "t-work") for box in in_work] + [_tile(box, "t-done") for box in image.tiles]
    text = f"{image.done} of {image.total} tiles are done"
    return TileMap(image, _svg(shapes, max(1, image.width), max(1, image.height), text, "map"))


def _tile(box: Box, kind: str) -> str:
    return f'<rect class="{kind}" x="{box.x0}" y="{box.y0}" width="{box.width}" height="{box.y1 - box.y0}"/>'


def _svg(shapes: Iterable[str], width: int, height: int, text: str, kind: str = "chart") -> Markup:
    """A drawing. Its shapes have numbers only, and the text is of this module: nothing needs escaping."""
    stretch = "" if kind == "map" else ' preserveAspectRatio="none"'
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {height}"{stretch} role="img" aria-label="{text}">'
        f"{''.join(shapes)}</svg>"
    )
