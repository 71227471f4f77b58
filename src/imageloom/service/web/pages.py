"""The pages, made on the server. They can be read without JavaScript; a script keeps them up to date."""

from __future__ import annotations

import functools
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from imageloom.errors import ImageloomError, UnknownName, UsageError
from imageloom.service.flows import BrokenFlow, data_of, flow_text, recipe_text
from imageloom.service.jobservice import JobService
from imageloom.service.state import ENDED
from imageloom.service.views import JobView
from imageloom.service.web import forms
from imageloom.service.web.access import LIFETIME, Access, Role
from imageloom.service.web.api import Api, operator_answers
from imageloom.service.web.problems import Refused, status_of

HTML = "text/html; charset=utf-8"
PER_PAGE = 50
SHOWN_FAILURES = 20


class Pages:
    """The pages over a service.

    Args:
        cookie: name of the cookie.
        is_secure: the cookie is sent by TLS only.
    """

    def __init__(
        self,
        service: JobService,
        api: Api,
        access: Access,
        roots: tuple[str, ...],
        cookie: str,
        is_secure: bool,
    ) -> None:
        self._service, self._api, self._access, self._roots = service, api, access, roots
        self._cookie, self._is_secure = cookie, is_secure
        self._none = files("imageloom.service.web").joinpath("static", "none.svg").read_bytes()
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("imageloom.service.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        for name in ("number", "rate", "duration", "size", "moment", "utc"):
            self._templates.filters[name] = getattr(forms, name)

    @property
    def routes(self) -> list[Route]:
        return [
            self._route("/", self.overview),
            self._route("/new", self.new, self.write_new),
            self._route("/flows/{flow}", self.flow, self.change_flow),
            self._route("/jobs/{job:int}", self.job, self.change_job),
            self._route("/jobs/{job:int}/thumbnail", self.thumbnail),
            self._route("/login", self.login, self.log_in),
            self._route("/logout", None, self.log_out),
            self._route("/enter", self.enter),
        ]

    def _route(
        self,
        path: str,
        read: Callable[[Request], Response] | None,
        change: Callable[[Request, dict[str, str]], Response] | None = None,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            if request.method != "POST":
                assert read is not None
                return await run_in_threadpool(read, request)
            assert change is not None
            fields = forms.fields_of(await request.body())
            return await run_in_threadpool(change, request, fields)

        methods = [*(["GET"] if read else []), *(["POST"] if change else [])]
        return Route(path, endpoint, methods=methods)

    def show(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        role = getattr(request.state, "role", None)
        text = self._templates.get_template(template).render(
            root="../" * (request.url.path.count("/") - 1) or "./",
            role=role,
            may=role == "operator",
            **values,
        )
        return Response(text, status, media_type=HTML)

    def error(self, request: Request, error: ImageloomError) -> Response:
        """The page for an error."""
        status = status_of(error)
        return self.show(request, "error.html", status, title=HTTPStatus(status).phrase, detail=str(error))

    # Pages

    def overview(self, request: Request) -> Response:
        names = self._service.flows.names()
        flows = [found for name in names if (found := self._api.answer_of(name))]
        jobs = [self._service.views.view(row) for row in self._service.state.jobs(most=10)]
        return self.show(
            request, "overview.html", flows=flows, jobs=jobs, workers=self._api.workers(), roots=self._roots
        )  # fmt: skip

    def new(self, request: Request) -> Response:
        data = {"source": self._roots[0], "sink": self._roots[0], "recipe": "resize 50%", "when": "once"}
        return self._form(request, "", data)

    def flow(self, request: Request) -> Response:
        name = request.path_params["flow"]
        flow = self._service.views.flow(name)
        data = data_of(self._service.flows.text(name))
        error = flow.error if isinstance(flow, BrokenFlow) else ""
        return self._form(request, name, data, error)

    def _form(
        self, request: Request, name: str, data: dict[str, Any], error: str = "", status: int = 200
    ) -> Response:
        options = data.get("options")
        views = self._service.views
        return self.show(
            request,
            "flow.html",
            status,
            name=name,
            source=str(data.get("source", "")),
            sink=str(data.get("sink", "")),
            recipe=recipe_text(data.get("recipe", "")),
            when=str(data.get("when", "once")),
            options=recipe_text(options) if options else "",
            error=error,
            view=views.latest(name) if name else None,
            jobs=[views.view(row) for row in self._service.state.jobs(name, most=10)] if name else [],
            asides=self._service.state.asides(name) if name else [],
            operators=_operators(),
            roots=self._roots,
        )

    def job(self, request: Request) -> Response:
        view = self._service.views.job(request.path_params["job"])
        row, given = view.row, request.query_params
        state, text, after = given.get("state", ""), given.get("text", ""), given.get("after", "")
        if state not in ("", "done", "failed"):
            raise UsageError("state: it is done, failed or empty")
        views = self._service.views
        failures = views.items(row.id, "failed", most=SHOWN_FAILURES)
        items = views.items(row.id, state, text, after, PER_PAGE + 1)
        return self.show(
            request,
            "job.html",
            view=view,
            buttons=_buttons(view),
            failures=failures,
            items=items[:PER_PAGE],
            following=items[PER_PAGE - 1].key if len(items) > PER_PAGE else "",
            state=state,
            text=text,
            asides=set(self._service.state.asides(row.flow)),
            retries=set(self._service.state.retries(row.id)),
            tasks=[task for task in self._service.turns.in_hand if task.flow == row.flow],
        )

    def thumbnail(self, request: Request) -> Response:
        """A thumbnail, or a drawing that says that there is none."""
        try:
            return self._api.thumbnail_of(request.path_params["job"], request.query_params.get("key", ""))
        except ImageloomError:
            return Response(self._none, media_type="image/svg+xml")

    # Changes

    def write_new(self, request: Request, fields: dict[str, str]) -> Response:
        return self._write(request, fields.get("name", "").strip(), fields, replace=False)

    def change_flow(self, request: Request, fields: dict[str, str]) -> Response:
        name, do = request.path_params["flow"], fields.get("do", "")
        if do == "save":
            return self._write(request, name, fields, replace=True)
        if do == "start":
            view = self._service.start(name)
            return _to(f"../jobs/{view.row.id}")
        if do == "delete":
            self._service.delete_flow(name)
            return _to("../")
        if do == "back":
            self._service.set_aside(name, fields.get("key", ""), False)
            return _to(name)
        raise UsageError(f"there is no action {do!r:.40}")

    def _write(self, request: Request, name: str, fields: dict[str, str], replace: bool) -> Response:
        given = {key: fields.get(key, "").strip() for key in ("source", "sink", "recipe", "when")}
        try:
            options = data_of(f"options:\n{_indented(fields.get('options', ''))}").get("options")
            if fields.get("options", "").strip() and not isinstance(options, dict):
                raise UsageError("options: they must be lines such as 'workers: 2'")
            text = flow_text(**given, options=options or {})
            self._service.write_flow(name, text, replace)
        except ImageloomError as error:
            data = {**given, "options": fields.get("options", "")}
            return self._form(request, name if replace else "", data, str(error), status_of(error))
        return _to(name if replace else f"flows/{name}")

    def change_job(self, request: Request, fields: dict[str, str]) -> Response:
        id, do, key = request.path_params["job"], fields.get("do", ""), fields.get("key", "")
        row = self._service.views.row(id)
        if do in ("pause", "resume", "cancel"):
            getattr(self._service, do)(id)
        elif do == "retry":
            self._service.retry(id, [key] if key else None)
        elif do in ("aside", "back") and key:
            self._service.set_aside(row.flow, key, do == "aside")
        else:
            raise UsageError(f"there is no action {do!r:.40}")
        return _to(str(id))

    # Logins

    def login(self, request: Request, error: str = "", status: int = 200) -> Response:
        return self.show(request, "login.html", status, error=error)

    def log_in(self, request: Request, fields: dict[str, str]) -> Response:
        try:
            role = self._access.role_of_token(fields.get("token", "").strip(), _host(request))
        except ImageloomError as error:
            return self.login(request, str(error), status_of(error))
        return self._with_cookie(role) if role else self.login(request, "The token is wrong.", 401)

    def enter(self, request: Request) -> Response:
        """Exchange the code of the printed link."""
        role = self._access.role_of_code(request.query_params.get("code", ""), _host(request))
        if role is None:
            return self.login(request, "The link was used before. Log in with a token.", 401)
        return self._with_cookie(role)

    def _with_cookie(self, role: Role) -> Response:
        answer = _to("./")
        answer.set_cookie(
            self._cookie,
            self._access.log_in(role),
            max_age=LIFETIME,
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    def log_out(self, request: Request, fields: dict[str, str]) -> Response:
        self._access.log_out(request.state.session)
        answer = _to("login")
        answer.delete_cookie(self._cookie, path="/", secure=self._is_secure, httponly=True, samesite="strict")
        return answer


def _to(address: str) -> RedirectResponse:
    """A relative redirection, which is right below a prefix."""
    return RedirectResponse(address, 303)


def _host(request: Request) -> str:
    return request.client.host if request.client else ""


def _buttons(view: JobView) -> list[tuple[str, str]]:
    """The actions that a job's state allows, with their names."""
    row = view.row
    if row.state in ENDED:
        return []
    first = ("resume", "Resume") if row.wanted == "pause" else ("pause", "Pause")
    return [first, ("cancel", "Cancel")]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


@functools.cache
def _operators() -> list[Any]:
    return operator_answers()


def missing(path: str) -> UnknownName:
    """The error for a path that is not served."""
    return UnknownName(f"there is no page {path!r:.100}")


def not_allowed(method: str) -> Refused:
    """The error for a method that a path does not have."""
    return Refused(405, f"{method:.20} is not possible here")
