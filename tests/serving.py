"""A job service in this process, and flows for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from imageloom.engines import Settings, open_engine
from imageloom.service.flows import FlowFolder, Rules
from imageloom.service.jobservice import JobService
from imageloom.service.state import ServiceState
from imageloom.service.turns import Turns
from imageloom.service.views import JobView
from imageloom.service.web.hosting import Address, Site, hosted
from imageloom.system.sandbox import Sandbox
from imageloom.worker.guard import Guard
from program import wait_until


def flow_of(root: Path, name: str = "web", recipe: Any = "resize 50%", **more: Any) -> str:
    """The text of a flow from the folder `in-NAME` into `out-NAME`."""
    (root / f"in-{name}").mkdir(parents=True, exist_ok=True)
    data = {"source": str(root / f"in-{name}"), "sink": str(root / f"out-{name}"), "recipe": recipe, **more}
    return yaml.safe_dump(data, sort_keys=False)


@contextmanager
def service_of(
    tmp_path: Path,
    engine: str = "threads",
    jobs: int = 2,
    webhooks: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[JobService]:
    """A service over `tmp_path / root`. `threads` starts sooner than processes."""
    root, home = tmp_path / "root", tmp_path / "service"
    root.mkdir(exist_ok=True)
    guard = Guard((str(root),), sandbox=Sandbox())
    rules = Rules(guard, (home,))
    with (
        closing(ServiceState(home / "service.db")) as state,
        closing(open_engine(engine, Settings(jobs, timeout=60.0))) as opened,
    ):
        state.webhooks = webhooks
        flows = FlowFolder(home / "flows", rules)
        service = JobService(flows, state, home / "ledger.db", Turns(opened, guard), guard.folders, **options)
        try:
            yield service
        finally:
            service.leave()


def ended(service: JobService, id: int) -> JobView:
    """The job when it has ended."""
    wait_until(lambda: service.views.row(id).ended is not None)
    return service.views.job(id)


class Hosted:
    """A whole service at an address, with clients for its roles."""

    def __init__(self, root: Path, address: Address, home: Path) -> None:
        self.root, self.home, self.url, self.link = root, home, address.url, address.link
        self.tokens = {role: (home / f"{role}.token").read_text().strip() for role in ("operator", "reader")}

    def client(self, role: str = "", **headers: str) -> httpx.Client:
        """A client with the token of a role, or without any."""
        if role:
            headers["Authorization"] = f"Bearer {self.tokens[role]}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=30.0)


@contextmanager
def hosted_in(
    folder: Path, address: dict[str, Any] | None = None, more: tuple[str, ...] = (), **options: Any
) -> Iterator[Hosted]:
    """A service over `folder / root`, with one worker.

    Args:
        address: further arguments of `hosted`.
        more: further roots.
    """
    root, home = folder / "root", folder / "home"
    root.mkdir(exist_ok=True)
    site = Site((str(root), *more), state=home, workers=1, timeout=60.0, **options)
    with hosted(site, **(address or {})) as reached:
        yield Hosted(root, reached, home)
