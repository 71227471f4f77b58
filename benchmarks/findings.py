"""What the analysis' figures say, in sentences that are worked out of them."""

from __future__ import annotations

from statistics import median

from imageloom.bench.charts import usual_of
from imageloom.bench.laws import karp_flatt
from imageloom.bench.records import Bench, Measured
from imageloom.bench.table import Row, table
from imageloom.model import STAGES
from imageloom.report.text import count, rate, size

LOCAL = ("serial", "threads", "tiles", "tiles-images", "processes", "pipeline")


def findings(resize: Bench | None, blur: Bench | None, huge: Bench | None) -> list[str]:
    """The sentences for which there are figures."""
    found: list[str] = []
    if resize:
        found += [
            *(_threads_or_processes(resize, blur), _start(resize), _scaling(resize), _beyond(resize)),
            *(_which_engine(resize), _where_time_goes(resize, blur), _safety(resize), _memory(resize)),
            *_faults(resize),
        ]
    if huge:
        found.append(_tiles(resize, huge))
    return [sentence for sentence in found if sentence]


def usual(bench: Bench, name: str) -> Measured | None:
    """A way with as many workers as the cores are enough for."""
    return next((one for one in usual_of(bench) if one.configuration.name == name), None)


def _percent(ratio: float) -> str:
    """A ratio of times in words."""
    change = 100 * (ratio - 1)
    if abs(change) < 2:
        return "no longer or shorter"
    return f"{abs(change):.0f}% {'longer' if change > 0 else 'less'}"


def _threads_or_processes(resize: Bench, blur: Bench | None) -> str:
    words = []
    for bench in filter(None, (resize, blur)):
        threads, processes = usual(bench, "threads"), usual(bench, "processes")
        if threads and processes:
            words.append(
                f"for `{bench.pipeline}` processes took {_percent(processes.seconds / threads.seconds)} "
                f"than threads ({processes.seconds:.2f} s against {threads.seconds:.2f} s, "
                f"{count(bench.images)} images)"
            )
    cores = resize.machine.cores
    if not words:
        return ""
    return f"**Threads or processes?** With {cores} workers on {cores} cores, {', and '.join(words)}."


def _start(resize: Bench) -> str:
    starts = {one.configuration.name: one.start for one in usual_of(resize)}
    least, most = min(starts, key=lambda n: starts[n]), max(starts, key=lambda n: starts[n])
    share = 100 * starts[most] / next(o.seconds for o in usual_of(resize) if o.configuration.name == most)
    return (
        f"**What a start costs.** A run over one photo takes {starts[least]:.2f} s with `{least}` and "
        f"{starts[most]:.2f} s with `{most}`, which is {share:.0f}% of what that one took for all "
        f"{count(resize.images)} images: for few images the start decides, not the engine."
    )


def _scaling(resize: Bench) -> str:
    words = []
    for name in ("threads", "processes", "zeromq"):
        one, alone = usual(resize, name), resize.find(name, 1)
        if one and alone and one.configuration.workers > 1:
            workers = one.configuration.workers
            ratio = alone.seconds / one.seconds
            part = karp_flatt(ratio, workers)
            assert part is not None
            words.append(f"`{name}` {ratio:.2f} times (a serial part of {100 * part:.0f}%)")
    if not words:
        return ""
    return (
        f"**What a second core brings.** From 1 to {resize.machine.cores} workers, start and all, each became "
        f"faster by itself: {', '.join(words)}; the serial part is by Karp and Flatt, and holds the start, the "
        "driver, and what shares a machine's memory and caches."
    )


def _beyond(resize: Bench) -> str:
    gains = {}
    for one in usual_of(resize):
        more = [
            m.seconds
            for m in resize.measured
            if m.configuration.name == one.configuration.name
            and m.configuration.workers > resize.machine.cores
        ]
        if more:
            gains[one.configuration.name] = min(more) / one.seconds
    if not gains:
        return ""
    best, worst = min(gains, key=lambda n: gains[n]), max(gains, key=lambda n: gains[n])
    return (
        f"**More workers than cores.** At their best with more workers than cores, the ways took between "
        f"{gains[best]:.2f} (`{best}`) and {gains[worst]:.2f} (`{worst}`) of the time that they took with "
        f"{resize.machine.cores}."
    )


def _which_engine(resize: Bench) -> str:
    processes = usual(resize, "processes")
    if not processes:
        return ""
    found = {
        one.configuration.name: one.seconds / processes.seconds
        for one in usual_of(resize)
        if one.configuration.name not in LOCAL
    }
    if not found:
        return ""
    words = ", ".join(
        f"`{name}` {ratio:.2f}" for name, ratio in sorted(found.items(), key=lambda pair: pair[1])
    )
    best = min((one for one in usual_of(resize)), key=lambda one: one.seconds)
    return (
        f"**Which engine when?** On one machine `{best.configuration.name}` was the fastest; against "
        f"`processes`, those that can leave the machine took {words} of the time: they pay for starting and "
        "connecting, which only more machines can earn back, and were not tried on more machines here."
    )


def _where_time_goes(resize: Bench, blur: Bench | None) -> str:
    words = []
    for bench in filter(None, (resize, blur)):
        if one := bench.serial:  # where no worker waits for another one
            total = sum(one.stages.values())
            parts = ", ".join(
                f"{stage} {100 * one.stages[stage] / total:.0f}%" for stage in (*STAGES, "publish")
            )
            words.append(f"for `{bench.pipeline}` {parts}")
    return f"**Where does the time go?** With one worker: {'; '.join(words)}." if words else ""


def _safety(resize: Bench) -> str:
    threads, processes = usual(resize, "threads"), usual(resize, "processes")
    script = next((peer for peer in resize.peers if peer.name == "OpenCV script"), None)
    words = []
    if threads and script:
        words.append(
            f"against a bare script of OpenCV and a pool of {script.workers} threads, which checks, records and "
            f"resumes nothing, `threads` took {threads.seconds / median(script.seconds):.2f} of the time and "
            f"{threads.cpu / median(script.cpu):.2f} of the CPU time"
        )
        total = sum(threads.stages.values())
        share = threads.stages["publish"] / total
        words.append(f"publishing by rename and ledger is {100 * share:.1f}% of the stages")
    if threads and processes:
        words.append(
            f"that a crash costs one image and not the run (`processes`) costs "
            f"{100 * (processes.cpu / threads.cpu - 1):+.0f}% CPU time and "
            f"{size(processes.memory - threads.memory)} of memory"
        )
    return f"**What does safety cost?** {_sentence('; '.join(words))}." if words else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _memory(resize: Bench) -> str:
    found = sorted(usual_of(resize), key=lambda one: one.memory)
    words = ", ".join(f"`{one.configuration.name}` {size(one.memory)}" for one in found)
    return f"**Memory**, all processes together and each shared page once, from the least: {words}."


def _faults(resize: Bench) -> list[str]:
    if not resize.faults:
        return []
    killed = sum(fault.killed for fault in resize.faults)
    again = {fault.configuration.name: fault.again for fault in resize.faults}
    lost = sum(resize.images - fault.done for fault in resize.faults)
    wrong = [fault.configuration.name for fault in resize.faults if not fault.equal]
    longer = {
        fault.configuration.name: fault.seconds / one.seconds
        for fault in resize.faults
        if (one := resize.find(fault.configuration.name, fault.configuration.workers))
    }
    least, most = min(longer, key=lambda n: longer[n]), max(longer, key=lambda n: longer[n])
    words = ", ".join(f"`{name}` {number}" for name, number in again.items())
    ends = (
        "all outputs equal to the undisturbed ones" if not wrong else f"other outputs with {', '.join(wrong)}"
    )
    return [
        f"**Kills.** {killed} workers were ended with SIGKILL amid {len(again)} runs: {lost} images were lost, "
        f"with {ends}; attempts charged to a death and made again: {words} (tasks that nobody had begun go to "
        "another worker without a charge).",
        f"**What a death costs.** With its kills a run took from {longer[least]:.2f} (`{least}`) to "
        f"{longer[most]:.2f} (`{most}`) times as long as without.",
    ]


def _tiles(resize: Bench | None, huge: Bench) -> str:
    serial, tiles = huge.serial, usual(huge, "tiles")
    if not serial or not tiles:
        return ""
    words = (
        f"**Tiles.** One huge image took {serial.seconds:.2f} s whole on one core and {tiles.seconds:.2f} s in "
        f"tiles with {tiles.configuration.workers} threads, {serial.seconds / tiles.seconds:.2f} times as fast"
    )
    small = usual(resize, "tiles") if resize else None
    threads = usual(resize, "threads") if resize else None
    if small and threads:
        words += (
            f"; small photos in tiles, one after the other, took {small.seconds / threads.seconds:.1f} times as "
            "long as photos side by side, so tiles are for what is large"
        )
    if huge.sweep:
        best, planned = huge.sweep.best, huge.sweep.planned
        words += (
            f"; on a smaller one the best of the tried tile sizes took {median(best.seconds):.2f} s, what the "
            f"planner chose {median(planned.seconds):.2f} s{'' if planned.parts else ', which was no tiles'}"
        )
    return words + "."


def best_row(bench: Bench) -> Row:
    return max(table(bench), key=lambda row: row.rate)


def headline(bench: Bench) -> str:
    """One line about a bench."""
    best = best_row(bench)
    return (
        f"The most was {rate(best.rate)} images each second, by `{best.name}` with {best.workers} workers: "
        f"{best.speedup:.2f} times the serial engine."
    )
