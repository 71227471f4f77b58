"""The fork server that local worker processes come from: one that has loaded what they need begins at once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running

from imageloom.system.machine import one_blas_thread

PRELOAD = (
    "imageloom.worker.process",
    "imageloom.codecs.jpeg",
    "simplejpeg",
    "imageloom.worker.sweeper",
)
"""Modules that all workers need."""


def warm_up(*modules: str) -> ForkServerContext:
    """Start the fork server, if there is none, which loads what workers need while its caller does something else.

    Args:
        modules: that the workers need beside those of all.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, *modules])
    with one_blas_thread():
        ensure_running()
    return context
