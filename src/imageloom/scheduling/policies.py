"""Policies of the engine nodes: which node gets a task, and whether the node accepts it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from random import Random
from typing import Literal, Protocol

from imageloom.errors import UsageError

Acceptance = Literal["mandatory", "optional"]
"""Whether a node must accept each task, or rejects it with a probability equal to its load."""


class Candidate(Protocol):
    """A node that may get a task, as a policy sees it."""

    name: str
    limit: int
    """Number of tasks that it processes at the same time."""
    load: float
    """Load that the node reports, from 0 to 1."""
    seconds: float
    """Mean time of a task on this node, in seconds; 0 if unknown."""

    @property
    def in_hand(self) -> int:
        """Number of tasks that it has, in progress or waiting."""


class Choice(Protocol):
    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        """Choose one of the nodes.

        Args:
            nodes: at least one.
            tried: names of the nodes that have rejected the task.
        """


class RandomChoice:
    """Chooses a random node. All nodes have the same probability."""

    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        return random.choice(nodes)


class LeastLoaded:
    """Chooses the node with the least load: its own load, plus its tasks in proportion to its limit."""

    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        return min(_fresh(nodes, tried), key=lambda node: (_pressure(node), random.random()))


class TwoChoices:
    """Draws two random nodes and chooses the less loaded one: nearly as good as LeastLoaded, and cheaper."""

    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        fresh = _fresh(nodes, tried)
        return min(random.sample(fresh, min(2, len(fresh))), key=_pressure)


class Weighted:
    """Chooses a random node, with a probability in proportion to its measured speed."""

    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        fresh = _fresh(nodes, tried)
        known = [node.seconds for node in fresh if node.seconds]
        usual = sum(known) / len(known) if known else 1.0
        return random.choices(fresh, [node.limit / (node.seconds or usual) for node in fresh])[0]


CHOICES: dict[str, type[Choice]] = {
    "random": RandomChoice,
    "least-loaded": LeastLoaded,
    "two-choices": TwoChoices,
    "weighted": Weighted,
}


def open_choice(name: str) -> Choice:
    """The policy with this name.

    Raises:
        UsageError: no policy has this name. The message lists the known names.
    """
    if name not in CHOICES:
        raise UsageError(f"there is no choice {name!r}; there are: {', '.join(CHOICES)}")
    return CHOICES[name]()


def accepts(acceptance: Acceptance, load: float, random: Random) -> bool:
    """Whether a node with this load accepts a task."""
    return acceptance == "mandatory" or random.random() >= load


def _fresh(nodes: Sequence[Candidate], tried: Container[str]) -> Sequence[Candidate]:
    """The nodes that have not rejected the task; all nodes if each of them has."""
    return [node for node in nodes if node.name not in tried] or nodes


def _pressure(node: Candidate) -> float:
    return node.in_hand / node.limit + node.load
