"""Which node a task is offered to, and whether the node takes it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from random import Random
from typing import Literal, Protocol

from imageloom.errors import UsageError

Acceptance = Literal["mandatory", "optional"]
"""Whether a node must accept a task, or rejects it with a probability equal to its load."""


class Candidate(Protocol):
    """What is known of a node that a task may be offered to."""

    name: str
    limit: int
    """Tasks that it does at once."""
    load: float
    """As the node says: 0 to 1."""
    seconds: float
    """Mean time of a task there; 0 where none is known."""

    @property
    def in_hand(self) -> int:
        """Tasks that it does, and that wait for it."""


class Choice(Protocol):
    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        """One of the nodes.

        Args:
            nodes: at least one.
            tried: the names of those that have rejected the task.
        """


class RandomChoice:
    """Any node, each with the same probability, whatever it has in hand."""

    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        return random.choice(nodes)


class LeastLoaded:
    """The node with the least load and the least in hand for its limit."""

    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        return min(_fresh(nodes, tried), key=lambda node: (_pressure(node), random.random()))


class TwoChoices:
    """The less loaded one of two nodes that are drawn: nearly as good, and it looks at two nodes only."""

    def choose(self, nodes: Sequence[Candidate], tried: Container[str], random: Random) -> Candidate:
        fresh = _fresh(nodes, tried)
        return min(random.sample(fresh, min(2, len(fresh))), key=_pressure)


class Weighted:
    """Any node, with a probability in proportion to its measured speed."""

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
    """The policy of that name.

    Raises:
        UsageError: there is none; the message lists the known ones.
    """
    if name not in CHOICES:
        raise UsageError(f"there is no choice {name!r}; there are: {', '.join(CHOICES)}")
    return CHOICES[name]()


def accepts(acceptance: Acceptance, load: float, random: Random) -> bool:
    """Whether a node with that load takes a task."""
    return acceptance == "mandatory" or random.random() >= load


def _fresh(nodes: Sequence[Candidate], tried: Container[str]) -> Sequence[Candidate]:
    """Those that have not rejected the task; all where each one has."""
    return [node for node in nodes if node.name not in tried] or nodes


def _pressure(node: Candidate) -> float:
    return node.in_hand / node.limit + node.load
