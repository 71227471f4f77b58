"""The pages of jobs: progress, failures, charts, workers, tiles, one item before and after, and the report."""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imageloom import report
from imageloom.errors import ImageloomError, UnknownName, UsageError
from imageloom.records.ledger import Ledger
from imageloom.report import html, page
from imageloom.report.figures import figures
from imageloom.service.jobservice import JobService
from imageloom.service.state import ENDED
from imageloom.service.views import JobView
from imageloom.service.web import charts
from imageloom.service.web.api import Api
from imageloom.service.web.render import HTML, Renderer, to

PER_PAGE = 50
SHOWN_FAILURES = 20
SHOWN_REPORTS = 5


class JobPages:
    """The pages of the jobs of a service."""

    def __init__(self, service: JobService, api: Api, renderer: Renderer) -> None:
        self._service, self._api, self._show = service, api, renderer.show
        self._none = files("imageloom.service.web").joinpath("static", "none.svg").read_bytes()
        route = renderer.route
        self.routes: list[Route] = [
            route("/jobs/{job:int}", self.job, self.change),
            route("/jobs/{job:int}/item", self.item),
            route("/jobs/{job:int}/report", self.report),
            route("/jobs/{job:int}/thumbnail", self.thumbnail),
        ]

    def job(self, request: Request) -> Response:
        service, given = self._service, request.query_params
        views = service.views
        view = views.job(request.path_params["job"])
        row = view.row
        state, text, after = given.get("state", ""), given.get("text", ""), given.get("after", "")
        if state not in ("", "done", "failed"):
            raise UsageError("state: it is done, failed or empty")
        items = views.items(row.id, state, text, after, PER_PAGE + 1)
        return self._show(
            request,
            "job.html",
            view=view,
            buttons=_buttons(view),
            failures=views.items(row.id, "failed", most=SHOWN_FAILURES),
            items=items[:PER_PAGE],
            following=items[PER_PAGE - 1].key if len(items) > PER_PAGE else "",
            state=state,
            text=text,
            asides=set(service.state.asides(row.flow)),
            retries=set(service.state.retries(row.id)),
            reports=views.reports(row.id)[-SHOWN_REPORTS:],
            **self._activity(row.id, row.flow),
        )

    def _activity(self, id: int, flow: str) -> dict[str, Any]:
        now = time.time()
        activity = self._service.views.activity(id)
        if activity is None:
            return {"charts": [], "lanes": [], "maps": [], "doing": []}
        is_active = any(bar.done or bar.failed for bar in activity.bars)
        tasks = [task for task in self._service.turns.in_hand if task.flow == flow]
        work = [(task.keys[0], task.part.write) for task in tasks if task.part]
        return {
            "charts": [charts.throughput(activity.bars), charts.latency(activity.bars)] if is_active else [],
            "lanes": charts.lanes(activity, now),
            "maps": [
                charts.tile_map(image, [box for key, box in work if key == image.key])
                for image in activity.images
            ],
            "doing": list(dict.fromkeys(key for task in tasks for key in task.keys)),
        }

    def item(self, request: Request) -> Response:
        id, key = request.path_params["job"], request.query_params.get("key", "")
        views = self._service.views
        item, row = views.item(id, key), views.row(id)
        outputs = views.outputs(id, key) if item.state == "done" else []
        return self._show(
            request,
            "item.html",
            row=row,
            item=item,
            outputs=outputs,
            trace=views.trace(id, key),
            is_aside=key in self._service.state.asides(row.flow),
            is_retried=key in self._service.state.retries(id),
        )

    def report(self, request: Request) -> Response:
        """The report of a run. It has no pictures: they would be decoded in this process."""
        runs = self._service.views.reports(request.path_params["job"])
        given = request.query_params.get("run", str(runs[-1]) if runs else "")
        if given not in map(str, runs):
            raise UnknownName("there is no report of this run: its timeline was not recorded, or was deleted")
        with Ledger(self._service.ledger) as ledger:
            record, timeline = report.recorded(ledger, int(given))
            found = figures(record, timeline, ledger.items(record.id, lost=True))
        text = page.to_html(found, timeline, [], {})
        policy = f"sandbox allow-scripts; frame-ancestors 'none'; {html.policy_of(text)}"
        return Response(text, media_type=HTML, headers={"Content-Security-Policy": policy})

    def thumbnail(self, request: Request) -> Response:
        """A thumbnail, or a drawing that says that there is none."""
        try:
            return self._api.thumbnail_of(request.path_params["job"], request.query_params.get("key", ""))
        except ImageloomError:
            return Response(self._none, media_type="image/svg+xml")

    def change(self, request: Request, fields: dict[str, str]) -> Response:
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
        return to("../" if fields.get("from") == "overview" else str(id))


def _buttons(view: JobView) -> list[tuple[str, str]]:
    """The actions that a job's state allows, with their names."""
    row = view.row
    if row.state in ENDED:
        return []
    first = ("resume", "Resume") if row.wanted == "pause" else ("pause", "Pause")
    return [first, ("cancel", "Cancel")]
