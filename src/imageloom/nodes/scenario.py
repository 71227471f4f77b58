"""The experiment of acceptance and choice: nodes of which some are loaded, for real and simulated.

A task is one small image. A loaded node delays a task with a probability equal to its load; one that accepts
optionally rejects it with the same probability. So a job's time is mostly what the policies make of the delays.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from imageloom.engines import Settings
from imageloom.engines.nodes import Nodes
from imageloom.errors import MissingExtra, StorageError
from imageloom.model import Item, Limits, Output, Plain, Recipe, Task, Work
from imageloom.nodes.config import NodesConfig
from imageloom.nodes.policies import Acceptance, accepts, open_choice
from imageloom.pipeline import Pipeline
from imageloom.samples import draw_photos
from imageloom.stores.local import LocalStore

STARTING = 30.0
"""Seconds that a node may take until it is there."""


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
        while engine.capacity < len(addresses) * scenario.limit:
            time.sleep(0.01)
        began = time.perf_counter()
        for future in [engine.submit(task) for task in tasks]:
            failure = future.result().results[0].failure
            if failure:
                raise StorageError(f"{failure.kind}: {failure.message}")
        return time.perf_counter() - began


@dataclass(eq=False)
class _Node:
    """A simulated node, as policies see it."""

    name: str
    limit: int
    load: float
    room: Any
    in_hand: int = 0
    seconds: float = 0.0


def simulate(scenario: Scenario, service: float, cores: int, seed: int, rejections: int = 40) -> float:
    """The seconds that the scenario would take.

    Args:
        service: seconds of a core that a task takes, beside its delay.
        cores: of all nodes together: on one machine, they share what it has.
    """
    try:
        import simpy
    except ImportError:
        raise MissingExtra("the simulation", "scenario") from None
    world: Any = simpy.Environment()
    random, choice = Random(seed), open_choice(scenario.choice)
    nodes = [
        _Node(str(number), scenario.limit, load, simpy.Resource(world, scenario.limit))
        for number, load in enumerate(scenario.loads)
    ]
    computing = simpy.Resource(world, cores)
    window = simpy.Resource(world, 2 * scenario.limit * len(nodes))

    def task() -> Iterator[Any]:
        with window.request() as admitted:
            yield admitted
            tried: set[str] = set()
            for attempt in range(rejections + 1):
                node: Any = choice.choose(nodes, tried, random)
                node.in_hand += 1
                with node.room.request() as room:
                    yield room
                    if attempt == rejections or accepts(scenario.acceptance, node.load, random):
                        began = world.now
                        delay = scenario.delay if random.random() < node.load else 0.0
                        yield world.timeout(delay)
                        with computing.request() as core:
                            yield core
                            yield world.timeout(service)
                        spent = world.now - began
                        node.seconds += (spent - node.seconds) * (0.2 if node.seconds else 1.0)
                        node.in_hand -= 1
                        return
                node.in_hand -= 1
                tried.add(node.name)
                if len(tried) == len(nodes):
                    tried.clear()

    for _ in range(scenario.tasks):
        world.process(task())
    world.run()
    return float(world.now)
