"""Runs configurations in turn, several times over, and holds every run's outputs against the serial one's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median_low

import numpy as np
from msgspec.structs import replace

from imageloom.bench import programs
from imageloom.bench.records import Activity, Configuration, Measured, Run
from imageloom.bench.work import Work, difference, digests
from imageloom.errors import ImageloomError
from imageloom.ledger import JobRecord, Ledger
from imageloom.model import STAGES
from imageloom.report import recorded
from imageloom.report.charts import spread_over
from imageloom.report.figures import figures, rows, spread
from imageloom.timeline import ASSEMBLED, DONE, PART, Timeline

BINS = 150
"""Of a run's activity."""
MOST_ROWS = 16
"""Workers whose activity is kept."""

Say = Callable[[str], None]


class Rounds:
    """Measures configurations: what is missing, what goes wrong and what came of it are its attributes.

    Args:
        say: told what is being done.

    Raises:
        ImageloomError: the serial engine itself cannot do the work.
    """

    def __init__(self, work: Work, configurations: Iterable[Configuration], say: Say) -> None:
        self.work = work
        self.missing: dict[str, str] = {}
        self.wrong: dict[str, str] = {}
        self.expected: dict[str, str] = {}
        self._say = say
        self._left = list(configurations)
        self._memory: dict[str, int] = {}
        self._found: dict[str, list[tuple[Run, Measured]]] = {}

    def run(self, repeats: int) -> list[Measured]:
        """Everything once for its memory, then so many rounds, every second one backwards."""
        self._leave_out_what_is_missing()
        for configuration in self._left[:]:
            self._say(f"memory of {configuration.label}")
            if taken := self._checked(configuration, memory=True):
                self._memory[configuration.label] = taken.memory
        for number in range(repeats):
            for configuration in self._left[:: -1 if number % 2 else 1]:
                self._say(f"round {number + 1} of {repeats}: {configuration.label}")
                self._time(configuration)
        return [self._together(configuration) for configuration in self._left]

    def _leave_out_what_is_missing(self) -> None:
        """Try each way on one photo."""
        tried: dict[str, str] = {}
        for configuration in self._left[:]:
            name = configuration.name
            if name not in tried:
                taken = self._take(configuration, only_one=True)
                tried[name] = _reason(taken) if taken.code else ""
            if tried[name]:
                self._refuse_serial(configuration, tried[name])
                self.missing[name] = tried[name]
                self._left.remove(configuration)

    def _take(
        self, configuration: Configuration, *, only_one: bool = False, memory: bool = False
    ) -> programs.Taken:
        self.work.clear()
        source = self.work.one if only_one else self.work.photos
        return programs.take(self.work.command(configuration, source), memory=memory)

    def _checked(self, configuration: Configuration, memory: bool = False) -> programs.Taken | None:
        """What a run took; None, and no more of this configuration, where it went wrong."""
        taken = self._take(configuration, memory=memory)
        reason = _reason(taken) if taken.code else ""
        if not reason and taken.left:
            reason = f"it left {taken.left} processes running"
        if not reason:
            found = digests(self.work.out)
            self.expected = self.expected or found
            reason = difference(self.expected, found)
        if not reason:
            return taken
        self._refuse_serial(configuration, reason)
        self.wrong[configuration.label] = reason
        self._left.remove(configuration)
        return None

    def _refuse_serial(self, configuration: Configuration, reason: str) -> None:
        if configuration.name == "serial":
            raise ImageloomError(f"the serial engine, which the others are held against: {reason}")

    def _time(self, configuration: Configuration) -> None:
        start = self._take(configuration, only_one=True)
        taken = self._checked(configuration)
        if taken is None:
            return
        run = Run(taken.seconds, taken.cpu, start.seconds, start.cpu)
        with Ledger(self.work.ledger) as ledger:
            measured = _measured(configuration, taken, *recorded(ledger, None))
        self._found.setdefault(configuration.label, []).append((run, measured))

    def _together(self, configuration: Configuration) -> Measured:
        """All runs of a configuration, with the timeline's figures of the one with the median time."""
        found = self._found[configuration.label]
        middle = median_low([run.seconds for run, _ in found])
        _, typical = next(pair for pair in found if pair[0].seconds == middle)
        return replace(
            typical, runs=[run for run, _ in found], memory=self._memory.get(configuration.label, 0)
        )


def warmed(repeats: int) -> range:
    """The numbers of rounds from 1 on, with a round 0 before them that warms up; a single one goes without."""
    return range(0 if repeats > 1 else 1, repeats + 1)


def _reason(taken: programs.Taken) -> str:
    """The last line that a program has said, or how it ended."""
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
    """Microseconds of each item that was done, from the engine's taking it, or its first part, on."""
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
    names = rows(timeline)
    width = max(seconds, 1e-6) / BINS
    spent: dict[str, np.ndarray] = {}
    for a in timeline.attempts:
        name = names[a.worker]
        if a.made_at == ASSEMBLED or name == "driver":
            continue
        if name not in spent and len(spent) == MOST_ROWS:
            continue
        bins = spent.setdefault(name, np.zeros((len(STAGES), BINS)))
        at = a.started / 1e6
        for number, stage in enumerate(STAGES):
            end = at + getattr(a, stage) / 1e6
            spread_over(bins[number], at / width, end / width)
            at = end
    kept = [
        {
            stage: [min(100, round(100 * float(share))) for share in bins[number]]
            for number, stage in enumerate(STAGES)
        }
        for bins in spent.values()
    ]
    return Activity(timeline.opening.began - taken.began, taken.seconds, width, kept)
