"""A node registers with a server repeatedly, and unregisters when it shuts down."""

from __future__ import annotations

import threading
from typing import Any

import grpc

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.engines.nodes import rpc
from imageloom.engines.nodes.config import NodeConfig
from imageloom.engines.nodes.security import read_token, token_metadata
from imageloom.system.announcing import Announcer

PERIOD = 2.0
"""Seconds between two registrations. A restarted server gets its nodes after this time."""
ANSWER, LAST_ANSWER = 5.0, 0.5
"""Time-outs in seconds of a registration, and of the notice that the node leaves."""
TICK = 0.1


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
            notice = pb.NodeNotice(address=address, leaving=is_last)
            limit = LAST_ANSWER if is_last else ANSWER
            try:
                _wait(
                    stub.Register.future(notice, timeout=limit, metadata=metadata),
                    None if is_last else leaving,
                )
                announcer.say(f"registered with {settings.server}")
            except grpc.FutureCancelledError:
                continue
            except grpc.RpcError as error:
                if not is_last:
                    announcer.say(
                        f"cannot register with {settings.server} ({error.code().name}: {error.details()}): "
                        "trying again"
                    )
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
