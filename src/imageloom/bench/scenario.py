"""The experiment of acceptance and choice: nodes of which some are loaded, for real and simulated.

A task is one small image. A loaded node delays a task with a probability equal to its load; one that accepts
optionally rejects it with the same probability. So a job's time is mostly what the policies make of the delays.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from imageloom.bench.samples import draw_photos
from imageloom.engines import Settings
from imageloom.engines.nodes.config import MOST_REJECTIONS, NodesConfig
from imageloom.engines.nodes.dispatch import is_brief
from imageloom.engines.nodes.engine import Nodes
from imageloom.engines.nodes.policies import Acceptance, accepts, open_choice
from imageloom.errors import MissingExtra, StorageError
from imageloom.model import Item, Limits, Output, Plain, Recipe, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.stores.local import LocalStore

STARTING = 30.0
"""Seconds that a node may take until it is there."""
ENOUGH, MOST_RUNS = 8.0, 10
"""Seconds of all real runs of a scenario, from which no more are needed; and how many there are at the most."""
SIMULATED = 50
"""Simulated runs of which the mean is taken, about."""


class Scenario(Plain, frozen=True):
    """Nodes, and what they are given to do."""

    acceptance: Acceptance
    choice: str
    loads: tuple[float, ...]
    """Of each node."""
    limit: int = 2
    """Tasks that each node does at once."""
    tasks: int = 400
    delay: float = 0.3
    """Seconds."""


class Costs(Plain, frozen=True):
    """What things take beside the delays."""

    task: float
    """Seconds of a core."""
    rejection: float
    """Seconds of a core, for an offer that is rejected."""
    cores: int
    """Of all nodes together: on one machine, they share what it has."""


@contextmanager
def nodes_of(scenario: Scenario, folder: Path, seed: int) -> Iterator[list[str]]:
    """The scenario's nodes as processes of this machine, by their addresses.

    Raises:
        StorageError: one of them did not start.
    """
    with ExitStack() as stack:
        started = [
            stack.enter_context(_node(scenario, load, folder, seed + number))
            for number, load in enumerate(scenario.loads)
        ]
        yield [_address(process) for process in started]


@contextmanager
def _node(scenario: Scenario, load: float, folder: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    flags = {
        "root": folder,
        "limit": scenario.limit,
        "acceptance": scenario.acceptance,
        "load": load,
        "delay": scenario.delay,
        "seed": seed,
    }
    given = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "imageloom", "node", *given]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=STARTING)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    words = process.stderr.readline().split()
    if words[:1] != ["node"]:
        raise StorageError(f"a node did not start: {' '.join(words)} {process.stderr.read()}")
    return words[1].rstrip(":")


def run_really(scenario: Scenario, addresses: Sequence[str], folder: Path, seed: int) -> float:
    """The seconds that the scenario's nodes take for all tasks."""
    source, sink = folder / "photos", folder / "out"
    if not source.exists():
        draw_photos(source, 1)
    (key,) = (path.name for path in source.iterdir())
    LocalStore(str(sink)).prepare()
    recipe = Recipe((Output(Pipeline("resize 16x16").steps),), "fast")
    works = [Work(Item(key), (key,), number) for number in range(scenario.tasks)]
    tasks = [
        Task(number, "1", str(source), str(sink), recipe, Limits(), (work,))
        for number, work in enumerate(works)
    ]
    config = NodesConfig(tuple(addresses), scenario.choice, fallback="mandatory", stragglers=False, seed=seed)
    with closing(Nodes(Settings(), config)) as engine:
        until = time.monotonic() + STARTING
        while engine.capacity < len(addresses) * scenario.limit:
            if time.monotonic() > until:
                raise StorageError(f"a node did not answer: {', '.join(addresses)}")
            time.sleep(0.01)
        began = time.perf_counter()
        for future in [engine.submit(task) for task in tasks]:
            failure = future.result().results[0].failure
            if failure:
                raise StorageError(f"{failure.kind}: {failure.message}")
        return time.perf_counter() - began


@contextmanager
def yardstick(folder: Path, tasks: int, cores: int) -> Iterator[Callable[[], Costs]]:
    """What tells the costs of this moment: nodes that stay up, of which four are idle and four reject all."""
    few = max(1, tasks // 20)
    idle = Scenario("mandatory", "random", (0.0,) * 4, tasks=tasks)
    rejecting = Scenario("optional", "random", (1.0,) * 4, tasks=few, delay=0.0)
    seeds = itertools.count()
    with nodes_of(idle, folder, 1) as free, nodes_of(rejecting, folder, 1) as full:

        def measure() -> Costs:
            seed = next(seeds)
            task = run_really(idle, free, folder, seed) * cores / tasks
            rejections = run_really(rejecting, full, folder, seed) * cores / few - task
            return Costs(task, max(0.0, rejections / MOST_REJECTIONS), cores)

        yield measure


def times_of(
    scenario: Scenario, folder: Path, measure: Callable[[], Costs], least: int
) -> tuple[list[float], Costs]:
    """The seconds of real runs, and what things have cost beside them: a machine's speed drifts.

    Args:
        measure: costs of a moment, asked before each run.
        least: runs; there are more where they are short, for then one delay more or less is much.
    """
    times: list[float] = []
    costs: list[Costs] = []
    with nodes_of(scenario, folder, 1) as addresses:
        while len(times) < least or (len(times) < MOST_RUNS and sum(times) < ENOUGH):
            costs.append(measure())
            times.append(run_really(scenario, addresses, folder, seed=len(times)))
    task, rejection = (
        statistics.mean(each) for each in zip(*((c.task, c.rejection) for c in costs), strict=True)
    )
    return times, Costs(task, rejection, costs[0].cores)


@dataclass(eq=False)
class _Node:
    """A simulated node, as policies see it."""

    name: str
    limit: int
    load: float
    random: Random
    slots: Any
    """A resource of as many places as it does tasks at once."""
    seconds: float = 0.0
    queue: deque[_Task] = field(default_factory=deque)
    running: int = 0

    @property
    def in_hand(self) -> int:
        return len(self.queue) + self.running

    @property
    def room(self) -> int:
        return self.limit + is_brief(self.seconds)


@dataclass(eq=False)
class _Task:
    tried: set[str] = field(default_factory=set)
    rejections: int = 0


class _Simulation:
    """`dispatch.Dispatcher` and `node.Node` on a simulated clock, with the policies themselves."""

    def __init__(self, scenario: Scenario, costs: Costs, seed: int, rejections: int, luck: int) -> None:
        try:
            import simpy
        except ImportError:
            raise MissingExtra("the simulation", "scenario") from None
        self._scenario, self._costs, self._rejections = scenario, costs, rejections
        self._world: Any = simpy.Environment()
        self._cores: Any = simpy.Resource(self._world, costs.cores)
        self._choice, self._random = open_choice(scenario.choice), Random(seed)
        self._waiting = deque(_Task() for _ in range(scenario.tasks))
        self._dealt = 0
        self._nodes: list[_Node] = []
        for number, load in enumerate(scenario.loads):
            slots = simpy.Resource(self._world, scenario.limit)
            draws = Random(f"{seed} {luck} {number}")
            self._nodes.append(_Node(str(number), scenario.limit, load, draws, slots))
        self._with_room = set(self._nodes)

    def run(self) -> float:
        self._deal()
        self._world.run()
        return float(self._world.now)

    def _deal(self) -> None:
        """Choose nodes for what waits, as long as one has room."""
        while self._waiting and self._with_room and self._dealt < 2 * self._scenario.limit * len(self._nodes):
            task = self._waiting.popleft()
            node: Any = self._choice.choose(self._nodes, task.tried, self._random)
            node.queue.append(task)
            self._dealt += 1
            self._offer(node)

    def _offer(self, node: _Node) -> None:
        """Let a node have what is chosen for it, as far as it has room."""
        while node.queue and node.running < node.room:
            node.running += 1
            self._world.process(self._perform(node, node.queue.popleft()))
        (self._with_room.add if node.in_hand < node.room else self._with_room.discard)(node)

    def _perform(self, node: _Node, task: _Task) -> Iterator[Any]:
        """What becomes of a task at a node."""
        must = task.rejections >= self._rejections
        is_accepted = must or accepts(self._scenario.acceptance, node.load, node.random)
        is_slow = node.random.random() < node.load
        if is_accepted:
            with node.slots.request() as slot:
                yield slot
                began = self._world.now
                yield self._world.timeout(self._scenario.delay if is_slow else 0.0)
                yield from self._compute(self._costs.task)
            spent = self._world.now - began
            node.seconds += (spent - node.seconds) * (0.2 if node.seconds else 1.0)
        else:
            yield from self._compute(self._costs.rejection)
            task.rejections += 1
            task.tried.add(node.name)
            if len(task.tried) == len(self._nodes):
                task.tried.clear()
            self._waiting.appendleft(task)
        node.running -= 1
        self._dealt -= 1
        self._offer(node)
        self._deal()

    def _compute(self, seconds: float) -> Iterator[Any]:
        with self._cores.request() as core:
            yield core
            yield self._world.timeout(seconds)


def simulate(
    scenario: Scenario, costs: Costs, seed: int, rejections: int = MOST_REJECTIONS, luck: int = 0
) -> float:
    """The seconds that the scenario would take.

    Args:
        seed: of the choice, whose draws are the same as in a real run with that seed.
        luck: seed of the nodes' draws, with the other one.
    """
    return _Simulation(scenario, costs, seed, rejections, luck).run()


def guess(scenario: Scenario, costs: Costs, runs: int) -> float:
    """The mean seconds of many simulated runs, with the choices of so many real ones."""
    lucks = range(-(-SIMULATED // runs))
    return statistics.mean(
        simulate(scenario, costs, seed, luck=luck) for seed in range(runs) for luck in lucks
    )
