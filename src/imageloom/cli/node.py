"""`imageloom node`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import service
from imageloom.cli.options import Quantity
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.engines.nodes.config import NodeConfig


@click.command("node", short_help="Do tasks for a server, or for runs with --engine nodes.")
@click.option(
    "--config", type=click.Path(dir_okay=False), metavar="FILE", help="A YAML file; flags overrule it."
)
@click.option("--listen", metavar="HOST:PORT", help="[127.0.0.1, any free port]")
@click.option("--advertise", metavar="HOST:PORT", help="Where the server reaches this node.  [--listen]")
@click.option("--server", metavar="HOST:PORT", help="A server to register with.")
@click.option(
    "--root", "roots", multiple=True, metavar="FOLDER", help="It reads and writes below; repeatable."
)
@click.option("--operators", multiple=True, metavar="FILE", help="Operators that it runs; repeatable.")
@click.option("--limit", type=click.IntRange(1, 256), help="Tasks at once.  [one for each core]")
@click.option("--acceptance", type=click.Choice(["mandatory", "optional"]), help="[mandatory]")
@click.option("--load", metavar="0..1|auto", help="Its load, or auto: as it is measured.  [0]")
@click.option("--delay", type=click.FloatRange(0), help="Seconds, with a probability equal to the load.  [3]")
@click.option("--seed", type=int, help="Of the numbers drawn at random.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds for one item.  [600]")
@click.option("--memory", type=Quantity(), help="Bytes that one worker process may take for data.")
@service.credential_options
def command(config: str | None, load: str | None, **flags: Any) -> int:
    """Be a node: take tasks, do a limited number of them at once, in supervised processes.

    The load is a parameter, and delays are injected by it, so that policies can be compared on one machine; with
    --load auto it is measured, and nothing is injected. A node that accepts optionally rejects a task with a
    probability equal to its load. SIGTERM finishes what is in hand.

    \b
    imageloom node --root /data --listen 127.0.0.1:7001
    imageloom node --config node.yaml --load 0.9 --acceptance optional
    imageloom node --root /data --server 127.0.0.1:7000
    """
    service.nodes_extra()
    settings = _settings(config, load, flags)
    from imageloom.engines import Settings
    from imageloom.engines.processes import Processes

    leaving = service.leave_on_signals()
    # The processes are there before gRPC is loaded: a fork with its threads would hang.
    engine = Processes(Settings(settings.limit, 1, settings.timeout, settings.memory))
    try:
        return _serve(settings, engine, leaving)
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
            raise UsageError(f"--load {load!r}: a number from 0 to 1, or auto") from None
    found = replace(found, credentials=credentials, **given)
    found.check()
    check_address(found.listen)
    if not found.roots:
        raise UsageError("a node needs at least one folder that it may work below: --root FOLDER")
    return replace(found, limit=found.limit or available_cores())


def _serve(settings: NodeConfig, engine: Any, leaving: threading.Event) -> int:
    from imageloom.engines.nodes.node import WAITING_CALLS, Node, supervised
    from imageloom.engines.nodes.rpc import NODE, Service

    node = Node(supervised(engine), settings)
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
