"""gRPC nodes: tasks are offered to nodes by a policy, and results come back item by item.

Nodes run elsewhere (`imageloom node`), or are processes that this engine starts for itself. A node that dies costs
an attempt of the items in progress there; one that cannot be reached costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from random import Random

from msgspec.structs import replace

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.nodes.config import NodesConfig, read_config
from imageloom.errors import MissingExtra, StorageError
from imageloom.model import Failure
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.policies import open_choice
from imageloom.scheduling.protocol import Event
from imageloom.scheduling.rules import Rules

try:
    from imageloom.engines.nodes.local_nodes import LocalNodes
    from imageloom.engines.nodes.remote import RemoteNodes
except ImportError:
    raise MissingExtra("the engine nodes", "nodes") from None

FIRST_ANSWER = 10.0
"""Seconds within which one of the nodes must have answered for the first time."""
PATIENCE = 60.0
"""Seconds without any node after which what waits for one is given up."""
LOOK = 1.0
"""Seconds between two looks for nodes."""
MOST_CAPACITY = 4096
"""Tasks at once, whatever the nodes say of themselves."""
BRIEF = 0.2
"""Seconds of a task below which a node has the next one before it needs it."""
MOST_RETURNS = 300
"""Times that nodes may send one task back without a result: each takes some tenths of a second."""


class Nodes(TransportEngine, Engine):
    """The engine.

    Args:
        settings: with `connect`, addresses with commas between them; with `nodes`, the path of a file; with
            neither of them, as many local nodes as it has jobs.
        config: instead of the file.
        waits: whether tasks wait for nodes that will come, however long: a server's do.

    Raises:
        UsageError: the file makes no sense, or an address needs TLS.
        StorageError: no node answers.
    """

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True, refuses=True)

    def __init__(self, settings: Settings, config: NodesConfig | None = None, waits: bool = False) -> None:
        config = config or (read_config(settings.nodes, NodesConfig) if settings.nodes else NodesConfig())
        if settings.connect:
            given = tuple(address.strip() for address in settings.connect.split(","))
            config = replace(config, nodes=(*config.nodes, *given))
        config.check()
        is_local = not config.nodes and not waits
        self._waits, self._last_reached = waits, time.monotonic()
        self._least = settings.jobs if is_local else 1
        self._remote = None if is_local else RemoteNodes(config.nodes, config.credentials, settings.timeout)
        self._nodes = self._remote or LocalNodes(settings)
        rules = rules_of(config, settings, is_local)
        super().__init__("nodes", self._nodes, rules, open_choice(config.choice), Random(config.seed))
        if config.nodes and not waits:
            self._nodes.answered.wait(FIRST_ANSWER)
            if missing := self.missing:
                self.close()
                raise StorageError(missing)

    @property
    def capacity(self) -> int:
        """What the nodes that are up do at once."""
        return max(self._least, min(self.scheduler.capacity, MOST_CAPACITY))

    @property
    def missing(self) -> str:
        return "" if self._nodes.is_reached else f"no node can be reached: {self._nodes.troubles}"

    def join(self, address: str) -> None:
        """Use a node from now on; nothing happens where it is used.

        Raises:
            UsageError: the address needs TLS.
        """
        if self._remote:
            self._remote.join(address)

    def leave(self, address: str) -> None:
        """Give a node nothing more; what it works on it finishes."""
        if self._remote:
            self._remote.leave(address)

    def _step(self) -> bool:
        """Give up what waits where there is no node for long."""
        now = time.monotonic()
        if self._waits or self._nodes.is_reached or not self.scheduler.waiting:
            self._last_reached = now
        elif now - self._last_reached > PATIENCE:
            failure = Failure("WorkerLost", f"{self.missing} (waited {PATIENCE:g} s)")
            self.scheduler.give_up(failure, now)
        return super()._step()

    def _events(self, patience: float | None) -> Iterable[Event]:
        return super()._events(LOOK if patience is None else min(patience, LOOK))


def rules_of(config: NodesConfig, settings: Settings, is_local: bool = False) -> Rules:
    """The scheduler's rules for nodes that are chosen so."""
    rules = Rules(
        timeout=settings.timeout,
        cuts=False,
        returns=MOST_RETURNS,
        refusals=max(1, config.rejections),
        falls_back=config.fallback == "mandatory",
        copies=config.stragglers,
        brief=BRIEF,
    )
    if is_local:
        return replace(rules, jobs=settings.jobs)
    return replace(rules, ends="delivery", isolation="none")  # a node has a process for each task
