"""gRPC nodes: a policy chooses a node for each task, and the result of each item is returned at once.

Nodes run elsewhere (`imageloom node`), or are processes that this engine starts. If a node dies, its items in
progress are charged. If a node cannot be reached, no item is charged.
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
    from imageloom.engines.nodes.transport import Node
except ImportError:
    raise MissingExtra("the engine nodes", "nodes") from None

FIRST_ANSWER = 10.0
"""Time-out for the first answer of any node, in seconds."""
PATIENCE = 60.0
"""Time without any node, in seconds, after which waiting tasks fail."""
LOOK = 1.0
"""Seconds between two checks for nodes."""
MOST_CAPACITY = 4096
"""Maximum number of tasks at the same time, whatever the nodes report."""
BRIEF = 0.2
"""If tasks take less than this on average, in seconds, a node gets its next task in advance."""
MOST_RETURNS = 300
"""How often nodes may return a task without a result. Each time takes some tenths of a second."""


class Nodes(TransportEngine, Engine):
    """The engine.

    Args:
        settings: `connect` has addresses separated by commas, or `nodes` the path of a configuration file. Without
            both, `jobs` local nodes are started.
        config: replaces the configuration file.
        waits: whether tasks wait for nodes without a time-out, as in a server.

    Raises:
        UsageError: the file is invalid, or an address needs TLS.
        StorageError: no node can be reached.
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
        self.policy = config.choice
        """The policy that chooses a node for each task."""
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
        """Number of tasks that the connected nodes run at the same time."""
        return max(self._least, min(self.scheduler.capacity, MOST_CAPACITY))

    @property
    def has_others(self) -> bool:
        return self._remote is not None

    @property
    def missing(self) -> str:
        return "" if self._nodes.is_reached else f"no node can be reached: {self._nodes.troubles}"

    @property
    def nodes(self) -> list[Node]:
        """The nodes that it knows, connected or not. To be read only."""
        return self._nodes.nodes

    def join(self, address: str) -> None:
        """Add a node. Does nothing if it is used already.

        Raises:
            UsageError: the address needs TLS.
        """
        if self._remote:
            self._remote.join(address)

    def leave(self, address: str) -> None:
        """Send no more tasks to a node. It finishes its tasks."""
        if self._remote:
            self._remote.leave(address)

    def _step(self) -> bool:
        """Fail the waiting tasks if there was no node for `PATIENCE` seconds."""
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
    """The scheduler's rules for this configuration."""
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
    return replace(rules, ends="delivery", isolation="none")  # a node has a separate process for each task
