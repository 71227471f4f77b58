"""A node for one run on this machine: one process, one task at a time, reached through a socket in a folder.

It is a fleet's: when it dies, another one takes its place, and the item that it had in hand has cost an attempt.
The folder is its owner's alone, so no other user of the machine can send it tasks, as with a port they could.
"""

from __future__ import annotations

import os
import signal

from imageloom.engines.worker import bound_memory, die_with_parent, die_with_starter

GRACE = 5.0
"""Seconds for a call that is under way when the node is to leave."""


def address_in(folder: str, pid: int) -> str:
    return f"unix:{folder}/{pid}"


def serve(folder: str, memory: int) -> None:
    """Do tasks until SIGTERM.

    Args:
        memory: bytes that the process may take for data beyond what it has; 0 for no bound.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it finishes what is in hand
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    die_with_parent()
    die_with_starter()
    # gRPC is loaded here, not above: the server that processes are forked from must never have it.
    from imageloom.nodes.config import Credentials, NodeConfig
    from imageloom.nodes.node import WAITING_CALLS, Node
    from imageloom.nodes.rpc import NODE, Service
    from imageloom.work import results

    if memory:
        bound_memory(memory)
    node = Node(results, NodeConfig(limit=1))
    service = Service(node, NODE, address_in(folder, os.getpid()), Credentials(), WAITING_CALLS)
    signal.sigwait([signal.SIGTERM])
    node.leave()
    service.close(GRACE)
