"""The engine `redis`: the scheduler with the transport of Redis Streams."""

from __future__ import annotations

from imageloom.engines import Capabilities, Engine, Settings
from imageloom.engines.redis.transport import RedisTransport
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.rules import Rules

MOST_RETURNS = 100
"""How often consumers may return a task without a result: each one that refuses a run's tasks does it."""


class RedisStreams(TransportEngine, Engine):
    """The engine.

    Raises:
        UsageError: the address is not that of a Redis server.
        StorageError: the server cannot be reached, refuses the user, or is too old.
    """

    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        self.transport = RedisTransport(settings)
        self._is_given = bool(settings.connect)
        self.listeners = [self.transport.note_failed]
        rules = Rules(
            timeout=settings.timeout,
            ends="delivery",
            isolation="none",
            ends_liars=False,
            returns=MOST_RETURNS,
        )
        super().__init__("redis", self.transport, rules)

    @property
    def capacity(self) -> int:
        """Number of threads of its own workers, or of all active consumers."""
        return self.transport.capacity

    @property
    def has_others(self) -> bool:
        return self._is_given

    @property
    def missing(self) -> str:
        return self.transport.missing

    def lag(self) -> dict[str, int]:
        """Number of deliveries in each stream that no worker has taken; empty while the server is unavailable."""
        return self.transport.lag()

    def close(self) -> None:
        self.transport.stop()
        super().close()
