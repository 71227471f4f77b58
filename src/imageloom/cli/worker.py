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
from imageloom.cli.signals import finish_on_signals
from imageloom.cli.text import say

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from imageloom.scheduling.fleet import Fleet


@click.command("worker", short_help="Work for an engine's driver, here or on another machine.")
@click.option("--engine", required=True, metavar="NAME", help="The driver's: zeromq, redis.")
@options.connect_options("Of the server that has the tasks.", is_needed=True)
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), help="Worker processes.  [one for each core]")
@click.option("--threads", type=click.IntRange(1, 64), default=1, help="In each process.  [1]")
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="PATH",
    help="A folder, or a store's address, to read and write below; repeatable.  [the current folder]",
)
@options.operators_option
@options.accept_host_keys_option
@click.option("--memory", type=Quantity(), help="Bytes that each process may take for data.  [no bound]")
@click.option(
    "--role",
    type=click.Choice(["worker", "assembler", "all"]),
    default="all",
    show_default=True,
    help="Which tasks: all, encodings of whole large images (assembler), or the others; redis.",
)
@click.option("--keys", type=click.Path(dir_okay=False), help="The file of this side's keys.")
@options.health_option
@click.option("--once", is_flag=True, help="Leave when the run is over, instead of waiting for the next.")
def command(
    engine: str,
    connect: str,
    jobs: int | None,
    threads: int,
    roots: tuple[str, ...],
    operators: tuple[str, ...],
    memory: int | None,
    role: str,
    keys: str | None,
    health: str | None,
    once: bool,
) -> int:
    """Take tasks from the driver of a run, or of one run after the other, until a signal ends it.

    A worker may come and go at any time. It reads and writes below its roots alone, and runs no operators but
    imageloom's and those of the given files. A process that dies is replaced. SIGTERM or Ctrl-C: it finishes
    what it has in hand, hands back the rest, and leaves; once more, and it ends at once.

    \b
    imageloom worker --engine zeromq --connect tcp://127.0.0.1:5555 --keys keys/client.key --root photos/
    IMAGELOOM_CONNECT=rediss://me:secret@host:6379/0 imageloom worker --engine redis --role worker --root /data

    Exit codes: 0 left as it was asked to, or let go; 2 usage, or the driver speaks another version; 4 access; 130
    ended at once.
    """
    from imageloom.engines import worker_target
    from imageloom.engines.workers import work, work_and_report
    from imageloom.scheduling.fleet import Fleet
    from imageloom.system.machine import available_cores
    from imageloom.worker.guard import Guard
    from imageloom.worker.settings import WorkerSettings

    module = worker_target(engine).partition(":")[0]
    guard = Guard(roots or (os.getcwd(),), tuple(map(os.path.abspath, operators)))
    settings = WorkerSettings(connect, threads, memory or 0, guard, keys or "", once, role)
    ended: SimpleQueue[int] = SimpleQueue()
    finish_on_signals(lambda: ended.put(0), "leaving", "leave")
    reports, line = Pipe(duplex=False)
    fleet = Fleet(
        work_and_report if health else work,
        (line, engine, settings) if health else (engine, settings),
        jobs or available_cores(),
        died=lambda pid, cause: say(f"worker {pid} died: {cause}; another one is started", err=True),
        left=ended.put,
        preload=[module],
    )
    try:
        with _health(health, fleet, reports):
            code = ended.get()
            fleet.drain()
    finally:
        fleet.close(0.0)
    return code


@contextmanager
def _health(address: str | None, fleet: Fleet, reports: Connection) -> Iterator[None]:
    """Answer probes and scrapers, where an address was given."""
    if not address:
        yield
        return
    import threading

    from imageloom.service.health import Health, Tally

    tally = Tally()
    threading.Thread(target=tally.hear, args=(reports,), daemon=True).start()
    with Health(address, lambda: fleet.is_whole, lambda: tally.of_workers(fleet)) as health:
        say(f"health {health.address}", err=True)
        yield
