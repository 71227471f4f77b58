"""The nodes of the engine `nodes`, as people see and drain them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imageloom.errors import UnknownName
from imageloom.model import Plain
from imageloom.service.state import ServiceState
from imageloom.service.turns import Held, Turns

if TYPE_CHECKING:
    from imageloom.engines.nodes.engine import Nodes


class NodeView(Plain, frozen=True):
    """A node."""

    address: str
    state: str
    """connected, not connected, draining or drained."""
    trouble: str
    """Why it is not connected; empty if it is."""
    slots: int
    load: float
    items: tuple[Held, ...]
    waiting: int


class NodeControl:
    """Shows nodes, and drains them. What was drained stays so when the service starts again."""

    def __init__(self, engine: Nodes, turns: Turns, state: ServiceState) -> None:
        self._engine, self._turns, self._state = engine, turns, state
        self.policy = engine.policy
        self._known: dict[str, None] = dict.fromkeys(state.drained())
        for address in self._known:
            engine.leave(address)

    def views(self) -> list[NodeView]:
        """All nodes, by address."""
        drained = set(self._state.drained())
        workers = {view.name: view for view in self._turns.workers}
        known = {node.name: node for node in self._engine.nodes}
        found = []
        for address in sorted({*known, *drained}):
            node, worker = known.get(address), workers.get(address)
            items = worker.items if worker else ()
            if address in drained:
                state, trouble = ("draining" if items else "drained"), ""
            else:
                is_up = node is not None and node.is_up
                state = "connected" if is_up else "not connected"
                trouble = "" if is_up or node is None else node.trouble
            slots, load, waiting = (worker.slots, worker.load, worker.waiting) if worker else (0, 0.0, 0)
            found.append(NodeView(address, state, trouble, slots, load, items, waiting))
        return found

    def drain(self, address: str, is_drained: bool) -> None:
        """Send no more tasks to a node, which finishes those that it has; or use it again.

        Raises:
            UnknownName: there is no such node.
        """
        if address not in {view.address for view in self.views()}:
            raise UnknownName(f"there is no node {address!r:.80}")
        self._state.set_drained(address, is_drained)
        if is_drained:
            self._engine.leave(address)
        else:
            self._engine.join(address)
