"""What the server of the engine `zeromq` knows of each worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from imageloom.engines.zeromq.wire import Hello


@dataclass(eq=False)
class Peer:
    """A connected worker."""

    routing_id: bytes
    hello: Hello
    is_local: bool
    heard: float
    sent: set[int] = field(default_factory=set)
    """Deliveries that were sent to it and that it has not finished."""
    is_aside: bool = False
    """Whether it refuses the tasks of this run and gets none."""
    missed: set[int] = field(default_factory=set)
    """Those of them that were missing in its last heartbeat."""

    @property
    def id(self) -> str:
        return self.routing_id.hex()

    @property
    def name(self) -> str:
        return f"{self.hello.pid}" if self.is_local else f"{self.hello.host}:{self.hello.pid}"
