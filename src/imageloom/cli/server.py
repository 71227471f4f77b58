"""`imageloom server`."""

from __future__ import annotations

from pathlib import Path

import click

from imageloom.cli import options, service
from imageloom.cli.text import say

AT_LEAST_1 = click.IntRange(1)


@click.command("server", short_help="Take jobs from clients and divide them among nodes.")
@click.option(
    "--nodes", type=click.Path(dir_okay=False), metavar="FILE", help="YAML: nodes, and their choice."
)
@click.option("--listen", default="127.0.0.1:7000", show_default=True, metavar="HOST:PORT")
@click.option(
    "--root", "roots", multiple=True, metavar="FOLDER", help="Jobs read and write below; repeatable."
)
@options.operators_option
@options.ledger_option
@click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), help="A folder for the jobs.  [user's state]"
)
@click.option(
    "--patience", type=click.FloatRange(0), default=30.0, help="Seconds that a job outlives its client.  [30]"
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600.0, help="Of an item.  [600]")
@click.option("--max-running", "running", type=AT_LEAST_1, default=16, help="Jobs that run at once.  [16]")
@click.option("--max-jobs", "jobs", type=AT_LEAST_1, default=256, help="Jobs that run or wait.  [256]")
@click.option("--max-client-jobs", "client_jobs", type=AT_LEAST_1, default=64, help="Of one client.  [64]")
@click.option("--max-nodes", "nodes_", type=AT_LEAST_1, default=256, help="Nodes that register.  [256]")
@click.option(
    "--max-calls", "calls", type=click.IntRange(2), default=128, help="Calls at once of each kind.  [128]"
)
@click.option(
    "--node-host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Any client may register nodes there; repeatable.",
)
@service.credential_options
def command(
    nodes: str | None,
    listen: str,
    roots: tuple[str, ...],
    operators: tuple[str, ...],
    ledger: Path | None,
    state: Path | None,
    patience: float,
    timeout: float,
    running: int,
    jobs: int,
    client_jobs: int,
    nodes_: int,
    calls: int,
    hosts: tuple[str, ...],
    **credentials: str | None,
) -> int:
    """Serve jobs: each has a driver here, and all share the nodes, those of the file and those that register.

    What was accepted is written down: a server that is started again goes on with it. SIGTERM finishes what the
    nodes have in hand. The credentials are for both directions: clients, and nodes that are connected to. What is
    over a bound is refused as RESOURCE_EXHAUSTED, with the bound's flag; a client is a host.

    \b
    imageloom server --nodes nodes.yaml --root /data
    imageloom server --listen 0.0.0.0:7000 --root /data --certificate c.pem --key k.pem --token secret.txt
    """
    service.nodes_extra()
    from msgspec.structs import replace

    from imageloom.engines.nodes.config import Credentials, NodesConfig, check_address, read_config
    from imageloom.errors import UsageError
    from imageloom.records.ledger import default_path
    from imageloom.worker.guard import Guard

    if not roots:
        raise UsageError("a server needs at least one folder that jobs may work below: --root FOLDER")
    check_address(listen)
    config = read_config(nodes, NodesConfig) if nodes else NodesConfig()
    config = replace(config, credentials=service.overruled(config.credentials, **credentials))
    leaving = service.leave_on_signals()
    from imageloom.engines.nodes.rpc import SERVER, Service
    from imageloom.service.queue import Bounds
    from imageloom.service.server import Server

    served = Server(
        config,
        Guard(roots, operators),
        state or default_path().parent / "server",
        ledger,
        patience,
        timeout,
        Bounds(running, jobs, client_jobs, nodes_, calls),
        hosts,
    )
    try:
        own = service.overruled(Credentials(), **credentials)
        listening = Service(served, SERVER, listen, own, calls)
        say(f"server {listening.address}", err=True)
        leaving.wait()
        listening.leave()
        served.leave()
        listening.close(1.0)
    finally:
        served.leave()
        served.close()
    return 0
