"""The web application: pages, interface, style and scripts, behind the gate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imageloom.errors import ImageloomError
from imageloom.service.health import Metric, to_text
from imageloom.service.jobservice import JobService
from imageloom.service.nodes import NodeControl
from imageloom.service.preview import Previewer
from imageloom.service.probes import TEXT
from imageloom.service.state import ENDED
from imageloom.service.web import operations
from imageloom.service.web.access import Access
from imageloom.service.web.api import Api
from imageloom.service.web.events import Streams
from imageloom.service.web.flowpages import FlowPages
from imageloom.service.web.gate import Gate, GateBounds
from imageloom.service.web.jobpages import JobPages
from imageloom.service.web.notify import Notify
from imageloom.service.web.pages import Pages, missing, not_allowed
from imageloom.service.web.problems import Refused, answer
from imageloom.service.web.proxies import Network
from imageloom.service.web.render import Renderer
from imageloom.service.web.submitted import Submitted

STATIC = {"style.css": "text/css", "live.js": "text/javascript", "flow.js": "text/javascript",
          "pair.js": "text/javascript",
          "icon.svg": "image/svg+xml"}  # fmt: skip


def application(
    service: JobService,
    previewer: Previewer,
    streams: Streams,
    access: Access,
    roots: tuple[str, ...],
    hosts: Iterable[str],
    is_secure: bool = False,
    cookie: str = "imageloom",
    bounds: GateBounds = GateBounds(),  # noqa: B008 frozen
    proxies: Sequence[Network] = (),
    nodes: NodeControl | None = None,
) -> Gate:
    """The application.

    Args:
        roots: what the operator of the service has listed, to be shown.
        hosts, is_secure, cookie, bounds, proxies: see `Gate`.
        nodes: the nodes, if the engine has some.
    """
    more = (*Notify(service, access).operations, *Submitted(service).operations)
    api = Api(service, previewer, streams, service.roots, more)
    renderer = Renderer(service.feed, nodes is not None)
    pages = Pages(service, api, renderer, access, roots, nodes, cookie, is_secure)

    def failed(request: Request, error: Exception) -> Response:
        found = _error_of(request, error)
        is_page = "text/html" in request.headers.get("accept", "") and not _is_api(request)
        return pages.error(request, found) if is_page else answer(found)

    async def handle(request: Request, error: Exception) -> Response:
        return failed(request, error)

    routes = [
        *pages.routes,
        *FlowPages(service, previewer, renderer, roots).routes,
        *JobPages(service, api, renderer).routes,
        *operations.routes(api.operations),
        *(_static(name, media) for name, media in STATIC.items()),
        Route("/health", lambda request: Response("ok\n", media_type=TEXT)),
        Route("/ready", lambda request: Response("ready\n", media_type=TEXT)),
        Route("/metrics", lambda request: Response(to_text(metrics(service)), media_type=TEXT)),
    ]
    inner = Starlette(
        routes=routes,
        exception_handlers={ImageloomError: handle, HTTPException: handle, 500: handle},
    )
    inner.router.redirect_slashes = False
    return Gate(inner, access, hosts, is_secure, cookie, bounds, proxies)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith(operations.ROOT)


def _error_of(request: Request, error: Exception) -> ImageloomError:
    if isinstance(error, ImageloomError):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return missing(request.url.path)
        if error.status_code == 405:
            return not_allowed(request.method)
        return Refused(error.status_code, error.detail)
    return Refused(500, "the service failed: see its log")


def _static(name: str, media: str) -> Route:
    data = files("imageloom.service.web").joinpath("static", name).read_bytes()
    headers = {"Cache-Control": "public, max-age=300"}
    return Route(f"/static/{name}", lambda request: Response(data, media_type=media, headers=headers))


def metrics(service: JobService) -> list[Metric]:
    """The metrics of the service, without names of files."""
    rows = [row for name in service.flows.names() for row in service.state.jobs(name, most=1)]
    views = [service.views.view(row) for row in rows]

    def by_flow(kind: str) -> dict[str, float]:
        return {f'flow="{v.row.flow}",outcome="{kind}"': float(getattr(v.numbers, kind)) for v in views}

    items = by_flow("done") | by_flow("failed") | by_flow("skipped")
    return [
        Metric("imageloom_job_items", "gauge", "Items of each flow's latest job, by outcome.", items),
        Metric("imageloom_job_running", "gauge", "Whether the latest job of a flow has not ended.",
               {f'flow="{v.row.flow}"': float(v.row.state not in ENDED) for v in views}),
        Metric("imageloom_tasks_in_flight", "gauge", "Tasks in the engine.",
               {"": float(len(service.turns.in_hand))}),
        Metric("imageloom_workers", "gauge", "Workers that are running.",
               {"": float(service.turns.engine.capacity)}),
    ]  # fmt: skip
