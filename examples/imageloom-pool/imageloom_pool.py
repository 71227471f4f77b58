"""A pool of processes of `concurrent.futures` as an engine. Any other Executor is made one the same way.

The pool ends when one of its processes dies, so the engine does not declare `survives_death`.
"""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from imageloom.engines import Settings
from imageloom.engines.executor import ExecutorEngine, ExecutorTransport


class Pool(ExecutorEngine):
    """The engine. Its processes leave Ctrl-C to the driver, which finishes the items in progress."""

    def __init__(self, settings: Settings) -> None:
        workers = max(1, settings.jobs)
        context = get_context("forkserver")
        context.set_forkserver_preload(["imageloom.worker.perform"])  # loaded once, not in each process
        executor = ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
        super().__init__(ExecutorTransport(executor, lambda: workers, ahead=2))
