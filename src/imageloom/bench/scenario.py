"""The experiment of `imageloom scenario`: policies on nodes of which some are loaded, measured and simulated.

A task is one small image. A loaded node delays a task with a probability equal to its load. With optional
acceptance, it rejects the task with the same probability. So the duration of a job depends mostly on delays and
policies.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random

from imageloom.bench.samples import draw_photos
from imageloom.engines import Settings
from imageloom.engines.nodes.config import MOST_REJECTIONS, NodesConfig
from imageloom.engines.nodes.engine import Nodes, rules_of
from imageloom.errors import StorageError
from imageloom.model import Item, Limits, Output, Plain, Recipe, Result, Task, Work
from imageloom.recipes.pipeline import Pipeline
from imageloom.scheduling.policies import Acceptance, accepts, open_choice
from imageloom.scheduling.protocol import Begun, Event, Joined, Received, Refused, Send, Ticket
from imageloom.scheduling.scheduler import Scheduler
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
    tasks = list(_tasks(str(source), str(sink), key, scenario.tasks))
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


class _Places:
    """A number of places; whoever finds none waits for its turn."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Callable[[], None]] = deque()

    def enter(self, then: Callable[[], None]) -> None:
        if self._free:
            self._free -= 1
            then()
        else:
            self._waiting.append(then)

    def leave(self) -> None:
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class _Node:
    """A simulated node."""

    def __init__(self, load: float, limit: int, random: Random) -> None:
        self.load, self.random, self.slots = load, random, _Places(limit)


class _Simulation:
    """The scheduler itself on a simulated clock, with simulated nodes that share some cores."""

    def __init__(self, scenario: Scenario, costs: Costs, seed: int, rejections: int, luck: int) -> None:
        self._scenario, self._costs = scenario, costs
        config = NodesConfig((), scenario.choice, rejections, "mandatory", stragglers=False)
        rules = rules_of(config, Settings(timeout=0.0))
        self._scheduler = Scheduler(rules, open_choice(scenario.choice), Random(seed))
        self._cores = _Places(costs.cores)
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._nodes = {
            str(number): _Node(load, scenario.limit, Random(f"{seed} {luck} {number}"))
            for number, load in enumerate(scenario.loads)
        }

    def run(self) -> float:
        """The seconds that all tasks take."""
        for name, node in self._nodes.items():
            self._tell(Joined(name, self._scenario.limit, load=node.load, reports_begin=True))
        for task in _tasks("/in", "/out", "a.jpg", self._scenario.tasks):
            self._scheduler.submit(Ticket(task), self._now)
        self._carry_out()
        while self._agenda:
            self._now, _, then = heapq.heappop(self._agenda)
            then()
        return self._now

    def _tell(self, event: Event) -> None:
        self._scheduler.handle(event, self._now)
        self._carry_out()

    def _carry_out(self) -> None:
        for command in self._scheduler.take_commands():
            if isinstance(command, Send):
                self._offer(self._nodes[command.worker], command)

    def _offer(self, node: _Node, send: Send) -> None:
        """A node accepts a task, or rejects it."""
        accepted = send.must_accept or accepts(self._scenario.acceptance, node.load, node.random)
        delay = self._scenario.delay if node.random.random() < node.load else 0.0
        if accepted:
            node.slots.enter(lambda: self._begin(node, send, delay))
        else:
            self._compute(
                self._costs.rejection, lambda: self._tell(Refused(send.worker, send.task.id, "it is loaded"))
            )

    def _begin(self, node: _Node, send: Send, delay: float) -> None:
        self._tell(Begun(send.worker, send.task.id))
        self._after(delay, lambda: self._compute(self._costs.task, lambda: self._finish(node, send)))

    def _finish(self, node: _Node, send: Send) -> None:
        node.slots.leave()
        self._tell(Received(send.worker, send.task.id, 0, Result(send.task.work[0].item.key)))

    def _compute(self, seconds: float, then: Callable[[], None]) -> None:
        """Use a core for so many seconds."""

        def leave() -> None:
            self._cores.leave()
            then()

        self._cores.enter(lambda: self._after(seconds, leave))

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self._now + seconds, next(self._order), then))


def _tasks(source: str, sink: str, key: str, count: int) -> Iterator[Task]:
    """Tasks of one image each, always the same."""
    recipe = Recipe((Output(Pipeline("resize 16x16").steps),), "fast")
    for number in range(count):
        yield Task(number, "1", source, sink, recipe, Limits(), (Work(Item(key), (key,), number),))


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
