"""The faults and the rules of one history, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal

from imageloom.scheduling.policies import CHOICES
from imageloom.scheduling.rules import Rules

ITEMS = (50, 60)
"""Minimum and maximum number of items of a history."""
WORKERS = (3, 5)
ITEM_FAULTS = (3, 7)
WORKER_FAULTS = (4, 14)
"""Minimum and maximum number of faults of workers in a history."""
ALWAYS = 99
SILENCE = 1.5
"""Time-out of heartbeats in seconds, if deaths are detected by heartbeats."""

What = Literal["fails", "is bad", "kills", "hangs", "is slow"]
WorkerFault = Literal[
    "dies",
    "hangs",
    "leaves",
    "slows down",
    "is cut off",
    "is disconnected",
    "lies",
    "repeats",
    "resizes",
    "refuses",
    "stop",
]


@dataclass(frozen=True)
class ItemFault:
    """The fault of an item."""

    what: What
    attempts: int
    """Number of attempts that have the fault."""


@dataclass
class Plan:
    """The plan of one history."""

    seed: int
    items: int
    workers: int
    rules: Rules
    choice: str
    """Name of the placement policy; empty for none."""
    slots: int
    ahead: int
    reports_begin: bool
    says_finished: bool
    """Whether workers report the end of a delivery after its results."""
    loses: float
    """Probability that a message is lost."""
    beats: bool
    """Whether workers send a heartbeat every second, with the deliveries that they have."""
    latency: float
    """Mean latency of a message, in seconds."""
    late: float
    """Probability that the latency of a message is 100 times higher."""
    refuses: float
    """Probability that a task is refused."""
    dies_starting: float
    unwritable: float
    """Probability that an output cannot be published."""
    arrives: float
    """Seconds between the arrivals of two items in the source; 0 if all exist at the start."""
    memory: int
    """Maximum memory of all tasks in flight, in bytes."""
    kills_of_driver: list[int]
    """Number of steps after which each run is killed; 0 for a run that is not killed."""
    item_faults: dict[int, ItemFault] = field(default_factory=dict)
    """Faults of items, by number."""
    worker_faults: list[tuple[float, WorkerFault]] = field(default_factory=list)
    """Faults of workers, each with its time in seconds. `stop` applies to the driver."""


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(seed)

    def maybe(probability: float) -> bool:
        return random.random() < probability

    by_delivery = maybe(0.25)
    loses = random.choice((0.02, 0.1)) if maybe(0.4) else 0.0
    workers = random.randint(*WORKERS)
    ends_liars = not loses and maybe(0.8)
    beats = bool(loses) or (not ends_liars and maybe(0.5))
    rules = Rules(
        timeout=random.choice((0.8, 1.5, 3.0)),
        jobs=workers if not by_delivery and maybe(0.5) else 0,
        ends="delivery" if by_delivery else "worker",
        isolation=random.choice(("none", "worker", "worker", "engine")),
        cuts=maybe(0.8),
        ends_liars=ends_liars,
        returns=random.choice((2, 6)),
        refusals=random.choice((0, 3)),
        falls_back=maybe(0.7),
        copies=maybe(0.4),
    )
    plan = Plan(
        seed,
        items=random.randint(*ITEMS),
        workers=workers,
        rules=rules,
        choice=random.choice(sorted(CHOICES)) if maybe(0.4) else "",
        slots=random.choice((1, 1, 1, 2, 3)),
        ahead=random.choice((0, 1, 1, 2)),
        reports_begin=maybe(0.5),
        says_finished=maybe(0.5) or rules.copies or not (ends_liars or beats),
        loses=loses,
        beats=beats,
        latency=random.choice((0.0005, 0.005, 0.05)),
        late=random.choice((0.0, 0.0, 0.01)),
        refuses=random.choice((0.05, 0.3)) if maybe(0.3) else 0.0,
        dies_starting=random.choice((0.0, 0.2)),
        unwritable=0.03 if maybe(0.3) else 0.0,
        arrives=0.05 if maybe(0.2) else 0.0,
        memory=random.choice((60_000_000, 150_000_000, 1 << 40)),
        kills_of_driver=[random.randint(1, 500) if maybe(0.6) else 0 for _ in range(random.randint(0, 3))],
    )
    for item in random.sample(range(plan.items), random.randint(*ITEM_FAULTS)):
        what: What = random.choice(("fails", "fails", "is bad", "kills", "kills", "hangs", "is slow"))
        plan.item_faults[item] = ItemFault(what, random.choice((1, 1, 2, ALWAYS)))
    names: list[WorkerFault] = ["dies", "dies", "dies", "leaves", "slows down", "repeats", "resizes", "hangs"]
    names += ["is disconnected", "lies", "lies"]
    if plan.beats:
        names.append("is cut off")
    if plan.refuses:
        names.append("refuses")
    for _ in range(random.randint(*WORKER_FAULTS)):
        plan.worker_faults.append((random.expovariate(1.0), random.choice(names)))
    if maybe(0.15):
        plan.worker_faults.append((random.expovariate(1.0), "stop"))
    plan.worker_faults.sort()
    return plan
