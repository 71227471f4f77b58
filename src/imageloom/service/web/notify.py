"""Notifications of stores: `POST /flows/NAME/events`, with a secret for each flow.

The stores differ in how they send a secret. MinIO sends `Authorization: Bearer SECRET`. Ceph's gateway sends what
is in the address it was given: a user and a password, as `Authorization: Basic`, or a parameter.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Scope

from imageloom.errors import UsageError
from imageloom.model import Plain
from imageloom.service.flows import NAME, Flow
from imageloom.service.jobservice import JobService
from imageloom.service.notifications import created
from imageloom.service.web.access import Access
from imageloom.service.web.operations import JSON, ROOT, Call, Operation

PARAMETER = "secret"
_PATH = re.compile(rf"{ROOT}/flows/({NAME})/events")


class SecretQuery(Plain, frozen=True):
    secret: str = ""


class NotifyAnswer(Plain, frozen=True):
    """What a notification has led to."""

    named: int
    """Number of names that are looked at now."""
    ignored: int
    """Number of records about other objects, or about removals."""
    is_running: bool
    """Whether the flow runs. If not, its next start finds all new objects."""


class NewSecret(Plain, frozen=True):
    secret: str
    """It is shown only once."""
    path: str
    """The path, relative to the service's address, at which a store posts notifications."""


def notified_flow(scope: Scope) -> str:
    """The name of the flow that a request notifies; empty for all other requests."""
    found = _PATH.fullmatch(scope["path"]) if scope["method"] == "POST" else None
    return found[1] if found else ""


def notify_secret(headers: Headers, query: bytes) -> str:
    """The secret in a request; empty if there is none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    try:
        return (parse_qs(query.decode("latin-1"), max_num_fields=10).get(PARAMETER) or [""])[0]
    except ValueError:
        return ""


class Notify:
    """The operations for notifications."""

    def __init__(self, service: JobService, access: Access) -> None:
        self._service, self._access = service, access
        path = "/flows/{flow}/events"
        self.operations = [
            Operation(
                "POST", path, "notifyFlow",
                "Take S3's notification records: the objects that they name are processed now.",
                self.notify, NotifyAnswer, SecretQuery, JSON,
            ),
            Operation(
                "POST", f"{path}/secret", "newSecret",
                "Make a new secret for the notifications of a flow. The one before is no longer valid.",
                self.new_secret, NewSecret,
            ),
        ]  # fmt: skip

    async def notify(self, call: Call) -> NotifyAnswer:
        body = await call.request.body()
        return await run_in_threadpool(self._notify, call.path["flow"], body)

    def _notify(self, name: str, body: bytes) -> NotifyAnswer:
        flow = self._service.views.flow(name)
        if not isinstance(flow, Flow):
            raise UsageError(f"the flow {name} is not valid: {flow.error}")
        found = created(body, flow.job.source)
        is_running = self._service.hear(name, found.keys)
        return NotifyAnswer(len(found.keys), found.ignored, is_running)

    def new_secret(self, call: Call) -> NewSecret:
        name = call.path["flow"]
        self._service.views.flow(name)
        return NewSecret(self._access.new_secret(name), f"{ROOT.lstrip('/')}/flows/{name}/events")
