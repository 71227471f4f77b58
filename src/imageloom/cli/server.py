"""`imageloom server`."""

from __future__ import annotations

from pathlib import Path

import click

from imageloom.cli import options, service
from imageloom.cli.options.values import Number, Whole
from imageloom.cli.text import say
from imageloom.system.sandbox import Mode

AT_LEAST_1 = Whole(1)


@click.command("server", short_help="Run jobs that clients submit, on several nodes.")
@click.option(
    "--nodes",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="YAML file with the addresses of nodes and the policy that chooses among them.",
)
@click.option(
    "--listen",
    default="127.0.0.1:7000",
    show_default=True,
    metavar="HOST:PORT",
    help="Address that the server listens on.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="FOLDER",
    help="Jobs read and write only below these folders. Repeatable.",
)
@options.operators_option
@options.sandbox_options_of_service
@options.ledger_option
@options.durable_option("on")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="in the user's state folder",
    help="Folder in which the server stores the accepted jobs.",
)
@click.option(
    "--patience",
    type=Number(0),
    default=30.0,
    show_default=True,
    help="Cancel a job after its client has been disconnected for this time, in seconds.",
)
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Time-out of one item, in seconds.",
)
@click.option(
    "--max-running",
    "running",
    type=AT_LEAST_1,
    default=16,
    show_default=True,
    help="Maximum number of jobs that run at the same time.",
)
@click.option(
    "--max-jobs",
    "jobs",
    type=AT_LEAST_1,
    default=256,
    show_default=True,
    help="Maximum number of jobs that run or wait.",
)
@click.option(
    "--max-client-jobs",
    "client_jobs",
    type=AT_LEAST_1,
    default=64,
    show_default=True,
    help="Maximum number of jobs of one client that run or wait.",
)
@click.option(
    "--max-nodes",
    "nodes_",
    type=AT_LEAST_1,
    default=256,
    show_default=True,
    help="Maximum number of registered nodes.",
)
@click.option(
    "--max-calls",
    "calls",
    type=Whole(2),
    default=128,
    show_default=True,
    help="Maximum number of calls of each gRPC method at the same time.",
)
@click.option(
    "--node-host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Let any client register nodes on this host. By default, a host registers only its own nodes. "
    "Repeatable.",
)
@service.credential_options
def command(
    nodes: str | None,
    listen: str,
    roots: tuple[str, ...],
    operators: tuple[str, ...],
    sandbox: Mode | None,
    untrusted: bool,
    ledger: Path | None,
    durable: bool | None,
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
    """Start a server that runs the jobs of `imageloom submit`. All jobs share the nodes of --nodes and those that
    register.

    Accepted jobs are stored: a restarted server continues them. The first SIGTERM or Ctrl-C finishes the tasks
    in progress and ends the server. The credentials are used for connections from clients and to nodes. A
    request over a limit is refused as RESOURCE_EXHAUSTED, and the message names the limit's flag. All requests
    from one host count as one client.

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

    apart = options.sandbox_of_service(sandbox, untrusted, timeout)
    if not roots:
        raise UsageError("a server needs at least one folder for jobs to read and write in: --root FOLDER")
    options.check_roots(roots)
    check_address(listen)
    config = read_config(nodes, NodesConfig) if nodes else NodesConfig()
    config = replace(config, credentials=service.overruled(config.credentials, **credentials))
    leaving = service.leave_on_signals()
    from imageloom.engines.nodes.rpc import SERVER, Service
    from imageloom.service.queue import Bounds
    from imageloom.service.server import Server

    served = Server(
        config,
        Guard(roots, operators, sandbox=apart),
        state or default_path().parent / "server",
        ledger,
        patience,
        timeout,
        Bounds(running, jobs, client_jobs, nodes_, calls),
        hosts,
        durable is not False,
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
