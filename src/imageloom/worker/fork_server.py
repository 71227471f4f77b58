"""The fork server that starts local worker processes. It has loaded their modules, so they start quickly."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running

from imageloom.system.machine import one_blas_thread
from imageloom.system.sockets import path_checked

PRELOAD = (
    "imageloom.worker.process",
    "imageloom.codecs.jpeg",
    "simplejpeg",
    "imageloom.worker.sandboxed",
    "imageloom.worker.sweeper",
)
"""Modules that all workers need."""


def warm_up(*modules: str) -> ForkServerContext:
    """Start the fork server if it is not running. It loads the workers' modules in the background.

    Args:
        modules: names of modules to load in addition to those that all workers need.

    Raises:
        EngineFailed: the path of the folder for temporary files is too long for a socket.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, *modules])
    with one_blas_thread(), path_checked():
        ensure_running()
    return context
