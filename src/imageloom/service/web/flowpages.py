"""The pages of flows: the form with its preview, and the pictures of operators."""

from __future__ import annotations

import functools
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imageloom.errors import ImageloomError, PipelineError, UsageError
from imageloom.service.flows import BrokenFlow, data_of, flow_text, recipe_text
from imageloom.service.jobservice import JobService
from imageloom.service.preview import Previewer, pictured
from imageloom.service.web.api import WEBP, operator_answers
from imageloom.service.web.problems import status_of
from imageloom.service.web.render import Renderer, to

FIELDS = ("name", "source", "sink", "recipe", "pages", "options")
"""Fields of the form beside which an error is shown."""
EXAMPLE_AGE = 86400
"""Seconds for which a browser keeps the example picture of an operator."""


class FlowPages:
    """The pages of the flows of a service."""

    def __init__(
        self, service: JobService, previewer: Previewer, renderer: Renderer, roots: tuple[str, ...]
    ) -> None:
        self._service, self._previewer, self._roots = service, previewer, roots
        self._show = renderer.show
        route = renderer.route
        self.routes: list[Route] = [
            route("/new", self.new, self.write_new),
            route("/flows/{flow}", self.flow, self.change),
            route("/operators/picture", self.picture),
        ]

    def new(self, request: Request) -> Response:
        data = {"source": self._roots[0], "sink": self._roots[0], "recipe": "resize 50%", "when": "once"}
        return self._form(request, "", data)

    def flow(self, request: Request) -> Response:
        name = request.path_params["flow"]
        flow = self._service.views.flow(name)
        data = data_of(self._service.flows.text(name))
        return self._form(
            request, name, data, UsageError(flow.error) if isinstance(flow, BrokenFlow) else None
        )

    def _form(
        self, request: Request, name: str, data: dict[str, Any], error: ImageloomError | None = None
    ) -> Response:
        views, found = self._service.views, data.get("options")
        options = dict(found) if isinstance(found, dict) else {}
        pages = options.pop("pages", "first")
        rest = found if isinstance(found, str) else recipe_text(options) if options else ""
        return self._show(
            request,
            "flow.html",
            status_of(error) if error and request.method == "POST" else 200,
            name=name,
            given=str(data.get("name", "")),
            source=str(data.get("source", "")),
            sink=str(data.get("sink", "")),
            recipe=recipe_text(data.get("recipe", "")),
            when=str(data.get("when", "once")),
            pages=str(data.get("pages", pages)),
            options=rest,
            errors={_field_of(error): str(error)} if error else {},
            view=views.latest(name) if name else None,
            jobs=[views.view(row) for row in self._service.state.jobs(name, most=10)] if name else [],
            asides=self._service.state.asides(name) if name else [],
            operators=_operators(),
            roots=self._roots,
        )

    def picture(self, request: Request) -> Response:
        """What an operator makes of a landscape."""
        data = self._previewer.example(request.query_params.get("operator", ""))
        age = {"Cache-Control": f"private, max-age={EXAMPLE_AGE}"}
        return Response(data, media_type=WEBP, headers=age)

    # Changes

    def write_new(self, request: Request, fields: dict[str, str]) -> Response:
        return self._write(request, fields.get("name", "").strip(), fields, replace=False)

    def change(self, request: Request, fields: dict[str, str]) -> Response:
        name, do = request.path_params["flow"], fields.get("do", "")
        if do == "save":
            return self._write(request, name, fields, replace=True)
        if do == "start":
            view = self._service.start(name)
            return to(f"../jobs/{view.row.id}")
        if do == "delete":
            self._service.delete_flow(name)
            return to("../")
        if do == "back":
            self._service.set_aside(name, fields.get("key", ""), False)
            return to(name)
        raise UsageError(f"there is no action {do!r:.40}")

    def _write(self, request: Request, name: str, fields: dict[str, str], replace: bool) -> Response:
        given = {key: fields.get(key, "").strip() for key in ("source", "sink", "recipe", "when")}
        pages, text = fields.get("pages", "").strip(), fields.get("options", "")
        try:
            options = data_of(f"options:\n{_indented(text)}").get("options") or {}
            if text.strip() and not (isinstance(options, dict) and options):
                raise UsageError("options: they must be lines such as 'workers: 2'")
            if pages not in ("", "first"):
                options["pages"] = int(pages) if pages.isascii() and pages.isdecimal() else pages
            self._service.write_flow(name, flow_text(**given, options=options), replace)
        except ImageloomError as error:
            data = {**given, "name": name, "options": text, "pages": pages}
            return self._form(request, name if replace else "", data, error)
        return to(name if replace else f"flows/{name}")


def _field_of(error: ImageloomError) -> str:
    """The field of the form that an error is about; empty if it is not about one."""
    if isinstance(error, PipelineError):
        return "recipe"
    found = re.match(r"(?:options\.(?=pages))?(\w+)[.:]", str(error))
    return found[1] if found and found[1] in FIELDS else ""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


@functools.cache
def _operators() -> list[tuple[Any, str]]:
    """The operators, and of which step the example picture of each is made."""
    found = []
    for one in operator_answers():
        try:
            found.append((one, pictured(one.name)))
        except UsageError:
            found.append((one, ""))
    return found
