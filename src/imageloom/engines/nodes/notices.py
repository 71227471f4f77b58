"""A node registers with a server repeatedly, and unregisters when it shuts down."""

from __future__ import annotations

import logging
import threading
from typing import Any

import grpc

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.config import NodeConfig
from imageloom.engines.nodes.security import read_token, token_metadata

PERIOD = 2.0
"""Seconds between two registrations. A restarted server gets its nodes after this time."""
ANSWER, LAST_ANSWER = 5.0, 0.5
"""Time-outs in seconds of a registration, and of the notice that the node leaves."""
TICK = 0.1

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
            notice = pb.NodeNotice(address=address, leaving=is_last)
            limit = LAST_ANSWER if is_last else ANSWER
            try:
                _wait(
                    stub.Register.future(notice, timeout=limit, metadata=metadata),
                    None if is_last else leaving,
                )
                trouble = ""
            except grpc.FutureCancelledError:
                continue
            except grpc.RpcError as error:
                said = error.code().name
                if said != trouble and not is_last:
                    trouble = said
                    details = error.details()
                    log.warning("cannot register with %s: %s: %s", settings.server, said, details)
            if is_last:
                return
            leaving.wait(PERIOD)
    finally:
        channel.close()


def _wait(call: Any, leaving: threading.Event | None) -> None:
    """Wait for the end of a call. It is cancelled when the event is set."""
    ended = threading.Event()
    call.add_done_callback(lambda _: ended.set())
    while not ended.wait(TICK):
        if leaving is not None and leaving.is_set():
            call.cancel()
    call.result()
