"""The report as one HTML page that contains all data, styles and scripts, and needs no network.

Untrusted text (names, reasons, addresses) is passed through `escape`, or as JSON to a script that only sets
texts. The page's security policy allows only the script with the given hash.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from imageloom.model import STAGES
from imageloom.records.losses import counted
from imageloom.records.timeline import Timeline
from imageloom.report import charts, html
from imageloom.report.columns import columns
from imageloom.report.drawing import Drawing, escape
from imageloom.report.figures import Figures
from imageloom.report.pictures import Sample
from imageloom.report.text import count, duration, facts, rate, spreads

MOST_FAILURES = 200
"""Maximum number of failures in the page, and of items that lost something."""


def to_html(figures: Figures, timeline: Timeline, samples: list[Sample], pictures: dict[str, str]) -> str:
    """The report as HTML.

    Args:
        samples: images before and after.
        pictures: data URIs of failed inputs, by key.
    """
    sections = [
        _head(figures),
        _tiles(figures),
        _facts(figures),
        _samples(samples),
        _timeline(),
        *_charts(figures),
        _failures(figures, pictures),
        _losses(figures),
    ]
    data = {"timeline": columns(figures, timeline), "stages": STAGES}
    title = f"imageloom, job {figures.job}"
    return html.document(title, sections, html.script("samples.js", "page.js"), html.json(data))


def _head(f: Figures) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(f.began))
    return (
        f"<header>{html.brand()}"
        f'<h1>Job {f.job} <span class="state s-{escape(f.state)}">{escape(f.state)}</span></h1>'
        f'<p class="pipeline"><code>{escape(f.pipeline)}</code></p>'
        f'<p class="note">{began}, {duration(f.seconds)}, {escape(f.engine)} with {f.workers_planned} workers</p>'
        "</header>\n"
    )


def _tiles(f: Figures) -> str:
    shown = [
        (count(f.done), "done", ""),
        (count(f.failed), "failed", "bad" if f.failed else ""),
        (rate(f.rate), "items per second", ""),
        (duration(f.item.p50), "per item, median", ""),
        (f"{100 * f.utilization:.0f}%", "of workers' time busy", ""),
        (f"{f.imbalance:.2f}" if f.imbalance is not None else "–", "imbalance: busiest worker / mean", ""),
        (count(f.retries), "retries", ""),
        (count(f.deaths), "workers lost", "bad" if f.deaths else ""),
    ]
    return html.tiles(shown)


def _facts(f: Figures) -> str:
    return html.section("run", "What was run", html.pairs(facts(f).items()))


def _samples(samples: list[Sample]) -> str:
    if not samples:
        return ""
    figures = [html.compared(s.key, s.before, s.name, s.after, s.key) for s in samples]
    return html.section("samples", "Before and after", html.samples(figures), html.SLIDE)


def _timeline() -> str:
    legend = html.legend((*STAGES, "publish", "lost"))
    body = (
        '<div class="tools"><button type="button" data-do="in" aria-label="Zoom in">+</button>'
        '<button type="button" data-do="out" aria-label="Zoom out">−</button>'
        '<button type="button" data-do="left" aria-label="Earlier">←</button>'
        '<button type="button" data-do="right" aria-label="Later">→</button>'
        '<button type="button" data-do="all">All</button>'
        '<output id="range"></output></div>'
        '<div class="canvas"><canvas id="timeline-canvas" tabindex="0" role="application" '
        'aria-label="Timeline of the workers" aria-describedby="timeline-help"></canvas>'
        '<div id="tip" role="status" hidden></div></div>'
        f'<ul class="legend">{legend}<li><span class="mark" aria-hidden="true">▲</span>retried or failed</li>'
        '<li><span class="mark" aria-hidden="true">✕</span>worker lost</li></ul>'
        '<p class="note" id="timeline-help">Drag to move. Click it, then turn the wheel to zoom, or hold Ctrl. '
        "Keys: + and − zoom, ← and → move, 0 shows all.</p>"
        "<noscript><p>The timeline needs the page's own script.</p></noscript>"
    )
    return html.section("timeline", "Timeline", body)


def _charts(f: Figures) -> Iterable[str]:
    wide, narrow = charts.drawings(f, html.WIDE), charts.drawings(f, html.NARROW)
    for name, title in (
        ("throughput", "Throughput"),
        ("workers", "Workers"),
        ("latency", "Latency"),
        ("cores", "Cores"),
        ("memory", "Memory"),
    ):
        if name in wide:
            body = html.both(wide[name], narrow[name])
            yield html.section(
                name, title, body + (_latency(f) if name == "latency" else ""), _note(wide[name])
            )
    if not f.machine.at:
        yield html.section(
            "machine", "Cores and memory", "", "The run ended before the first measurement of the machine."
        )


def _note(drawing: Drawing) -> str:
    if drawing.title == "Latency":
        return "The bar is from the median to the 90th percentile, the tick is the 99th, the dot the maximum."
    return html.note(drawing)


def _latency(f: Figures) -> str:
    rows = [
        (name, *(duration(value) if s.max else "–" for value in (s.p50, s.p90, s.p99, s.max, s.total)))
        for name, s in {**spreads(f), "item, all stages": f.item}.items()
    ]
    header = ("per item", "p50", "p90", "p99", "max", "sum")
    return html.table("Latency table", header, rows, "summed")


def _failures(f: Figures, pictures: dict[str, str]) -> str:
    if not f.failures:
        return ""
    names = [worker.name for worker in f.workers]
    labels = dict(zip(names, charts.labels(names), strict=True))
    rows = []
    for item in f.failures[:MOST_FAILURES]:
        where = escape(labels.get(item.worker, item.worker))
        picture = pictures.get(item.key)
        shown = f'<img src="{picture}" alt="">' if picture else '<span class="none">–</span>'
        rows.append(
            f"<li>{shown}<div><b>{escape(item.key)}</b><p>{escape(item.kind)}: {escape(item.reason)}</p>"
            f'<p class="note">attempt {item.attempt}, at {duration(item.at)}, {where}</p></div></li>'
        )
    kinds = ", ".join(f"{kind} {count(number)}" for kind, number in f.kinds.items())
    more = len(f.failures) - len(rows)
    rest = (
        f'<p class="note">{count(more)} more; list all: imageloom jobs show {f.job} --failed</p>'
        if more
        else ""
    )
    return html.section("failures", "Failures", f'<ul class="failures">{"".join(rows)}</ul>{rest}', kinds)


def _losses(f: Figures) -> str:
    if not f.losses:
        return ""
    rows = [
        (item.key, ", ".join(item.dropped) or "–", "; ".join(item.warnings) or "–")
        for item in f.losses[:MOST_FAILURES]
    ]
    more = len(f.losses) - len(rows)
    rest = (
        f'<p class="note">{count(more)} more; list all: imageloom jobs show {f.job} --lost</p>'
        if more
        else ""
    )
    body = html.table("Losses table", ("file", "lost", "damaged"), rows, "lost") + rest
    return html.section("losses", "Lost or damaged", body, counted(f.dropped))
