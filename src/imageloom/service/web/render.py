"""Makes pages from templates, and routes to the functions that make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from imageloom.service.feed import Feed
from imageloom.service.web import forms

HTML = "text/html; charset=utf-8"


class Renderer:
    """The templates.

    Args:
        feed: a page says which message was the last one before it was made, and follows from there.
        has_nodes: whether there is a page about nodes.
    """

    def __init__(self, feed: Feed, has_nodes: bool = False) -> None:
        self._feed, self._has_nodes = feed, has_nodes
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("imageloom.service.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        for name in ("number", "rate", "duration", "size", "moment", "utc", "worker"):
            self._templates.filters[name] = getattr(forms, name)

    def show(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        role = getattr(request.state, "role", None)
        text = self._templates.get_template(template).render(
            root="../" * (request.url.path.count("/") - 1) or "./",
            role=role,
            may=role == "operator",
            has_nodes=self._has_nodes,
            last=getattr(request.state, "last", ""),
            **values,
        )
        return Response(text, status, media_type=HTML)

    def route(
        self,
        path: str,
        read: Callable[[Request], Response] | None,
        change: Callable[[Request, dict[str, str]], Response] | None = None,
    ) -> Route:
        """A page, and what its forms change."""

        async def endpoint(request: Request) -> Response:
            request.state.last = self._feed.id_of(self._feed.last)  # before anything is read
            if request.method != "POST":
                assert read is not None
                return await run_in_threadpool(read, request)
            assert change is not None
            fields = forms.fields_of(await request.body())
            return await run_in_threadpool(change, request, fields)

        methods = [*(["GET"] if read else []), *(["POST"] if change else [])]
        return Route(path, endpoint, methods=methods)


def to(address: str) -> RedirectResponse:
    """A relative redirection, which is also right below a prefix."""
    return RedirectResponse(address, 303)
