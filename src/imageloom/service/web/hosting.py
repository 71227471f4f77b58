"""Puts a whole service together: state, engine, jobs, pages, server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from msgspec.structs import replace

from imageloom.engines import Engine, Settings, open_engine
from imageloom.errors import MissingExtra, UsageError
from imageloom.model import Plain, Recipe
from imageloom.recipes.recipe import with_operators
from imageloom.records.ledger import default_path
from imageloom.service.flows import FlowFolder, Rules
from imageloom.service.jobservice import RUNNING, JobService
from imageloom.service.nodes import NodeControl
from imageloom.service.preview import Previewer
from imageloom.service.state import ServiceState
from imageloom.service.turns import Turns
from imageloom.service.web.access import Access, token_path, tokens_of
from imageloom.service.web.app import application
from imageloom.service.web.events import Streams
from imageloom.service.web.gate import GateBounds
from imageloom.service.web.proxies import networks
from imageloom.service.web.server import WebServer, hosts_of, listen
from imageloom.service.webhooks import check_webhooks, secret_of
from imageloom.stores import is_remote, local_path
from imageloom.system.machine import available_cores, half_of_memory
from imageloom.system.private import private_folder

if TYPE_CHECKING:
    from imageloom.engines.nodes.engine import Nodes
from imageloom.system.sandbox import Sandbox
from imageloom.worker.guard import Guard

ANY_ADDRESS = ("0.0.0.0:", "[::]:")
"""Beginnings of addresses that mean all addresses of the machine."""


class Site(Plain, frozen=True):
    """What the operator of a service has decided."""

    roots: tuple[str, ...]
    """Folders, and prefixes of stores, below which flows read and write."""
    operators: tuple[str, ...] = ()
    """Files of operators that flows may use."""
    sandbox: Sandbox = Sandbox("auto")
    state: Path | None = None
    """The service's folder; None for one in the user's state folder."""
    flows: Path | None = None
    ledger: Path | None = None
    engine: str = "processes"
    connect: str = ""
    """Address of the engine's server or cluster. Then it has no workers of its own unless `workers` is set."""
    workers: int = 0
    """Worker processes; 0: one per core."""
    running: int = RUNNING
    """Maximum number of jobs that run at the same time."""
    memory: int = 0
    """Maximum memory of all items in progress, in bytes; 0: half of the machine's memory."""
    timeout: float = 600.0
    """Time-out of one item, in seconds."""
    operator_token: str = ""
    reader_token: str = ""
    """Paths of the files with the tokens; empty for files in the service's folder."""
    bounds: GateBounds = GateBounds()
    webhooks: tuple[str, ...] = ()
    """Addresses that are told when a job ends and when items fail."""
    webhook_secret: str = ""
    """Path of the file with the secret that signs them; empty for one in the service's folder."""
    nodes: str = ""
    """Path of the file with the nodes that do the work; empty for worker processes here."""


class Address(NamedTuple):
    """Where a service is reached."""

    url: str
    link: str
    """The link that logs one browser in."""
    tokens: str
    """Where the tokens are."""


@contextmanager
def hosted(
    site: Site,
    address: str = "127.0.0.1:0",
    certificate: str = "",
    key: str = "",
    behind_proxy: bool = False,
    hosts: tuple[str, ...] = (),
    proxies: tuple[str, ...] = (),
) -> Iterator[Address]:
    """Serve until the block ends. Then the items in progress are finished.

    Args:
        address: HOST:PORT to listen on; port 0 is any free one.
        certificate, key: paths of the files for TLS; empty for none.
        behind_proxy: a proxy in front of it has TLS.
        hosts: further names by which browsers reach it.
        proxies: addresses or networks of proxies that may say for whom they ask.

    Raises:
        UsageError: something is not valid.
        StorageError: a folder or an address cannot be used.
    """
    home = site.state or default_path().parent / "serve"
    private_folder(home)
    roots = tuple(root.rstrip("/") if is_remote(root) else _absolute(root) for root in site.roots)
    guard = Guard(roots, tuple(map(os.path.abspath, site.operators)), sandbox=site.sandbox)
    previews = home.absolute() / "previews"
    whole = replace(guard, roots=(*roots, str(previews)))
    folder = (site.flows or home / "flows").absolute()
    memory = (site.memory or half_of_memory()) // site.running
    rules = Rules(guard, (home.absolute(), folder), memory, with_operators(Recipe(()), site.operators))
    tokens = tokens_of(home, site.operator_token, site.reader_token)
    check_webhooks(site.webhooks)
    trusted = networks(proxies)
    secret = secret_of(site.webhook_secret, home) if site.webhooks else b""
    is_secure = bool(certificate) or behind_proxy
    with ExitStack() as stack:
        listener = stack.enter_context(listen(address, is_secure))
        port = listener.getsockname()[1]
        names = hosts_of(address, port, hosts)
        if not names:
            raise UsageError(
                f"--listen {address}: give the name by which browsers reach the service (--host)"
            )
        state = stack.enter_context(closing(ServiceState(home / "service.db")))
        state.webhooks = site.webhooks
        settings = Settings(
            site.workers or (0 if site.connect else available_cores()),
            timeout=site.timeout,
            memory=site.memory,
            connect=site.connect,
            guard=whole,
            sandbox=site.sandbox,
        )
        turns = Turns(stack.enter_context(closing(_engine(site, settings))), whole)
        control = own = None
        if (
            site.nodes or site.connect
        ):  # previews are made here: workers elsewhere do not see the service's folder
            alone = open_engine("processes", replace(settings, jobs=1, connect=""))
            own = Turns(stack.enter_context(closing(alone)), whole)
        if site.nodes:
            control = NodeControl(cast("Nodes", turns.engine), turns, state)
        previewer = Previewer(rules, own or turns, previews, guard.folders)
        flows = FlowFolder(folder, rules)
        ledger = site.ledger or home / "ledger.db"
        service = JobService(flows, state, ledger, turns, guard.folders, site.running, site.timeout, secret)
        stack.callback(service.leave)
        streams, access = Streams(service.feed), Access(state, tokens)
        app = application(
            service,
            previewer,
            streams,
            access,
            roots,
            names,
            is_secure,
            f"imageloom-{port}",
            site.bounds,
            trusted,
            control,
        )
        server = WebServer(app, streams, listener, certificate, key)
        stack.callback(server.close)
        url = f"{'https' if certificate else 'http'}://{address.rpartition(':')[0]}:{port}/"
        if address.startswith(ANY_ADDRESS):
            url = f"{'https' if is_secure else 'http'}://{hosts[0]}/"
        where = " and ".join(
            given or str(token_path(home, role))  # type: ignore[arg-type]  # both are roles
            for role, given in (("operator", site.operator_token), ("reader", site.reader_token))
        )
        yield Address(url, f"{url}enter?code={access.take_code()}", where)


def _engine(site: Site, settings: Settings) -> Engine:
    """The engine of all flows: that of the site, or nodes.

    Raises:
        UsageError, MissingExtra, StorageError: see `open_engine`.
    """
    if not site.nodes:
        return open_engine(site.engine, settings)
    try:
        from imageloom.engines.nodes.engine import Nodes
    except ImportError:
        raise MissingExtra("the engine nodes", "nodes") from None
    return Nodes(replace(settings, nodes=site.nodes), waits=True)


def _absolute(root: str) -> str:
    return os.path.abspath(local_path(root))
