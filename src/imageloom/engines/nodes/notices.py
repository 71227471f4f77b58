"""A node registers with a server repeatedly, and unregisters when it shuts down."""

from __future__ import annotations

import logging
import threading

import grpc

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.config import NodeConfig
from imageloom.engines.nodes.security import read_token, token_metadata

PERIOD = 2.0
"""Seconds between two registrations. A restarted server gets its nodes after this time."""
ANSWER = 5.0

log = logging.getLogger(__name__)


def notify(settings: NodeConfig, address: str, leaving: threading.Event) -> None:
    """Register with a server repeatedly until the event is set, then unregister.

    Args:
        address: address at which the server reaches the node.
    """
    metadata = token_metadata(read_token(settings.credentials.token))
    channel = rpc.open_channel(settings.server, settings.credentials)
    stub = rpc.stubs.ImageProcessingServerStub(channel)
    trouble = ""
    try:
        while True:
            is_last = leaving.is_set()
            try:
                stub.Register(
                    pb.NodeNotice(address=address, leaving=is_last), timeout=ANSWER, metadata=metadata
                )
                trouble = ""
            except grpc.RpcError as error:
                said = error.code().name
                if said != trouble:
                    trouble = said
                    details = error.details()
                    log.warning("cannot register with %s: %s: %s", settings.server, said, details)
            if is_last:
                return
            leaving.wait(PERIOD)
    finally:
        channel.close()
