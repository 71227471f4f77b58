"""Jobs without a flow, and the outcomes of a job's items as they arrive: for `imageloom submit --http`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from imageloom.model import Plain
from imageloom.service.flows import NAME
from imageloom.service.jobservice import JobService
from imageloom.service.outcomes import Outcome
from imageloom.service.web.answers import JobAnswer
from imageloom.service.web.operations import Call, Operation


class JobText(Plain, frozen=True):
    """A job to run once."""

    name: Annotated[str, Meta(pattern=f"^{NAME}$")]
    """A new name. The same name with the same text is the same job."""
    text: Annotated[str, Meta(max_length=65536)]
    """As in the file of a flow, in YAML."""


class OutcomeQuery(Plain, frozen=True):
    after: Annotated[int, Meta(ge=0, le=2**53)] = 0
    most: Annotated[int, Meta(ge=1, le=1000)] = 500


class OutcomeList(Plain, frozen=True, forbid_unknown_fields=False):
    """Outcomes in the order in which they arrived."""

    outcomes: tuple[Outcome, ...]
    last: int
    """The value of `after` for the next request."""
    is_reset: bool
    """Outcomes are missing, because they are no longer kept: the items have them."""


class Submitted:
    """The operations."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self.operations = [
            Operation(
                "POST", "/jobs", "submitJob", "Run a job that belongs to no flow.",
                self.submit, JobAnswer, None, JobText, 201,
            ),
            Operation(
                "GET", "/jobs/{job}/outcomes", "listOutcomes", "The latest outcomes of a job's items.",
                self.outcomes, OutcomeList, OutcomeQuery,
            ),
        ]  # fmt: skip

    def submit(self, call: Call) -> JobAnswer:
        return JobAnswer.of(self._service.submit(call.body.name, call.body.text))

    def outcomes(self, call: Call) -> OutcomeList:
        job, query = call.path["job"], call.query
        self._service.views.row(job)
        found, last, is_reset = self._service.outcomes.after(job, query.after, query.most)
        return OutcomeList(tuple(found), last, is_reset)
