"""`imageloom node`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import options, service
from imageloom.cli.options import Quantity
from imageloom.cli.options.values import Number, Whole
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.engines.nodes.config import NodeConfig
    from imageloom.system.sandbox import Mode
    from imageloom.worker.guard import Guard


@click.command("node", short_help="Process tasks for a server, or for runs with --engine nodes.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="YAML file with the settings of this node. Flags override it.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    show_default="127.0.0.1, any free port",
    help="Address that this node listens on.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    show_default="the address of --listen",
    help="Address at which the server can reach this node.",
)
@click.option("--server", metavar="HOST:PORT", help="Address of the server that this node registers with.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="FOLDER",
    help="The node reads and writes only below these folders. Repeatable.",
)
@click.option(
    "--operators",
    multiple=True,
    metavar="FILE",
    help="Python file with operators that this node may execute. Repeatable.",
)
@click.option(
    "--limit",
    type=Whole(1, 256),
    show_default="one per core",
    help="Maximum number of tasks at the same time.",
)
@click.option(
    "--acceptance",
    type=click.Choice(["mandatory", "optional"]),
    show_default="mandatory",
    help="Accept every task (mandatory), or reject a task with a probability equal to the load (optional).",
)
@click.option(
    "--load",
    metavar="0..1|auto",
    show_default="0",
    help="Load of this node: a fixed number from 0 to 1, or the measured load (auto).",
)
@click.option(
    "--delay",
    type=Number(0),
    show_default="3",
    help="Delay before a task, in seconds. It is added with a probability equal to a fixed load.",
)
@click.option("--seed", type=int, help="Seed of the random numbers.")
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    show_default="600",
    help="Time-out of one item, in seconds.",
)
@click.option(
    "--memory",
    type=Quantity(),
    show_default="no limit",
    help="Memory limit of each worker process, in bytes.",
)
@options.sandbox_options_of_worker
@service.credential_options
def command(config: str | None, load: str | None, sandbox: Mode | None, untrusted: bool, **flags: Any) -> int:
    """Start a node: a service that processes a limited number of tasks at the same time, in worker processes.

    A fixed --load simulates a busy node: it delays tasks, and with --acceptance optional it rejects tasks. So the
    policies that choose nodes can be compared on one machine. --load auto measures the load and adds no delay. The
    first SIGTERM or Ctrl-C finishes the tasks in progress and ends the node.

    \b
    imageloom node --root /data --listen 127.0.0.1:7001
    imageloom node --config node.yaml --load 0.9 --acceptance optional
    imageloom node --root /data --server 127.0.0.1:7000
    """
    service.nodes_extra()
    settings = _settings(config, load, flags)
    from imageloom.engines import Settings
    from imageloom.engines.processes import Processes
    from imageloom.system.announcing import show_states
    from imageloom.worker.guard import Guard

    show_states()
    leaving = service.leave_on_signals()
    # The processes start before gRPC is loaded: a fork with gRPC's threads would hang.
    apart = options.sandbox_of(sandbox, untrusted, settings.timeout, settings.memory)
    engine = Processes(Settings(settings.limit, 1, settings.timeout, settings.memory, sandbox=apart))
    try:
        own = options.sandbox_of_worker(apart, sandbox)
        return _serve(settings, engine, Guard(settings.roots, settings.operators, sandbox=own), leaving)
    finally:
        engine.close()


def _settings(config: str | None, load: str | None, flags: dict[str, Any]) -> NodeConfig:
    from msgspec.structs import replace

    from imageloom.engines.nodes.config import NodeConfig, check_address, read_config
    from imageloom.errors import UsageError
    from imageloom.system.machine import available_cores

    found = read_config(config, NodeConfig) if config else NodeConfig()
    names = ("certificate", "key", "token", "authority")
    credentials = service.overruled(found.credentials, **{name: flags.pop(name) for name in names})
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if load is not None:
        try:
            given["load"] = "auto" if load == "auto" else float(load)
        except ValueError:
            raise UsageError(f"--load {load!r}: give a number from 0 to 1, or auto") from None
    found = replace(found, credentials=credentials, **given)
    found.check()
    for address in (found.listen, *filter(None, (found.server, found.advertise))):
        check_address(address)
    if not found.roots:
        raise UsageError("a node needs at least one folder to read and write in: --root FOLDER")
    options.check_roots(found.roots)
    return replace(found, limit=found.limit or available_cores())


def _serve(settings: NodeConfig, engine: Any, guard: Guard, leaving: threading.Event) -> int:
    from imageloom.engines.nodes.node import WAITING_CALLS, Node, supervised
    from imageloom.engines.nodes.rpc import NODE, Service

    node = Node(supervised(engine), settings, guard)
    calls = 2 * settings.limit + WAITING_CALLS
    listening = Service(node, NODE, settings.listen, settings.credentials, calls)
    say(f"node {listening.address}: {settings.limit} tasks at once", err=True)
    notices = None
    if settings.server:
        from imageloom.engines.nodes.notices import notify

        address = settings.advertise or listening.address
        notices = threading.Thread(target=notify, args=(settings, address, leaving), daemon=True)
        notices.start()
    leaving.wait()
    node.leave()
    listening.leave()
    if notices:
        notices.join()
    listening.close(settings.timeout)
    return 0
