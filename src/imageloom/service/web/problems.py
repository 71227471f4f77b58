"""Errors as answers: problem details in JSON (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from imageloom.errors import (
    ImageloomError,
    ItemError,
    MissingExtra,
    ServerBusy,
    StorageError,
    TaskRefused,
    UnknownName,
    UsageError,
    WrongState,
)
from imageloom.model import Plain
from imageloom.service.web.access import TooManyAttempts

MEDIA = "application/problem+json"


class Problem(Plain, frozen=True):
    """Why a request was not carried out."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


class Refused(ImageloomError):
    """A request is not accepted.

    Args:
        status: of the answer.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


_STATUSES: tuple[tuple[type[ImageloomError], int], ...] = (
    (UnknownName, 404),
    (WrongState, 409),
    (TaskRefused, 403),
    (ServerBusy, 429),
    (UsageError, 422),
    (MissingExtra, 422),
    (ItemError, 422),
    (StorageError, 503),
)


def status_of(error: ImageloomError) -> int:
    """The status for an error: the caller's, or 503 if the storage does not work."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, TooManyAttempts):
        return 429
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def answer(error: ImageloomError) -> Response:
    """The answer for an error."""
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        headers = error.headers
    elif isinstance(error, TooManyAttempts):
        headers = {"Retry-After": str(int(error.seconds) + 1)}
    elif status_of(error) == 429:
        headers = {"Retry-After": "1"}
    return problem(status_of(error), str(error), headers)


def problem(status: int, detail: str, headers: dict[str, Any] | None = None) -> Response:
    found = Problem(HTTPStatus(status).phrase, status, detail)
    return Response(msgspec.json.encode(found), status, headers, MEDIA)
