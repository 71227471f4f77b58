"""Computes the figures of a report: pure functions of a timeline and the ledger's record of the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from imageloom.model import STAGES, Plain
from imageloom.records.schema import ItemRecord, JobRecord
from imageloom.records.timeline import ASSEMBLED, DONE, FAILED, PART, RETRIED, Attempt, Timeline

DEATHS = frozenset({"WorkerLost", "ItemTimeout"})
"""Kinds of failures with which a worker died or was killed."""
LEAST_BINS, MOST_BINS = 12, 120


class Spread(Plain, frozen=True):
    """Distribution of a duration over all done items, in seconds. Percentiles are by nearest rank."""

    total: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class WorkerFigures(Plain, frozen=True):
    name: str
    attempts: int
    busy: float
    """Seconds in the stages, including lost time."""
    stages: dict[str, float]
    """Seconds in each stage; `lost` is the time in attempts whose worker died."""
    died: bool


class FailedItem(Plain, frozen=True):
    key: str
    kind: str
    reason: str
    attempt: int
    worker: str
    at: float
    """Seconds from the beginning."""


class LostItem(Plain, frozen=True):
    key: str
    dropped: tuple[str, ...]
    """What the input has and an output lacks."""
    warnings: tuple[str, ...]
    """Accepted damage of the input."""


class MachineFigures(Plain, frozen=True):
    """Measurements of the machine. Each list has one value per measurement."""

    at: list[float]
    """Seconds from the beginning."""
    cores: list[list[int]]
    """Load of each core since the measurement before, in percent."""
    own: list[float]
    """Mean number of cores used by the run's own processes."""
    resident: list[int]
    """Memory of all processes in bytes; shared memory is counted in each process."""
    proportional: list[int | None]
    """Memory in bytes with shared memory counted once; None if it was not measured."""


class Throughput(Plain, frozen=True):
    width: float
    """Width of a bin in seconds."""
    done: list[int]
    """Number of items published in each bin."""
    failed: list[int]


class Figures(Plain, frozen=True):
    """All figures of a report, in seconds and bytes."""

    job: int
    state: str
    pipeline: str
    source: str
    sink: str
    engine: str
    workers_planned: int
    cores: int
    system: str
    versions: dict[str, str]
    began: float
    """Seconds since the epoch."""
    seconds: float
    done: int
    failed: int
    skipped: int
    retries: int
    deaths: int
    read_bytes: int
    written_bytes: int
    pixels: int
    """Number of decoded pixels of all done items."""
    stages: dict[str, Spread]
    """Read, decode, filter, encode and write by the worker; publish by the driver."""
    waits: dict[str, Spread]
    """Waiting for a worker (from the task's submission to the item's start), and for the driver."""
    item: Spread
    """All stages of an item together, without publication and waiting."""
    workers: list[WorkerFigures]
    imbalance: float | None
    """Maximum divided by mean busy time of the workers; None for fewer than two workers."""
    utilization: float
    """Busy time of all workers divided by their number times the run's duration."""
    throughput: Throughput
    machine: MachineFigures
    failures: list[FailedItem]
    kinds: dict[str, int]
    """Number of failed items by kind of failure, the most frequent first."""
    losses: list[LostItem] = []  # noqa: RUF012
    """The done items that lost something or are damaged."""
    dropped: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it
    """Number of items that lost each thing, the most frequent first."""

    @property
    def rate(self) -> float:
        """Items done per second."""
        return self.done / self.seconds if self.seconds else 0.0


def figures(job: JobRecord, timeline: Timeline, lost: Iterable[ItemRecord] = ()) -> Figures:
    """Compute all figures of a job.

    Args:
        lost: the items that lost something or are damaged.
    """
    losses = [LostItem(item.key, item.dropped, item.warnings) for item in lost]
    opening, attempts = timeline.opening, timeline.attempts
    done = [a for a in attempts if a.outcome == DONE and a.made_at != PART]
    failed = [a for a in attempts if a.outcome == FAILED and a.made_at != PART]
    names = rows(timeline)
    seconds = duration(job, timeline)
    workers = _workers(timeline, names)
    busy = [worker.busy for worker in workers]
    capacity = max(opening.workers, 1)
    return Figures(
        job=job.id,
        state=job.state,
        pipeline=job.recipe,
        source=job.source,
        sink=job.sink,
        engine=job.engine,
        workers_planned=job.workers,
        cores=opening.cores,
        system=opening.system,
        versions=timeline.closing.versions if timeline.closing else {},
        began=opening.began,
        seconds=seconds,
        done=len(done),
        failed=len(failed),
        skipped=job.skipped,
        retries=sum(a.outcome == RETRIED for a in attempts),
        deaths=sum(a.kind in DEATHS and a.made_at != ASSEMBLED for a in attempts),
        read_bytes=sum(a.size for a in done),
        written_bytes=sum(a.written for a in done),
        pixels=sum(a.pixels for a in done),
        stages={stage: spread([getattr(a, stage) for a in done]) for stage in (*STAGES, "publish")},
        waits=_waits(done),
        item=spread([a.busy for a in done]),
        workers=workers,
        imbalance=max(busy) / (sum(busy) / len(busy)) if len(busy) > 1 and max(busy) else None,
        utilization=min(1.0, sum(busy) / (capacity * seconds)) if seconds else 0.0,
        throughput=_throughput(done, failed, seconds),
        machine=_machine(timeline),
        failures=[_failed(a, timeline, names) for a in failed],
        kinds=dict(Counter(a.kind for a in failed).most_common()),
        losses=losses,
        dropped=dict(Counter(thing for item in losses for thing in item.dropped).most_common()),
    )


def duration(job: JobRecord, timeline: Timeline) -> float:
    """Duration of the run in seconds; for a killed run, until its last record."""
    if timeline.closing is not None:
        return timeline.closing.at / 1e6
    if job.finished is not None:
        return max(0.0, job.finished - timeline.opening.began)
    ends = [_end(a) for a in timeline.attempts[-1:]] + [sample.at for sample in timeline.measurements[-1:]]
    return max(ends, default=0) / 1e6


def spread(values: Sequence[int]) -> Spread:
    """Sum, percentiles and maximum of durations in microseconds, as seconds."""
    if not values:
        return Spread()
    column = np.sort(np.array(values, np.int64))
    ranks = [max(0, -(-len(column) * percent // 100) - 1) for percent in (50, 90, 99)]
    p50, p90, p99 = (float(column[rank]) / 1e6 for rank in ranks)
    return Spread(float(column.sum()) / 1e6, p50, p90, p99, float(column[-1]) / 1e6)


def _end(attempt: Attempt) -> int:
    return attempt.collected + attempt.publish


def _waits(done: list[Attempt]) -> dict[str, Spread]:
    """Waiting times. The clocks of other machines differ: a negative time counts as 0."""
    known = [a for a in done if a.submitted >= 0]
    return {
        "for a worker": spread([max(0, a.started - a.submitted) for a in known]),
        "for the driver": spread([max(0, a.collected - a.started - a.busy) for a in known]),
    }


def rows(timeline: Timeline) -> list[str]:
    """The name of each worker's row. A dead worker is named by its process: its thread may be unknown."""
    by_process: dict[str, str] = {}
    for name in timeline.workers:
        if "/" in name:
            by_process.setdefault(name.partition("/")[0], name)
    return [by_process.get(name, name) or "unknown" for name in timeline.workers]


def _workers(timeline: Timeline, names: list[str]) -> list[WorkerFigures]:
    sums: dict[str, dict[str, int]] = {}
    counts: Counter[str] = Counter()
    died: set[str] = set()
    for attempt in timeline.attempts:
        name = names[attempt.worker]
        if attempt.made_at == ASSEMBLED or name == "driver":
            continue
        stages = sums.setdefault(name, dict.fromkeys((*STAGES, "lost"), 0))
        for stage in stages:
            stages[stage] += getattr(attempt, stage)
        counts[name] += 1
        if attempt.kind in DEATHS:
            died.add(name)
    return [
        WorkerFigures(
            name,
            counts[name],
            sum(stages.values()) / 1e6,
            {stage: spent / 1e6 for stage, spent in stages.items()},
            name in died,
        )
        for name, stages in sums.items()
    ]


def _throughput(done: list[Attempt], failed: list[Attempt], seconds: float) -> Throughput:
    batches = len({a.collected for a in (*done, *failed)})  # the items of one are published together
    width = bin_width(seconds, batches // 4)
    count = max(1, int(np.ceil(seconds / width - 1e-9)))

    def counts(attempts: list[Attempt]) -> list[int]:
        at = np.array([_end(a) for a in attempts], np.int64) / 1e6
        return [int(n) for n in np.bincount(np.clip(at // width, 0, count - 1).astype(int), minlength=count)]

    return Throughput(width, counts(done), counts(failed))


def bin_width(seconds: float, wanted: int) -> float:
    """A round bin width, in seconds, that divides a run into about `wanted` bins."""
    most = max(LEAST_BINS, min(MOST_BINS, wanted))
    for exponent in range(-3, 7):
        for digit in (1, 2, 5):
            if seconds / (digit * 10.0**exponent) <= most:
                return digit * 10.0**exponent
    return seconds / most


def _machine(timeline: Timeline) -> MachineFigures:
    measurements = timeline.measurements
    own, before, spent = [], 0.0, 0.0
    for sample in measurements:
        at = sample.at / 1e6
        own.append(max(0.0, sample.cpu - spent) / max(1e-6, at - before))
        before, spent = at, sample.cpu
    return MachineFigures(
        [sample.at / 1e6 for sample in measurements],
        [list(sample.cores) for sample in measurements],
        own,
        [sample.resident for sample in measurements],
        [sample.proportional or None for sample in measurements],
    )


def _failed(attempt: Attempt, timeline: Timeline, names: list[str]) -> FailedItem:
    return FailedItem(
        attempt.key,
        attempt.kind,
        attempt.reason,
        attempt.number,
        names[attempt.worker],
        _end(attempt) / 1e6,
    )
