"""Timelines that were never run: for the tests of figures, drawings and pages."""

from __future__ import annotations

import random
from collections.abc import Sequence

from imageloom.model import Job, Output, Recipe, Step
from imageloom.records.schema import JobRecord
from imageloom.records.timeline import (
    DONE,
    FAILED,
    RETRIED,
    VERSION,
    WHOLE,
    Attempt,
    Closing,
    Measurement,
    Opening,
    Timeline,
)


def attempt(key: str, worker: int = 0, started: int = 0, outcome: int = DONE, **others: object) -> Attempt:
    """An attempt that took 1, 2, 3, 4 and 5 ms in its stages, and 100 µs to publish, unless said otherwise."""
    values: dict[str, object] = {
        "number": 1,
        "made_at": WHOLE,
        "outcome": outcome,
        "submitted": started - 500,
        "started": started,
        "read": 1000,
        "decode": 2000,
        "filter": 3000,
        "encode": 4000,
        "write": 5000,
        "lost": 0,
        "collected": started + 20_000,
        "publish": 100,
        "size": 10_000,
        "written": 20_000,
        "pixels": 90_000,
    }
    if outcome != DONE:
        values |= {"kind": "OperatorFailed", "reason": "it was asked to", "written": 0}
    return Attempt(key, worker, **(values | others))  # type: ignore[arg-type]


def timeline_of(
    attempts: Sequence[Attempt],
    workers: Sequence[str],
    seconds: float,
    measurements: Sequence[Measurement] = (),
) -> Timeline:
    recipe = Recipe((Output((Step("grayscale"),)),))
    opening = Opening(
        VERSION, 1, 1, 1.8e9, "threads", len(workers), 2, "linux x86_64", Job("in", "out", recipe)
    )
    closing = Closing(round(seconds * 1e6), {"imageloom": "0.1.0", "python": "3.11.7"})
    return Timeline(opening, list(workers), list(attempts), list(measurements), closing)


def job_of(
    timeline: Timeline, pipeline: str = "grayscale", source: str = "/in", sink: str = "/out"
) -> JobRecord:
    """What the ledger would say of it."""
    began = timeline.opening.began
    ends = [a.outcome for a in timeline.attempts]
    end = began + timeline.closing.at / 1e6 if timeline.closing else None
    workers = len(timeline.workers)
    return JobRecord(
        1, source, sink, pipeline, "threads", workers, 1, "done", began, end,
        ends.count(DONE), ends.count(FAILED), 0,
    )  # fmt: skip


def crowd_of(count: int, workers: int = 4) -> Timeline:
    """Many attempts of irregular length, one in a thousand tried again and one in five thousand failed."""
    chance = random.Random(7)
    clocks = [0] * workers
    attempts = []
    for number in range(count):
        worker = min(range(workers), key=clocks.__getitem__)
        stages = {
            stage: round(chance.lognormvariate(mean, 0.5))
            for stage, mean in (
                ("read", 3.5),
                ("decode", 6.5),
                ("filter", 6),
                ("encode", 6.4),
                ("write", 4.5),
            )
        }
        outcome = RETRIED if number % 1000 == 999 else FAILED if number % 5000 == 4998 else DONE
        key = f"day{number // 5000:02}/{chance.getrandbits(96):024x}.jpg"
        attempts.append(attempt(key, worker, clocks[worker], outcome, **stages))
        clocks[worker] += sum(stages.values()) + 40
    seconds = max(clocks) / 1e6 + 0.1
    measurements = [
        Measurement(
            at * 500_000,
            bytes((80, 95)),
            at * 0.9,
            300_000_000 + at * 1000,
            200_000_000 if at % 8 == 2 else 0,
        )
        for at in range(2, int(seconds * 2))
    ]
    return timeline_of(attempts, [f"7/thread_{n}" for n in range(workers)], seconds, measurements)
