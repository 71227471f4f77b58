"""The data of the HTTP interface: what callers send and get.

Unknown fields are refused in what callers send, and ignored in answers: a service may be newer than its client.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from imageloom.model import Plain
from imageloom.records.history import ItemLine
from imageloom.service.flows import BrokenFlow, Flow, data_of
from imageloom.service.state import JobState, Wanted
from imageloom.service.views import JobView

Key = Annotated[str, Meta(min_length=1, max_length=4096)]


class JobAnswer(Plain, frozen=True, forbid_unknown_fields=False):
    """A job: one run of a flow."""

    id: int
    flow: str
    state: JobState
    wanted: Wanted
    message: str
    """Why it ended or waits, if it could not run."""
    created: float
    """Seconds since the epoch."""
    ended: float | None
    total: int | None
    """Number of items at its start; null if it was not counted."""
    done: int
    failed: int
    skipped: int
    """Items whose outputs existed before the job."""
    rate: float
    """Items per second, of the last 30 seconds."""
    seconds_left: float | None
    is_current: bool
    """Whether the flow is still as it was when the job was started."""

    @classmethod
    def of(cls, view: JobView) -> JobAnswer:
        row, n = view.row, view.numbers
        return cls(
            row.id, row.flow, row.state, row.wanted, row.message, row.created, row.ended, row.total,
            n.done, n.failed, n.skipped, n.rate, view.seconds_left, view.is_current,
        )  # fmt: skip


class JobList(Plain, frozen=True, forbid_unknown_fields=False):
    jobs: tuple[JobAnswer, ...]


class FlowAnswer(Plain, frozen=True, forbid_unknown_fields=False):
    """A flow."""

    name: str
    text: str
    """Its file, in YAML."""
    error: str
    """Why it is not valid; empty if it is."""
    when: str
    source: str
    sink: str
    job: JobAnswer | None
    """Its latest job."""
    aside: tuple[str, ...]
    """Items that are set aside."""

    @classmethod
    def of(
        cls, flow: Flow | BrokenFlow, text: str, job: JobView | None, aside: tuple[str, ...] = ()
    ) -> FlowAnswer:
        latest = JobAnswer.of(job) if job else None
        if isinstance(flow, BrokenFlow):
            data = data_of(text)
            places = [str(data.get(name, "")) for name in ("when", "source", "sink")]
            return cls(flow.name, text, flow.error, places[0], places[1], places[2], latest, aside)
        return cls(flow.name, text, "", flow.when, flow.job.source, flow.job.sink, latest, aside)


class FlowList(Plain, frozen=True, forbid_unknown_fields=False):
    flows: tuple[FlowAnswer, ...]


class FlowText(Plain, frozen=True):
    """A flow's file to write."""

    text: Annotated[str, Meta(max_length=65536)]


class ItemList(Plain, frozen=True, forbid_unknown_fields=False):
    """Items in the order of their keys."""

    items: tuple[ItemLine, ...]
    next: str | None
    """The value of `after` for the next items; null if there are no others."""


class ItemAnswer(Plain, frozen=True, forbid_unknown_fields=False):
    item: ItemLine
    trace: str
    """The traceback of a bug; empty for other failures."""


class Chosen(Plain, frozen=True):
    """Items to try again."""

    keys: Annotated[tuple[Key, ...], Meta(max_length=1000)] | None = None
    """Null: all that failed."""


class Count(Plain, frozen=True, forbid_unknown_fields=False):
    count: int


class AsideRequest(Plain, frozen=True):
    key: Key
    is_aside: bool = True


class AsideList(Plain, frozen=True, forbid_unknown_fields=False):
    keys: tuple[str, ...]


class PreviewRequest(Plain, frozen=True):
    """A recipe to try, as in a flow."""

    source: Annotated[str, Meta(max_length=4096)]
    recipe: str | list[Any] | dict[str, Any]
    sample: Annotated[str, Meta(max_length=4096)] = ""


class SourceRequest(Plain, frozen=True):
    source: Annotated[str, Meta(max_length=4096)]


class Samples(Plain, frozen=True, forbid_unknown_fields=False):
    """Some images of a source."""

    samples: tuple[str, ...]


class TaskAnswer(Plain, frozen=True, forbid_unknown_fields=False):
    """A task in the engine."""

    flow: str
    keys: tuple[str, ...]
    since: float
    """Seconds since the epoch."""


class Workers(Plain, frozen=True, forbid_unknown_fields=False):
    """The engine, and its tasks in progress."""

    workers: int
    tasks: tuple[TaskAnswer, ...]
    load: float
    """Load of the machine per core, of the last minute."""
    cores: int
    memory_free: int
    """Bytes."""


class OperatorAnswer(Plain, frozen=True, forbid_unknown_fields=False):
    name: str
    summary: str
    text: str
    parameters: tuple[str, ...]
    examples: tuple[str, ...]


class OperatorList(Plain, frozen=True, forbid_unknown_fields=False):
    operators: tuple[OperatorAnswer, ...]


class Uploaded(Plain, frozen=True, forbid_unknown_fields=False):
    key: str
    size: int


class MessageAnswer(Plain, frozen=True, forbid_unknown_fields=False):
    """A change; see `GET /events`."""

    id: str
    kind: str
    data: dict[str, Any]


class Messages(Plain, frozen=True, forbid_unknown_fields=False):
    messages: tuple[MessageAnswer, ...]
    is_reset: bool
    """Messages are missing: read everything anew."""
    last: str
    """The value of `after` for the next request."""


class JobQuery(Plain, frozen=True):
    flow: Annotated[str, Meta(max_length=63)] = ""
    before: Annotated[int, Meta(ge=0, le=2**53)] = 0
    most: Annotated[int, Meta(ge=1, le=200)] = 50


class ItemQuery(Plain, frozen=True):
    state: Literal["", "done", "failed"] = ""
    text: Annotated[str, Meta(max_length=200)] = ""
    after: Annotated[str, Meta(max_length=4096)] = ""
    most: Annotated[int, Meta(ge=1, le=500)] = 100


class KeyQuery(Plain, frozen=True):
    key: Key


class PollQuery(Plain, frozen=True):
    after: Annotated[str, Meta(max_length=40)] = ""


class PictureQuery(Plain, frozen=True):
    key: Key
    which: Literal["input", "output"] = "input"
    number: Annotated[int, Meta(ge=0, le=99)] = 0
    """Which output, from 0."""
