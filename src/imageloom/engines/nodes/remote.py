"""Nodes that run elsewhere. The state of each node is polled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.config import Credentials
from imageloom.engines.nodes.security import channel_credentials, read_token, token_metadata
from imageloom.engines.nodes.transport import PAUSE, Node, NodeTransport, load_of, reason_of

PERIOD = 1.0
"""Seconds between two polls of a connected node."""
ANSWER = 5.0
"""Time-out for the answer of a node, in seconds."""
MOST_LIMIT = 256
"""Maximum number of tasks of one node at the same time, whatever it reports."""


class RemoteNodes(NodeTransport):
    """The transport of nodes with given addresses, or that join later.

    Raises:
        UsageError: an address needs TLS.
    """

    def __init__(self, addresses: Iterable[str], own: Credentials, timeout: float) -> None:
        super().__init__(token_metadata(read_token(own.token)), timeout)
        self._own = own
        self._kept: dict[str, asyncio.Task[None]] = {}
        """The polling coroutine of each node."""
        for address in addresses:
            self.join(address)

    def join(self, address: str) -> None:
        """Add a node. Does nothing if it is used already. May be called from any thread.

        Raises:
            UsageError: the address needs TLS.
        """
        if address not in self._kept:
            self._call(self._join, address, channel_credentials(address, self._own))

    def leave(self, address: str) -> None:
        """Send no more tasks to a node. It finishes its tasks. May be called from any thread."""
        self._call(self._leave, address)

    def _join(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        if address in self._kept:
            return
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address)
            node.connect(rpc.open_async_channel(address, credentials))
        node.is_gone = False
        self._kept[address] = self._spawn(self._keep(node))

    def _leave(self, address: str) -> None:
        if keeper := self._kept.pop(address, None):
            keeper.cancel()
            node = self._nodes[address]
            node.is_up, node.is_gone = False, True
            self._is_down(node, "it has shut down")

    async def _keep(self, node: Node) -> None:
        while True:
            try:
                status: Any = pb.NodeStatus.FromString(
                    await node.describe(pb.NodeQuery(), timeout=ANSWER, metadata=self._metadata)
                )
            except (grpc.RpcError, DecodeError) as error:
                self._is_down(node, reason_of(error))
                if all("token" in other.trouble for other in self._nodes.values()):
                    self.answered.set()
            else:
                if status.leaving:
                    self._is_down(node, "it is shutting down")
                else:
                    self._is_up(node, min(max(1, status.limit), MOST_LIMIT), load_of(status.load))
            await asyncio.sleep(PERIOD if node.is_up else PAUSE)
