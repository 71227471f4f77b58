"""The pages, made on the server. They can be read without JavaScript; a script keeps them up to date.

The pages of flows and of jobs are in `flowpages` and `jobpages`.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imageloom.errors import ImageloomError, UnknownName, UsageError
from imageloom.service.jobservice import JobService
from imageloom.service.load import LoadMeter
from imageloom.service.nodes import NodeControl
from imageloom.service.web.access import LIFETIME, Access, Role
from imageloom.service.web.api import Api
from imageloom.service.web.problems import Refused, status_of
from imageloom.service.web.render import Renderer, to


class Pages:
    """The overview, the nodes, and logins.

    Args:
        nodes: the nodes, if the engine has some.
        cookie: name of the cookie.
        is_secure: the cookie is sent by TLS only.
    """

    def __init__(
        self,
        service: JobService,
        api: Api,
        renderer: Renderer,
        access: Access,
        roots: tuple[str, ...],
        nodes: NodeControl | None,
        cookie: str,
        is_secure: bool,
    ) -> None:
        self._service, self._api, self._access, self._roots = service, api, access, roots
        self._nodes, self._cookie, self._is_secure = nodes, cookie, is_secure
        self._show = renderer.show
        self._meter = LoadMeter(roots)
        route = renderer.route
        self.routes: list[Route] = [
            route("/", self.overview),
            route("/login", self.login, self.log_in),
            route("/logout", None, self.log_out),
            route("/enter", self.enter),
        ]
        if nodes:
            self.routes.append(route("/nodes", self.nodes, self.change_node))

    def error(self, request: Request, error: ImageloomError) -> Response:
        """The page for an error."""
        status = status_of(error)
        return self._show(request, "error.html", status, title=HTTPStatus(status).phrase, detail=str(error))

    def overview(self, request: Request) -> Response:
        service = self._service
        flows = [found for name in service.flows.names() if (found := self._api.answer_of(name))]
        return self._show(
            request,
            "overview.html",
            flows=flows,
            jobs=[service.views.view(row) for row in service.state.jobs(most=10)],
            workers=service.turns.workers,
            capacity=service.turns.engine.capacity,
            tasks=service.turns.in_hand,
            machine=self._meter.load(),
            roots=self._roots,
        )

    def nodes(self, request: Request) -> Response:
        assert self._nodes is not None
        return self._show(request, "nodes.html", nodes=self._nodes.views(), policy=self._nodes.policy)

    def change_node(self, request: Request, fields: dict[str, str]) -> Response:
        assert self._nodes is not None
        address, do = fields.get("node", ""), fields.get("do", "")
        if do not in ("drain", "use"):
            raise UsageError(f"there is no action {do!r:.40}")
        self._nodes.drain(address, do == "drain")
        self._service.feed.add("nodes")
        return to("nodes")

    # Logins

    def login(self, request: Request, error: str = "", status: int = 200) -> Response:
        return self._show(request, "login.html", status, error=error)

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
        answer = to("./")
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
        answer = to("login")
        answer.delete_cookie(self._cookie, path="/", secure=self._is_secure, httponly=True, samesite="strict")
        return answer


def _host(request: Request) -> str:
    return request.client.host if request.client else ""


def missing(path: str) -> UnknownName:
    """The error for a path that is not served."""
    return UnknownName(f"there is no page {path!r:.100}")


def not_allowed(method: str) -> Refused:
    """The error for a method that a path does not have."""
    return Refused(405, f"{method:.20} is not possible here")
