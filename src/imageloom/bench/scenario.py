"""The experiment of `imageloom scenario`: policies on nodes of which some are loaded, measured and simulated.

A task is one small image. A loaded node delays a task with a probability equal to its load. With optional
acceptance, it rejects the task with the same probability. So the duration of a job depends mostly on delays and
policies.
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
from imageloom.errors import MissingExtra, StorageError
from imageloom.model import Item, Limits, Output, Plain, Recipe, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.scheduling.policies import Acceptance, accepts, open_choice
from imageloom.stores.local import LocalStore

STARTING = 30.0
"""Time-out for the start of a node, in seconds."""
ENOUGH, MOST_RUNS = 8.0, 10
"""Seconds of all real runs of a scenario, from which no more are needed; and how many there are at the most."""
SIMULATED = 50
"""Approximate number of simulated runs for a mean."""


class Scenario(Plain, frozen=True):
    """Nodes, policies and tasks of a scenario."""

    acceptance: Acceptance
    choice: str
    loads: tuple[float, ...]
    """Load of each node, 0 to 1."""
    limit: int = 2
    """Maximum number of tasks of each node at the same time."""
    tasks: int = 400
    delay: float = 0.3
    """Delay of a task in seconds."""


class Costs(Plain, frozen=True):
    """CPU costs, apart from the delays."""

    task: float
    """CPU seconds per task."""
    rejection: float
    """CPU seconds per rejected task."""
    cores: int
    """Number of cores of all nodes together; nodes on one machine share its cores."""


@contextmanager
def nodes_of(scenario: Scenario, folder: Path, seed: int) -> Iterator[list[str]]:
    """Start the scenario's nodes as processes on this machine; yields their addresses.

    Raises:
        StorageError: a node did not start.
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
    """Run all tasks on the scenario's nodes. Returns the duration in seconds."""
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
def cost_meter(folder: Path, tasks: int, cores: int) -> Iterator[Callable[[], Costs]]:
    """Yield a function that measures the current costs, on four idle nodes and four that reject all tasks."""
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
    """The durations of real runs in seconds, and the costs measured with them, because a machine's speed changes.

    Args:
        measure: measures the current costs; called before each run.
        least: minimum number of runs. Short runs are repeated more often, because they vary more.
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
    """A simulated node, with the interface that policies use."""

    name: str
    limit: int
    load: float
    random: Random
    slots: Any
    """A resource with one place per task at the same time."""
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
    """A simulation of `dispatch.Dispatcher` and `node.Node` with a simulated clock and the real policies."""

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
        """Choose nodes for the waiting tasks, while a node has room."""
        while self._waiting and self._with_room and self._dealt < 2 * self._scenario.limit * len(self._nodes):
            task = self._waiting.popleft()
            node: Any = self._choice.choose(self._nodes, task.tried, self._random)
            node.queue.append(task)
            self._dealt += 1
            self._offer(node)

    def _offer(self, node: _Node) -> None:
        """Send the tasks that are chosen for a node, while it has room."""
        while node.queue and node.running < node.room:
            node.running += 1
            self._world.process(self._perform(node, node.queue.popleft()))
        (self._with_room.add if node.in_hand < node.room else self._with_room.discard)(node)

    def _perform(self, node: _Node, task: _Task) -> Iterator[Any]:
        """Process a task on a node: reject, delay and run it."""
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
    """Simulate a scenario. Returns its duration in seconds.

    Args:
        seed: seed of the policy's random numbers, the same as in a real run with this seed.
        luck: together with `seed`, the seed of the nodes' random numbers.
    """
    return _Simulation(scenario, costs, seed, rejections, luck).run()


def simulated_mean(scenario: Scenario, costs: Costs, runs: int) -> float:
    """The mean duration of many simulated runs in seconds, with the seeds of `runs` real runs."""
    lucks = range(-(-SIMULATED // runs))
    return statistics.mean(
        simulate(scenario, costs, seed, luck=luck) for seed in range(runs) for luck in lucks
    )
