"""The published analysis: all engines over the same photos, a blur, one huge image, and kills.

    python -m benchmarks.analysis FOLDER [--out docs/analysis] [--part resize ...] [--count 8091]

FOLDER has photos; they are done again and again by hard links until there are enough. Each part leaves a JSON
file in --out, and README.md with its figures is made of all that are there: parts can be measured one by one, and
`--part` without a name only writes it again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.findings import findings, headline
from benchmarks.harness import workplace
from imageloom.bench import Wanted, run_bench
from imageloom.bench.charts import drawings
from imageloom.bench.configurations import WAYS
from imageloom.bench.records import Bench
from imageloom.bench.sweep import draw_large
from imageloom.bench.text import machine, markdown, notes, photos, tables
from imageloom.cli.bench import SIZES
from imageloom.report.drawing import to_svg
from imageloom.report.html import WIDE

COUNT = 8091
"""Images that the fifth of the works that this engine comes from had."""
BLUR = "gaussian_blur 3.5"
"""A kernel of 21 pixels, as the second of them had it: OpenCV's sigma for that is 3.5."""
HUGE = (12_000, 9_000)
FIGURES = {
    "resize": ("throughput", "speedup", "efficiency", "timelines", "stages", "latency", "cpu", "memory"),
    "blur": ("throughput", "speedup", "stages"),
    "huge": ("throughput", "timelines", "memory", "tiles"),
}
TITLES = {
    "resize": "Many small photos to 512x512",
    "blur": "A Gaussian blur",
    "huge": "One huge image, in tiles",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="photos")
    parser.add_argument("--out", type=Path, default=Path("docs/analysis"))
    parser.add_argument("--part", nargs="*", choices=list(FIGURES), default=list(FIGURES))
    parser.add_argument("--count", type=int, default=COUNT, help="images; the blur has a quarter")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--engines", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument(
        "--kills", type=int, default=3, help="workers that are killed in each run with faults"
    )
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--add", action="store_true", help="to the rounds that are in the JSON file already")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for part in given.part:
        path = given.out / f"{part}.json"
        bench = measure(part, given)
        if given.add:
            bench = together(msgspec.json.decode(path.read_bytes(), type=Bench), bench)
        path.write_bytes(msgspec.json.encode(bench) + b"\n")
    publish(given.out)


def together(old: Bench, new: Bench) -> Bench:
    """What was measured before and what was measured now: rounds of the same configuration add up.

    Raises:
        SystemExit: it is not the same work, or not on the same machine.
    """
    what = [
        (one.pipeline, one.images, one.bytes, one.machine.processor, one.machine.cores) for one in (old, new)
    ]
    if what[0] != what[1]:
        raise SystemExit(f"--add: {what[1]} is not {what[0]}, which was measured before")
    now = {one.configuration: one for one in new.measured}
    measured = [
        msgspec.structs.replace(again, runs=[*one.runs, *again.runs])
        if (again := now.pop(one.configuration, None))
        else one
        for one in old.measured
    ]
    peers = {peer.name: peer for peer in old.peers}
    for peer in new.peers:
        before = peers.get(peer.name, msgspec.structs.replace(peer, seconds=[], cpu=[]))
        seconds, cpu = [*before.seconds, *peer.seconds], [*before.cpu, *peer.cpu]
        peers[peer.name] = msgspec.structs.replace(peer, seconds=seconds, cpu=cpu)
    faults = {fault.configuration: fault for fault in (*old.faults, *new.faults)}
    return msgspec.structs.replace(
        old,
        measured=[*measured, *now.values()],
        peers=list(peers.values()),
        faults=list(faults.values()),
        sweep=new.sweep or old.sweep,
        wrong=old.wrong | new.wrong,
    )


def measure(part: str, given: argparse.Namespace) -> Bench:
    """Measure one part."""
    wanted = Wanted(
        names=tuple(given.engines),
        workers=tuple(given.workers),
        repeats=given.repeats,
        count=given.count,
        kills=given.kills,
    )
    if part == "resize":
        return run_bench(msgspec.structs.replace(wanted, peers=given.peers), given.folder, say)
    if part == "blur":
        fewer = max(1, given.count // 4)
        return run_bench(
            msgspec.structs.replace(wanted, pipeline=BLUR, count=fewer, kills=0), given.folder, say
        )
    with workplace() as folder:
        draw_large(folder / "huge.jpg", *HUGE)
        huge = msgspec.structs.replace(wanted, pipeline="gaussian_blur 2", count=1, kills=0, sizes=SIZES)
        return msgspec.structs.replace(run_bench(huge, folder, say), drawn=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def publish(out: Path) -> None:
    """Write README.md and the figures of all parts that are there."""
    found = {
        part: msgspec.json.decode(path.read_bytes(), type=Bench)
        for part in FIGURES
        if (path := out / f"{part}.json").exists()
    }
    if not found:
        raise SystemExit(f"nothing was measured in {out}")
    lines = [
        "# Sequential against distributed: what was measured",
        "",
        "All figures and sentences here are made of the JSON files beside this one, by",
        "`python -m benchmarks.analysis FOLDER`; nothing is written by hand. Times are of whole programs with",
        "their start, medians of rounds over all configurations in turn; every run's outputs were held against",
        "the serial engine's, byte for byte.",
        "",
        "## What it says",
        "",
    ]
    said = findings(found.get("resize"), found.get("blur"), found.get("huge"))
    lines += [f"{number}. {sentence}" for number, sentence in enumerate(said, 1)]
    lines += [
        "",
        "What it does not say: how engines do on several machines, or on more cores than these. Workers beyond "
        "the cores are marked with a star.",
        "",
        *_fewer(found),
        "## On what",
        "",
    ]
    for part, bench in found.items():
        began = time.strftime("%Y-%m-%d", time.gmtime(bench.began))
        lines.append(f"- `{part}`, {began}: {photos(bench)}; {machine(bench)}.")
    for part, bench in found.items():
        lines += _section(part, bench, out)
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _fewer(found: dict[str, Bench]) -> list[str]:
    """Where a run had fewer images, or rounds, than it is meant to have."""
    lines = []
    bench = found.get("resize")
    if bench and bench.images < COUNT:
        lines += [f"It is meant for {COUNT:,} images; this run had {bench.images:,}.", ""]
    if any(len(one.runs) == 1 for bench in found.values() for one in bench.measured):
        lines += [
            "What ran `once` says so: where a machine drifts by a tenth or more, so does that figure.",
            "",
        ]
    return lines


def _section(part: str, bench: Bench, out: Path) -> list[str]:
    """A part's tables and figures."""
    said = notes(bench)
    lines = ["", f"## {TITLES[part]}", "", f"`{bench.pipeline}`, {photos(bench)}. {headline(bench)}"]
    for title, rows in tables(bench).items():
        lines += ["", f"### {title}", "", markdown(rows)]
        if title in said:
            lines += ["", said[title]]
    if "Speed-up" in said:
        lines += ["", said["Speed-up"]]
    lines += [f"\nNot run: {name}: {why}." for name, why in bench.missing.items()]
    lines += [f"\n**Wrong**: {label}: {why}." for label, why in bench.wrong.items()]
    made = drawings(bench, WIDE)
    for name in FIGURES[part]:
        if name in made:
            (out / f"{part}-{name}.svg").write_text(to_svg(made[name]) + "\n", encoding="utf-8")
            lines += ["", f"![{made[name].title}: {made[name].summary}]({part}-{name}.svg)"]
    return lines


if __name__ == "__main__":
    main()
