"""Cases of faults on a cluster: what happens in the middle of a run, and what must hold at its end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hosts.cluster import Cluster, cluster
from imageloom.api import process
from imageloom.bench.samples import draw_photos
from program import draw, wait_until

CUT = 30.0
"""Time in seconds for which a link is cut."""
NOTICE = 20.0
"""Maximum time in seconds after which a lost host must be noticed."""
NAP = 0.8
"""Time in seconds that an item takes at least."""
PATIENCE = 240.0
"""Time-out of a case, in seconds."""
FILTERS = "resize 50% | gaussian_blur 1"
PIPELINE = f"nap {NAP} | {FILTERS}"


@dataclass
class Outcome:
    """What came of a case."""

    faults: list[str]
    """What does not hold, as texts; empty if all is well."""
    seconds: float
    """Time of the run."""
    again: int = 0
    """Number of attempts that were charged."""
    noticed: float | None = None
    """Time in seconds until a lost host was noticed; None if no attempt was charged."""
    meanwhile: int = 0
    """Number of items done during the fault."""


class Case:
    """One run on one cluster, and what it wrote in its log."""

    def __init__(self, made: Cluster, expected: dict[str, bytes]) -> None:
        self.cluster, self.expected = made, expected
        self.began = time.time()
        self.running = made.start(PIPELINE, "photos", "out")
        self.faulty = (0.0, 0.0)
        """Begin and end of the fault, by the clock of this program."""

    def events(self, kind: str) -> list[dict[str, object]]:
        """The events of a kind. Their times are corrected by the clock of the driver's host."""
        driver = self.cluster.driver
        log, found = driver.home / "items.log", list[dict[str, object]]()
        for line in log.read_text().splitlines() if log.exists() else ():
            if line.endswith("}") and (event := json.loads(line))["event"] == kind:
                found.append(event | {"time": event["time"] - driver.clock})
        return found

    def wait_for_items(self, count: int) -> None:
        """Until so many items are done."""
        wait_until(lambda: len(self.events("done")) >= count or self.running.poll() is not None, PATIENCE)
        assert self.running.poll() is None, self.cluster.logs()

    def during(self, begin: Callable[[], object], end: Callable[[], object], seconds: float) -> None:
        """Begin a fault, end it after some seconds."""
        began = time.time()
        begin()
        wait_until(lambda: time.time() >= began + seconds, seconds + 1.0)
        end()
        self.faulty = (began, time.time())

    def outcome(self, charged: int, twice: int = 0) -> Outcome:
        """Wait for the end of the run.

        Args:
            charged: maximum number of attempts that may be charged.
            twice: maximum number of items that may be done twice, because the record of them was lost.
        """
        code = self.running.wait(PATIENCE)
        seconds = time.time() - self.began
        faults = [f"exit code {code}"] if code else []
        made = self.cluster.contents("out")
        if made != self.expected:
            wrong = [
                name
                for name in made.keys() | self.expected.keys()
                if made.get(name) != self.expected.get(name)
            ]
            faults.append(f"{len(wrong)} outputs differ, such as {min(wrong)}")
        done = Counter(str(event["item"]) for event in self.events("done"))
        most = [item for item, count in done.items() if count > 1]
        if len(most) > twice:
            faults.append(f"{len(most)} items were done twice, such as {min(most)}")
        again = self.events("again")
        if len(again) > charged:
            faults.append(f"{len(again)} attempts were charged")
        outcome = Outcome(faults, seconds, len(again))
        begin, end = self.faulty
        if begin:
            outcome.meanwhile = sum(begin + 5.0 < float(str(e["time"])) <= end for e in self.events("done"))
            if again:
                outcome.noticed = max(float(str(event["time"])) for event in again) - begin
                if outcome.noticed > NOTICE:
                    faults.append(f"the loss was noticed after {outcome.noticed:.0f} s")
            if end - begin > 15.0 and not outcome.meanwhile:
                faults.append("nothing was done meanwhile")
        return outcome


Fault = Callable[[Case], Outcome]


def _none(case: Case) -> Outcome:
    return case.outcome(0)


def _cut(case: Case) -> Outcome:
    host = case.cluster.workers[0]
    case.wait_for_items(8)
    case.during(host.cut, host.mend, CUT)
    return case.outcome(case.cluster.slots)


def _cut_incoming(case: Case) -> Outcome:
    host = case.cluster.workers[0]
    case.wait_for_items(8)
    case.during(host.cut_incoming, host.mend, CUT)
    return case.outcome(case.cluster.slots)


def _cut_outgoing(case: Case) -> Outcome:
    host = case.cluster.workers[0]
    case.wait_for_items(8)
    case.during(host.cut_outgoing, host.mend, CUT)
    return case.outcome(case.cluster.slots)


def _off(case: Case) -> Outcome:
    host = case.cluster.workers[0]
    case.wait_for_items(8)
    case.during(host.power_off, lambda: None, CUT)
    return case.outcome(case.cluster.slots)


def _driver_off(case: Case) -> Outcome:
    """The driver's host is powered off and started again, and the same command is given again."""
    made = case.cluster
    case.wait_for_items(8)
    made.driver.power_off()
    case.running.wait()
    made.driver.power_on()
    case.running = made.start(PIPELINE, "photos", "out")
    slots = made.slots * len(made.workers)
    return case.outcome(slots, twice=slots)


FAULTS: dict[str, Fault] = {
    "none": _none,
    "cut": _cut,
    "cut in": _cut_incoming,
    "cut out": _cut_outgoing,
    "off": _off,
    "driver off": _driver_off,
    "clocks": _none,
}
CLOCKS = {"clocks": {"driver": 600, "two": -600}}


def photos_of(folder: Path, count: int) -> Path:
    """Small photos, and a large one that is processed in tiles where workers reach the pixels of tiles."""
    draw_photos(folder, count)
    draw(folder / "large.png", 99, 2400, 1800)
    return folder


def expected_of(photos: Path, folder: Path) -> dict[str, bytes]:
    """The outputs of the engine serial."""
    process(FILTERS, photos, folder / "expected", engine="serial", ledger=folder / "expected.db")
    return {path.name: path.read_bytes() for path in (folder / "expected").iterdir() if path.is_file()}


def run_case(
    folder: Path, engine: str, storage: str, fault: str, photos: Path, expected: dict[str, bytes]
) -> Outcome:
    """Run one case on a cluster of its own.

    Raises:
        AssertionError: it took too long; the message has what the programs wrote.
    """
    with cluster(folder, engine, storage, clocks=CLOCKS.get(fault)) as made:
        made.put(photos, "photos")
        try:
            return FAULTS[fault](Case(made, expected))
        except Exception as error:
            raise AssertionError(f"{engine}, {storage}, {fault}: {error}\n{made.logs()}") from error
