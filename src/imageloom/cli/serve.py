"""`imageloom serve`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from imageloom.cli import options, service
from imageloom.cli.arguments import collect_garbage
from imageloom.cli.options.values import Number, Whole
from imageloom.cli.text import say
from imageloom.system.sandbox import Mode

ENGINES = ("processes", "redis", "dask", "ray")


@click.command("serve", short_help="Serve a page and an HTTP interface where people see and steer the work.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="DIR",
    help="Flows read and write only below these folders, or prefixes of stores such as s3://bucket/photos. "
    "Repeatable.",
)
@click.option(
    "--listen",
    default="127.0.0.1:8100",
    show_default=True,
    metavar="HOST:PORT",
    help="Address that the service listens on. Other machines need TLS: see --certificate.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="in the user's state folder",
    help="Folder in which the service stores its jobs and its tokens.",
)
@click.option(
    "--flows",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="flows, in the folder of --state",
    help="Folder of the flows: one YAML file each, which people may edit.",
)
@options.operators_option
@options.sandbox_options_of_service
@options.ledger_option
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="Engine that runs the tasks. All but the first one use workers elsewhere: see --connect.",
)
@options.connect_options("Address of the Redis server, Dask scheduler or Ray head of --engine.")
@click.option(
    "-j",
    "--jobs",
    type=Whole(1, 1024),
    show_default="one per core; none of its own with --connect",
    help="Number of worker processes.",
)
@click.option(
    "--max-running",
    "running",
    type=Whole(1, 1000),
    default=16,
    show_default=True,
    help="Maximum number of flows that run at the same time. Their memory is shared equally.",
)
@click.option(
    "--nodes",
    type=click.Path(dir_okay=False),
    default="",
    metavar="FILE",
    help="Nodes do the work: YAML file with their addresses and the policy that chooses among them, as of "
    "`imageloom server`. Without it, worker processes here do.",
)
@options.memory_option
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Time-out of one item, in seconds.",
)
@click.option(
    "--token",
    type=click.Path(dir_okay=False),
    default="",
    metavar="FILE",
    show_default="operator.token, in the folder of --state",
    help="File whose first line is the token of people who may change flows.",
)
@click.option(
    "--read-token",
    type=click.Path(dir_okay=False),
    default="",
    metavar="FILE",
    show_default="reader.token, in the folder of --state",
    help="File whose first line is the token of people who may only look.",
)
@click.option(
    "--certificate",
    type=click.Path(dir_okay=False),
    default="",
    metavar="FILE",
    help="TLS certificate, in PEM.",
)
@click.option(
    "--key",
    type=click.Path(dir_okay=False),
    default="",
    metavar="FILE",
    help="Private key of --certificate, in PEM.",
)
@click.option(
    "--behind-proxy",
    is_flag=True,
    help="Browsers reach the service through a reverse proxy, which does TLS.",
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS[/BITS]",
    help="Trust the X-Forwarded-For of proxies at this address or in this network. Without it, wrong tokens of "
    "one client behind a proxy slow down all of them. Repeatable.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Name by which browsers reach the service, if it is not that of --listen. Repeatable.",
)
@click.option(
    "--webhook",
    "webhooks",
    multiple=True,
    metavar="URL",
    help="Tell this address when a job ends and when items fail, in signed requests. Repeatable.",
)
@click.option(
    "--webhook-secret",
    type=click.Path(dir_okay=False),
    default="",
    metavar="FILE",
    show_default="webhook.secret, in the folder of --state",
    help="File whose first line is the secret that signs the requests to --webhook.",
)
@click.option(
    "--max-upload",
    type=options.Quantity(),
    default=4 << 30,
    show_default="4 GB",
    help="Maximum size of an uploaded file, in bytes.",
)
def command(
    roots: tuple[str, ...],
    listen: str,
    state: Path | None,
    flows: Path | None,
    operators: tuple[str, ...],
    sandbox: Mode | None,
    untrusted: bool,
    ledger: Path | None,
    engine: str,
    connect: str,
    jobs: int | None,
    running: int,
    nodes: str,
    memory: int | None,
    timeout: float,
    token: str,
    read_token: str,
    certificate: str,
    key: str,
    behind_proxy: bool,
    hosts: tuple[str, ...],
    proxies: tuple[str, ...],
    webhooks: tuple[str, ...],
    webhook_secret: str,
    max_upload: int,
) -> int:
    """Serve a page and an HTTP interface: flows of images, their jobs, failures and retries.

    A flow is a source, a recipe, a sink, and when: once or watched. Several flows share the workers, which decode
    in sandboxed processes. All state is kept: after a kill or a restart, the jobs go on.

    The printed link logs one browser in. Others need a token, which is in a file: see --token and --read-token.
    The first SIGTERM or Ctrl-C finishes the items in progress and ends the service.

    \b
    imageloom serve --root /data
    imageloom serve --root /data --root s3://photos/web --listen 10.1.2.3:8443 --certificate c.pem --key k.pem
    imageloom serve --root /data --listen 0.0.0.0:8100 --behind-proxy --host photos.example.org
    imageloom serve --root /data --engine redis --connect redis://127.0.0.1:6379/0
    """
    from imageloom.errors import MissingExtra, UsageError

    if not roots:
        raise UsageError("the service needs at least one folder for flows to read and write in: --root DIR")
    options.check_roots(roots)
    if nodes and engine != ENGINES[0]:
        raise UsageError("--nodes is an engine of its own: leave out --engine")
    if bool(connect) != (engine != ENGINES[0]):
        raise UsageError(f"--connect is for {', '.join(ENGINES[1:])}: give both --engine and --connect")
    if bool(certificate) != bool(key):
        raise UsageError("TLS needs both a certificate and its key (--certificate, --key)")
    if not all(find_spec(name) for name in ("starlette", "uvicorn", "jinja2")):
        raise MissingExtra("the service", "serve")
    from imageloom.worker.fork_server import warm_up

    warm_up()  # the fork server must not inherit what is opened below
    from imageloom.service.web.gate import GateBounds
    from imageloom.service.web.hosting import Site, hosted

    collect_garbage()
    box = options.sandbox_of_service(sandbox, untrusted, timeout, memory or 0)
    site = Site(
        roots=roots,
        operators=operators,
        sandbox=box,
        state=state,
        flows=flows,
        ledger=ledger,
        engine=engine,
        connect=connect,
        workers=jobs or 0,
        nodes=nodes,
        running=running,
        memory=memory or 0,
        timeout=timeout,
        operator_token=token,
        reader_token=read_token,
        bounds=GateBounds(upload_bytes=max_upload),
        webhooks=webhooks,
        webhook_secret=webhook_secret,
    )
    leaving = service.leave_on_signals()
    with hosted(site, listen, certificate, key, behind_proxy, hosts, proxies) as address:
        say(f"serving {address.link}", err=True)
        say(f"the link logs one browser in; the tokens are in {address.tokens}", err=True)
        leaving.wait()
    return 0
