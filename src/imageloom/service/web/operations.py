"""Operations of the HTTP interface as data. The routes and the OpenAPI document are made from the same table, so
the document says what is served."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imageloom import __version__
from imageloom.errors import UsageError
from imageloom.model import Plain
from imageloom.service.flows import NAME
from imageloom.service.web.problems import MEDIA, Problem, Refused

ROOT = "/api/v1"
JSON = "application/json"
PATH_TYPES: dict[str, dict[str, Any]] = {
    "flow": {"type": "string", "pattern": f"^{NAME}$"},
    "job": {"type": "integer", "minimum": 1, "maximum": 2**53},
}


class Call(NamedTuple):
    """A request that was checked against its operation."""

    path: dict[str, Any]
    query: Any
    body: Any
    request: Request


class Operation(NamedTuple):
    """One thing that a caller can do."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    """Relative to the root of the interface, with names in braces; see `PATH_TYPES`."""
    name: str
    summary: str
    handler: Callable[[Call], Any]
    """Returns the answer's data, or a `Response`. It runs in a thread, unless it is a coroutine function."""
    answer: type[Plain] | str
    """The type of the answer's data, or its media type."""
    query: type[Plain] | None = None
    body: type[Plain] | str | None = None
    """The type of the body's data, or its media type: such a body is read by the handler."""
    status: int = 200


def routes(operations: Sequence[Operation]) -> list[Route]:
    """The routes of all operations. Those of one path are one route, so that other methods are refused."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation
    return [_route(path, methods) for path, methods in paths.items()]


def _route(path: str, methods: dict[str, Operation]) -> Route:
    async def endpoint(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        call = Call(_path(request), _query(request, operation), await _body(request, operation), request)
        if inspect.iscoroutinefunction(operation.handler):
            found = await operation.handler(call)
        else:
            found = await run_in_threadpool(operation.handler, call)
        if isinstance(found, Response):
            return found
        return Response(msgspec.json.encode(found), operation.status, media_type=JSON)

    return Route(f"{ROOT}{path}", endpoint, methods=list(methods))


def _path(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in request.path_params.items():
        if PATH_TYPES[name]["type"] == "integer":
            if not re.fullmatch("[1-9][0-9]{0,15}", text):
                raise Refused(404, f"{name} must be a number")
            found[name] = int(text)
        elif re.fullmatch(NAME, text):
            found[name] = text
        else:
            raise Refused(404, f"{name} is no name")
    return found


def _query(request: Request, operation: Operation) -> Any:
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(given) < len(pairs):
        raise UsageError("a parameter is given twice")
    if operation.query is None:
        if given:
            raise UsageError(f"unknown parameter {next(iter(given))!r:.80}: there are none")
        return None
    try:
        return msgspec.convert(given, operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"the parameters are not valid: {error}") from None


async def _body(request: Request, operation: Operation) -> Any:
    if operation.body is None or isinstance(operation.body, str):
        return None
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != JSON:
        raise Refused(415, f"the body must be {JSON}")
    try:
        return msgspec.json.decode(await request.body(), type=operation.body)
    except msgspec.ValidationError as error:
        raise UsageError(f"the body is not valid: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI document of the operations."""
    types = [Problem]
    for one in operations:
        types += [found for found in (one.answer, one.body, one.query) if isinstance(found, type)]  # type: ignore[misc]
    _, schemas = msgspec.json.schema_components(
        list(dict.fromkeys(types)), ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _described(one, schemas)
    for one in operations:
        if isinstance(one.query, type):
            schemas.pop(one.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "imageloom", "version": __version__, "description": "Flows, jobs and items."},
        "servers": [{"url": "."}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "The request was not carried out.",
                    "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
        },
    }


def _described(one: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", one.path)
    parameters = [{"name": n, "in": "path", "required": True, "schema": PATH_TYPES[n]} for n in names]
    if one.query is not None:
        schema = schemas[one.query.__name__]
        required = schema.get("required", [])
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": found}
            for name, found in schema["properties"].items()
        ]
    found: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "parameters": parameters,
        "responses": {
            str(one.status): {"description": "Done.", "content": _content(one.answer)},
            "4XX": {"$ref": "#/components/responses/Problem"},
            "5XX": {"$ref": "#/components/responses/Problem"},
        },
    }
    if one.body is not None:
        found["requestBody"] = {"required": True, "content": _content(one.body)}
    return found


def _content(what: type[Plain] | str) -> dict[str, Any]:
    if isinstance(what, str):
        return {what: {"schema": {}}}
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{what.__name__}"}}}
