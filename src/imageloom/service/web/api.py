"""The HTTP interface: the table of its operations, and what each does."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from imageloom import operators
from imageloom.errors import UnknownName, UsageError
from imageloom.operators.registry import describe_parameter
from imageloom.service.flows import Flow, recipe_data
from imageloom.service.jobservice import JobService
from imageloom.service.preview import Preview, Previewer
from imageloom.service.web import answers
from imageloom.service.web.events import Streams
from imageloom.service.web.operations import JSON, Call, Operation, document
from imageloom.service.web.uploads import upload
from imageloom.system import machine

WEBP = "image/webp"
YAML = "application/yaml"


class Api:
    """The operations over a service.

    Args:
        more: operations of other modules. They are in the document, too.
    """

    def __init__(
        self,
        service: JobService,
        previewer: Previewer,
        streams: Streams,
        roots: tuple[str, ...],
        more: Sequence[Operation] = (),
    ) -> None:
        self._service, self._previewer, self._streams, self._roots = service, previewer, streams, roots
        self.operations = [*self._operations(), *more]
        self._document = msgspec.json.encode(document(self.operations))

    def _operations(self) -> list[Operation]:
        a, job, flow = answers, "/jobs/{job}", "/flows/{flow}"
        return [
            Operation("GET", "/flows", "listFlows", "All flows.", self.flows, a.FlowList),
            Operation("GET", flow, "getFlow", "A flow.", self.flow, a.FlowAnswer),
            Operation(
                "PUT", flow, "writeFlow", "Write a flow. A watched one that is new starts by itself.",
                self.write_flow, a.FlowAnswer, None, a.FlowText,
            ),
            Operation("DELETE", flow, "deleteFlow", "Delete a flow.", self.delete_flow, a.Count),
            Operation("POST", f"{flow}/start", "startJob", "Start a job of a flow.", self.start, a.JobAnswer),
            Operation("GET", f"{flow}/aside", "listAside", "Items that are set aside.", self.asides, a.AsideList),
            Operation(
                "POST", f"{flow}/aside", "setAside", "Set an item aside, or put it back.",
                self.set_aside, a.AsideList, None, a.AsideRequest,
            ),
            Operation(
                "PUT", f"{flow}/upload", "upload", "Upload an image into a flow's source, a local folder.",
                self.upload, a.Uploaded, a.KeyQuery, "application/octet-stream", 201,
            ),
            Operation("GET", "/jobs", "listJobs", "Jobs, the latest first.", self.jobs, a.JobList, a.JobQuery),
            Operation("GET", job, "getJob", "A job.", self.job, a.JobAnswer),
            Operation("POST", f"{job}/pause", "pauseJob", "Pause a job.", self.pause, a.JobAnswer),
            Operation("POST", f"{job}/resume", "resumeJob", "Go on with a paused job.", self.resume, a.JobAnswer),
            Operation("POST", f"{job}/cancel", "cancelJob", "End a job.", self.cancel, a.JobAnswer),
            Operation(
                "POST", f"{job}/retry", "retryItems", "Try failed items again.",
                self.retry, a.Count, None, a.Chosen,
            ),
            Operation("GET", f"{job}/items", "listItems", "Items of a job.", self.items, a.ItemList, a.ItemQuery),
            Operation("GET", f"{job}/item", "getItem", "One item of a job.", self.item, a.ItemAnswer, a.KeyQuery),
            Operation(
                "GET", f"{job}/thumbnail", "getThumbnail", "A thumbnail of an item's input.",
                self.thumbnail, WEBP, a.KeyQuery,
            ),
            Operation(
                "GET", f"{job}/picture", "getPicture", "An item's input or output, reduced for a screen.",
                self.picture, WEBP, a.PictureQuery,
            ),
            Operation("GET", "/workers", "getWorkers", "The engine and the machine.", self.workers, a.Workers),
            Operation("GET", "/operators", "listOperators", "All operators.", self.operator_list, a.OperatorList),
            Operation(
                "POST", "/samples", "listSamples", "Some images of a source, to try a recipe on.",
                self.samples, a.Samples, None, a.SourceRequest,
            ),
            Operation(
                "POST", "/preview", "preview", "Try a recipe on a sample of a source.",
                self.preview, Preview, None, a.PreviewRequest,
            ),
            Operation(
                "GET", "/events", "streamEvents",
                "Changes as server-sent events. A stream with Last-Event-ID continues after that event.",
                self.events, "text/event-stream", a.PollQuery,
            ),
            Operation(
                "GET", "/events/poll", "pollEvents", "Changes after an event, for callers that cannot stream.",
                self.poll, a.Messages, a.PollQuery,
            ),
            Operation("GET", "/openapi.json", "getDocument", "This document.", self.document, JSON),
        ]  # fmt: skip

    # Flows

    def flows(self, call: Call) -> answers.FlowList:
        names = self._service.flows.names()
        return answers.FlowList(tuple(found for name in names if (found := self.answer_of(name))))

    def flow(self, call: Call) -> answers.FlowAnswer:
        found = self.answer_of(call.path["flow"])
        if found is None:
            raise UnknownName(f"there is no flow {call.path['flow']!r}")
        return found

    def answer_of(self, name: str) -> answers.FlowAnswer | None:
        """A flow as it is sent; None if there is none."""
        flow = self._service.flows.flow(name)
        if flow is None:
            return None
        try:
            text = self._service.flows.text(name)
        except OSError:
            text = ""
        aside = tuple(self._service.state.asides(name))
        return answers.FlowAnswer.of(flow, text, self._service.views.latest(name), aside)

    def write_flow(self, call: Call) -> answers.FlowAnswer:
        self._service.write_flow(call.path["flow"], call.body.text, replace=True)
        return self.flow(call)

    def delete_flow(self, call: Call) -> answers.Count:
        self._service.delete_flow(call.path["flow"])
        return answers.Count(1)

    def start(self, call: Call) -> answers.JobAnswer:
        return answers.JobAnswer.of(self._service.start(call.path["flow"]))

    def asides(self, call: Call) -> answers.AsideList:
        name = call.path["flow"]
        self._service.views.flow(name)
        return answers.AsideList(tuple(self._service.state.asides(name)))

    def set_aside(self, call: Call) -> answers.AsideList:
        self._service.set_aside(call.path["flow"], call.body.key, call.body.is_aside)
        return self.asides(call)

    async def upload(self, call: Call) -> answers.Uploaded:
        flow = self._service.views.flow(call.path["flow"])
        if not isinstance(flow, Flow):
            raise UsageError(f"the flow {flow.name} is not valid: {flow.error}")
        size = await upload(flow, self._roots, call.query.key, call.request.stream())
        return answers.Uploaded(call.query.key, size)

    # Jobs

    def jobs(self, call: Call) -> answers.JobList:
        query, views = call.query, self._service.views
        rows = self._service.state.jobs(query.flow, query.before, query.most)
        return answers.JobList(tuple(answers.JobAnswer.of(views.view(row)) for row in rows))

    def job(self, call: Call) -> answers.JobAnswer:
        return answers.JobAnswer.of(self._service.views.job(call.path["job"]))

    def pause(self, call: Call) -> answers.JobAnswer:
        return answers.JobAnswer.of(self._service.pause(call.path["job"]))

    def resume(self, call: Call) -> answers.JobAnswer:
        return answers.JobAnswer.of(self._service.resume(call.path["job"]))

    def cancel(self, call: Call) -> answers.JobAnswer:
        return answers.JobAnswer.of(self._service.cancel(call.path["job"]))

    def retry(self, call: Call) -> answers.Count:
        return answers.Count(self._service.retry(call.path["job"], call.body.keys))

    def items(self, call: Call) -> answers.ItemList:
        q = call.query
        found = self._service.views.items(call.path["job"], q.state, q.text, q.after, q.most + 1)
        following = found[q.most - 1].key if len(found) > q.most else None
        return answers.ItemList(tuple(found[: q.most]), following)

    def item(self, call: Call) -> answers.ItemAnswer:
        id, key = call.path["job"], call.query.key
        return answers.ItemAnswer(self._service.views.item(id, key), self._service.views.trace(id, key))

    def thumbnail(self, call: Call) -> Response:
        return self.thumbnail_of(call.path["job"], call.query.key)

    def thumbnail_of(self, id: int, key: str) -> Response:
        """A thumbnail of an item's input.

        Raises:
            ImageloomError: there is no such item, or it cannot be decoded.
        """
        flow = self._flow_of(id)
        self._service.views.item(id, key)
        return _image(self._previewer.thumbnail(flow.job.source, key))

    def picture(self, call: Call) -> Response:
        flow, query = self._flow_of(call.path["job"]), call.query
        self._service.views.item(call.path["job"], query.key)
        if query.which == "input":
            return _image(self._previewer.picture(flow.job.source, query.key))
        names = self._service.views.outputs(call.path["job"], query.key)
        if query.number >= len(names):
            raise UnknownName(f"the item has {len(names)} outputs")
        return _image(self._previewer.picture(flow.job.sink, names[query.number]))

    def _flow_of(self, id: int) -> Flow:
        """The flow as it was when the job was started."""
        row = self._service.views.row(id)
        return self._service.flows.rules.flow(row.flow, row.text)

    # The rest

    def workers(self, call: Call | None = None) -> answers.Workers:
        turns, cores = self._service.turns, machine.available_cores()
        tasks = tuple(answers.TaskAnswer(t.flow, t.keys, t.since) for t in turns.in_hand)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return answers.Workers(turns.engine.capacity, tasks, os.getloadavg()[0] / cores, cores, free)

    def operator_list(self, call: Call) -> answers.OperatorList:
        return answers.OperatorList(tuple(operator_answers()))

    def samples(self, call: Call) -> answers.Samples:
        return answers.Samples(self._previewer.samples(call.body.source))

    def preview(self, call: Call) -> Preview:
        given = call.body.recipe
        recipe = self._service.flows.rules.recipe(recipe_data(given) if isinstance(given, str) else given)
        return self._previewer.preview(call.body.source, recipe, call.body.sample)

    async def events(self, call: Call) -> Response:
        return self._streams.response(call.request, call.query.after)

    def poll(self, call: Call) -> answers.Messages:
        feed = self._service.feed
        number = feed.number_of(call.query.after)
        found = feed.after(number) if number is not None else None
        if found is None:
            return answers.Messages((), bool(call.query.after), feed.id_of(feed.last))
        last = found[-1].number if found else number or 0
        messages = tuple(answers.MessageAnswer(feed.id_of(m.number), m.kind, m.data) for m in found)
        return answers.Messages(messages, False, feed.id_of(last))

    def document(self, call: Call) -> Response:
        return Response(self._document, media_type=JSON)


def _image(data: bytes) -> Response:
    return Response(data, media_type=WEBP, headers={"Cache-Control": "private, max-age=60"})


def operator_answers() -> list[answers.OperatorAnswer]:
    """All operators that people may use, in the order of their families."""
    return [
        answers.OperatorAnswer(
            one.name,
            one.summary,
            inspect.getdoc(one.function) or "",
            tuple(describe_parameter(one, parameter) for parameter in one.parameters),
            one.examples,
        )
        for one in operators.operators()
    ]
