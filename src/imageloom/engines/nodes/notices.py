"""A node registers with a server repeatedly, and unregisters when it shuts down."""

from __future__ import annotations

import threading

import grpc

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.config import NodeConfig
from imageloom.engines.nodes.security import read_token, token_metadata
from imageloom.system.announcing import Announcer

PERIOD = 2.0
"""Seconds between two registrations. A restarted server gets its nodes after this time."""
ANSWER = 5.0


def notify(settings: NodeConfig, address: str, leaving: threading.Event) -> None:
    """Register with a server repeatedly until the event is set, then unregister.

    Args:
        address: address at which the server reaches the node.
    """
    metadata = token_metadata(read_token(settings.credentials.token))
    channel = rpc.open_channel(settings.server, settings.credentials)
    stub = rpc.stubs.ImageProcessingServerStub(channel)
    announcer = Announcer(f"node {address}")
    try:
        while True:
            is_last = leaving.is_set()
            try:
                stub.Register(
                    pb.NodeNotice(address=address, leaving=is_last), timeout=ANSWER, metadata=metadata
                )
                announcer.say(f"registered with {settings.server}")
            except grpc.RpcError as error:
                said = error.code().name
                announcer.say(
                    f"cannot register with {settings.server} ({said}: {error.details()}): trying again"
                )
            if is_last:
                return
            leaving.wait(PERIOD)
    finally:
        channel.close()
