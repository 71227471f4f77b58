"""The bench as one HTML page, made of `bench.json` alone."""

from __future__ import annotations

import time

from imageloom.bench import charts, text
from imageloom.bench.records import Bench
from imageloom.bench.table import table
from imageloom.report import html
from imageloom.report.drawing import escape
from imageloom.report.text import count, duration, rate, size

_TITLES = {
    "throughput": "Throughput",
    "speedup": "Speed-up",
    "efficiency": "Efficiency",
    "stages": "Where the time goes",
    "timelines": "Timelines side by side",
    "latency": "Latency of an image",
    "cpu": "CPU time",
    "memory": "Memory",
    "tiles": "Tile sizes",
}


def to_html(bench: Bench) -> str:
    """The page."""
    tables, notes = text.tables(bench), text.notes(bench)
    wide, narrow = charts.drawings(bench, html.WIDE), charts.drawings(bench, html.NARROW)
    body = [_head(bench), _tiles(bench), _wrong(bench)]
    body.append(html.section("run", "What was run", html.pairs(_facts(bench))))
    header, *rows = tables["Engines"]
    body.append(
        html.section(
            "engines", "Engines", html.table("Engines table", header, rows, "dense"), notes["Engines"]
        )
    )
    for name, title in _TITLES.items():
        if name not in wide:
            continue
        shown = html.both(wide[name], narrow[name])
        if title in tables:
            header, *rows = tables[title]
            shown += html.table(f"{title} table", header, rows)
        words = " ".join(filter(None, (html.note(wide[name]), notes.get(title))))
        body.append(html.section(name, title, shown, words))
    for title in ("Faults", "Peers"):
        if title in tables:
            header, *rows = tables[title]
            shown = html.table(f"{title} table", header, rows)
            body.append(html.section(title.lower(), title, shown, notes.get(title, "")))
    return html.document("imageloom, bench", body, html.script())


def _head(bench: Bench) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(bench.began))
    state, words = ("failed", "something is wrong") if bench.wrong else ("done", "all outputs equal")
    return (
        f'<header>{html.brand()}<h1>Bench <span class="state s-{state}">{words}</span></h1>'
        f'<p class="pipeline"><code>{escape(bench.pipeline)}</code></p>'
        f'<p class="note">{began}, {escape(text.photos(bench))}, {bench.machine.cores} cores</p></header>\n'
    )


def _tiles(bench: Bench) -> str:
    rows = table(bench)
    serial, best = rows[0], max(rows, key=lambda row: row.rate)
    killed = sum(fault.killed for fault in bench.faults)
    lost = sum(bench.images - fault.done for fault in bench.faults)
    return html.tiles(
        [
            (rate(serial.rate), "images each second, serial", ""),
            (rate(best.rate), f"the most: {best.name} with {best.workers}", ""),
            (f"{best.speedup:.2f}", "its speed-up", ""),
            (duration(min(row.start for row in rows)), "the shortest start", ""),
            (count(len(rows)), "configurations", ""),
            (count(bench.images), "images in each run", ""),
            (count(killed), "workers killed", ""),
            (count(lost), "images lost by that", "bad" if lost else ""),
        ]
    )


def _wrong(bench: Bench) -> str:
    if not bench.wrong:
        return ""
    rows = "".join(f"<li><b>{escape(label)}</b>: {escape(why)}</li>" for label, why in bench.wrong.items())
    return html.section("wrong", "Wrong", f'<ul class="wrong">{rows}</ul>', "What failed is in no table.")


def _facts(bench: Bench) -> list[tuple[str, str]]:
    machine = bench.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    missing = "; ".join(f"{name}: {why}" for name, why in bench.missing.items())
    return [
        ("Images", text.photos(bench)),
        ("Rounds", f"{bench.repeats}, every second one backwards, after one over some images for the memory"),
        ("Processor", f"{machine.processor}, {machine.cores} cores, {size(machine.memory)}"),
        ("System", machine.system),
        ("Versions", versions),
        ("Not run", missing or "nothing is missing"),
    ]
