"""`imageloom worker`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import TYPE_CHECKING

import click

from imageloom.cli import options
from imageloom.cli.options import Quantity
from imageloom.cli.options.values import Whole
from imageloom.cli.signals import finish_on_signals
from imageloom.cli.text import say
from imageloom.system.sandbox import Mode, Sandbox

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from imageloom.scheduling.fleet import Fleet


@click.command("worker", short_help="Process items for a run on this or another machine (zeromq, redis).")
@click.option("--engine", required=True, metavar="NAME", help="Engine of the run: zeromq or redis.")
@options.connect_options(
    "Address of the run's driver (zeromq, its --bind) or of the Redis server (redis).", is_needed=True
)
@click.option(
    "-j",
    "--jobs",
    type=Whole(1, 1024),
    show_default="one per core",
    help="Number of worker processes.",
)
@click.option(
    "--threads",
    type=Whole(1, 64),
    default=1,
    show_default=True,
    help="Number of threads in each worker process.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="PATH",
    show_default="the current folder",
    help="Folder or storage address. The worker reads and writes only below its roots. Repeatable.",
)
@options.operators_option
@options.accept_host_keys_option
@options.sandbox_options_of_worker
@click.option(
    "--memory",
    type=Quantity(),
    show_default="no limit",
    help="Memory limit of each worker process, in bytes.",
)
@click.option(
    "--role",
    type=click.Choice(["worker", "assembler", "all"]),
    default="all",
    show_default=True,
    help="Tasks to accept (redis only): the encoding of whole large images (assembler), all other tasks "
    "(worker), or all.",
)
@click.option(
    "--keys", type=click.Path(dir_okay=False), help="Key file of this worker, made by `imageloom keys`."
)
@options.health_option
@click.option("--once", is_flag=True, help="End when the run ends, instead of waiting for the next run.")
def command(
    engine: str,
    connect: str,
    jobs: int | None,
    threads: int,
    roots: tuple[str, ...],
    operators: tuple[str, ...],
    sandbox: Mode | None,
    untrusted: bool,
    memory: int | None,
    role: str,
    keys: str | None,
    health: str | None,
    once: bool,
) -> int:
    """Process items for a run, and for the runs after it, until a signal ends the command.

    Workers may start and stop at any time. A worker reads and writes only below its roots. It executes only
    imageloom's own operators and those in the files of --operators. A worker process that crashes is replaced. At
    the first SIGTERM or Ctrl-C it finishes the items in progress, returns the other tasks and ends; a second one
    ends it at once.

    \b
    imageloom worker --engine zeromq --connect tcp://127.0.0.1:5555 --keys keys/client.key --root photos/
    IMAGELOOM_CONNECT=rediss://me:secret@host:6379/0 imageloom worker --engine redis --role worker --root /data

    Exit codes: 0 ended by a signal, or because the run ended; 2 usage error, or the driver has another protocol
    version; 4 access error; 130 ended at once.
    """
    from imageloom.engines import worker_target
    from imageloom.engines.workers import work_and_report, work_apart
    from imageloom.scheduling.fleet import Fleet
    from imageloom.system.machine import available_cores
    from imageloom.system.tracing import masked
    from imageloom.worker.guard import Guard
    from imageloom.worker.settings import WorkerSettings

    module = worker_target(engine).partition(":")[0]
    apart = options.sandbox_of(sandbox, untrusted, memory=memory or 0)
    own = options.sandbox_of_worker(apart, sandbox)
    guard = Guard(roots or (os.getcwd(),), tuple(map(os.path.abspath, operators)), sandbox=own)
    options.check_roots(roots)
    settings = WorkerSettings(connect, threads, memory or 0, guard, keys or "", once, role)
    ended: SimpleQueue[int] = SimpleQueue()
    finish_on_signals(lambda: ended.put(0), "leaving", "leave")
    reports, line = Pipe(duplex=False)
    fleet = Fleet(
        work_and_report if health else work_apart,
        (line, engine, settings) if health else (engine, settings),
        jobs or available_cores(),
        died=lambda pid, cause: say(f"worker {pid} died: {cause}; starting a replacement", err=True),
        left=ended.put,
        preload=[module],
        sandboxed=apart.is_on,
    )
    count = jobs or available_cores()
    where = ", ".join(root if "://" in root else os.path.abspath(root) for root in guard.roots)
    number = "1 process" if count == 1 else f"{count} processes"
    say(f"worker: {number} for {engine} at {masked(connect)}, for files below {where}", err=True)
    try:
        with _health(health, fleet, reports, apart):
            code = ended.get()
            fleet.drain()
    finally:
        fleet.close(0.0)
    return code


@contextmanager
def _health(address: str | None, fleet: Fleet, reports: Connection, sandbox: Sandbox) -> Iterator[None]:
    """Serve health probes and metrics if an address is given."""
    if not address:
        yield
        return
    import threading

    from imageloom.service.health import Health, Tally

    tally = Tally(sandbox)
    threading.Thread(target=tally.receive, args=(reports,), daemon=True).start()
    with Health(address, lambda: fleet.is_complete, lambda: tally.of_workers(fleet)) as health:
        say(f"health {health.address}", err=True)
        yield
