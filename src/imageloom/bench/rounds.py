"""Runs the configurations in turn, in several rounds, and compares all outputs with those of the engine serial."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median_low

import numpy as np
from msgspec.structs import replace

from imageloom.bench import programs
from imageloom.bench.records import Activity, Configuration, Measured, Run
from imageloom.bench.work import Work, difference, digests
from imageloom.errors import ImageloomError
from imageloom.model import STAGES
from imageloom.records.ledger import Ledger
from imageloom.records.schema import JobRecord
from imageloom.records.timeline import ASSEMBLED, DONE, PART, Timeline
from imageloom.report import recorded
from imageloom.report.charts import spread_over
from imageloom.report.figures import figures, rows, spread

BINS = 150
"""Of a run's activity."""
MOST_LANES = 16
"""Of a run's activity."""

Say = Callable[[str], None]


class Rounds:
    """Measures configurations. Its attributes have the results, the missing engines and the failures.

    Args:
        say: called with a line about each step.

    Raises:
        ImageloomError: the run of the engine serial failed.
    """

    def __init__(self, work: Work, configurations: Iterable[Configuration], say: Say) -> None:
        self.work = work
        self.missing: dict[str, str] = {}
        self.wrong: dict[str, str] = {}
        self._say = say
        self._left = list(configurations)
        self._expected: dict[Path, dict[str, str]] = {}
        self._memory: dict[str, int] = {}
        self._found: dict[str, list[tuple[Run, Measured]]] = {}

    def run(self, repeats: int) -> list[Measured]:
        """Measure the memory on some images, then run `repeats` rounds, every second one in reverse order."""
        self._leave_out_what_is_missing()
        for configuration in self._left[:]:
            self._say(f"measuring the memory of {configuration.label}")
            if taken := self._checked(configuration, self.work.some, memory=True):
                self._memory[configuration.label] = taken.memory
        for number in range(repeats):
            for configuration in self._left[:: -1 if number % 2 else 1]:
                self._say(f"round {number + 1} of {repeats}: {configuration.label}")
                self._time(configuration)
        return [self._together(configuration) for configuration in self._left]

    @property
    def expected(self) -> dict[str, str]:
        """The digests of the outputs of the engine serial, by name."""
        return self._expected[self.work.photos]

    def _leave_out_what_is_missing(self) -> None:
        """Try each way on one photo, and leave out the ways that fail."""
        tried: dict[str, str] = {}
        for configuration in self._left[:]:
            name = configuration.name
            if name not in tried:
                taken = self._take(configuration, self.work.one)
                tried[name] = _reason(taken) if taken.code else ""
            if tried[name]:
                self._refuse_serial(configuration, tried[name])
                self.missing[name] = tried[name]
                self._left.remove(configuration)

    def _take(self, configuration: Configuration, source: Path, *, memory: bool = False) -> programs.Taken:
        self.work.clear()
        return programs.take(self.work.command(configuration, source), memory=memory)

    def _checked(
        self, configuration: Configuration, source: Path, *, memory: bool = False
    ) -> programs.Taken | None:
        """Measure a run. If it fails, return None and leave out this configuration from now on."""
        taken = self._take(configuration, source, memory=memory)
        reason = _reason(taken) if taken.code else ""
        if not reason and taken.left:
            reason = f"it left {taken.left} processes running"
        if not reason:
            found = digests(self.work.out)
            reason = difference(self._expected.setdefault(source, found), found)
        if not reason:
            return taken
        self._refuse_serial(configuration, reason)
        self.wrong[configuration.label] = reason
        self._left.remove(configuration)
        return None

    def _refuse_serial(self, configuration: Configuration, reason: str) -> None:
        if configuration.name == "serial":
            raise ImageloomError(
                f"the run of the engine serial, the reference for all others, failed: {reason}"
            )

    def _time(self, configuration: Configuration) -> None:
        start = self._take(configuration, self.work.one)
        taken = self._checked(configuration, self.work.photos)
        if taken is None:
            return
        run = Run(taken.seconds, taken.cpu, start.seconds, start.cpu)
        with Ledger(self.work.ledger) as ledger:
            measured = _measured(configuration, taken, *recorded(ledger, None))
        self._found.setdefault(configuration.label, []).append((run, measured))

    def _together(self, configuration: Configuration) -> Measured:
        """The results of a configuration. The timeline is that of the run with the median time."""
        found = self._found[configuration.label]
        middle = median_low([run.seconds for run, _ in found])
        _, typical = next(pair for pair in found if pair[0].seconds == middle)
        return replace(
            typical, runs=[run for run, _ in found], memory=self._memory.get(configuration.label, 0)
        )


def warmed(repeats: int) -> range:
    """The numbers of the rounds from 1, after a warm-up round 0. A single round has no warm-up."""
    return range(0 if repeats > 1 else 1, repeats + 1)


def _reason(taken: programs.Taken) -> str:
    """The last line of a program's output, or how it ended."""
    lines = taken.errors.strip().splitlines()
    return lines[-1].removeprefix("imageloom: ") if lines else f"it ended with code {taken.code}"


def _measured(
    configuration: Configuration, taken: programs.Taken, job: JobRecord, timeline: Timeline
) -> Measured:
    found = figures(job, timeline)
    stay = spread(_stays(timeline))
    stages = {stage: sum(worker.stages[stage] for worker in found.workers) for stage in STAGES}
    stages["publish"] = found.stages["publish"].total
    activity = _activity(taken, timeline, found.seconds)
    return Measured(configuration, [], 0, found.item, stay, stages, activity)


def _stays(timeline: Timeline) -> list[int]:
    """Microseconds from the submission of each done item, or of its first part, to its publication."""
    first: dict[str, int] = {}
    for a in timeline.attempts:
        if a.submitted >= 0:
            first[a.key] = min(a.submitted, first.get(a.key, a.submitted))
    return [
        max(0, a.collected + a.publish - first[a.key])
        for a in timeline.attempts
        if a.outcome == DONE and a.made_at != PART and a.key in first
    ]


def _activity(taken: programs.Taken, timeline: Timeline, seconds: float) -> Activity:
    width = max(seconds, 1e-6) / BINS
    lanes = lanes_of(timeline)
    spent = np.zeros((max(lanes.values(), default=-1) + 1, len(STAGES), BINS))
    names = rows(timeline)
    for a in timeline.attempts:
        lane = lanes.get(names[a.worker])
        if lane is None or a.made_at == ASSEMBLED:
            continue
        at = a.started / 1e6
        for number, stage in enumerate(STAGES):
            end = at + getattr(a, stage) / 1e6
            spread_over(spent[lane, number], at / width, end / width)
            at = end
    percent = np.minimum(100, np.rint(100 * spent)).astype(int).tolist()
    kept = [dict(zip(STAGES, bins, strict=True)) for bins in percent[:MOST_LANES]]
    return Activity(timeline.opening.began - taken.began, taken.seconds, width, kept)


def lanes_of(timeline: Timeline) -> dict[str, int]:
    """The lane of each worker. A worker that starts after another has ended may get the lane of that one."""
    names = rows(timeline)
    lives: dict[str, tuple[int, int]] = {}
    for a in timeline.attempts:
        name = names[a.worker]
        if a.made_at != ASSEMBLED and name != "driver":
            first, last = lives.get(name, (a.started, 0))
            lives[name] = min(first, a.started), max(last, a.started + a.busy)
    ends: list[int] = []
    found: dict[str, int] = {}
    for name, (first, last) in sorted(lives.items(), key=lambda pair: pair[1]):
        lane = next((n for n, end in enumerate(ends) if end <= first), len(ends))
        ends[lane : lane + 1] = [last]
        found[name] = lane
    return found
