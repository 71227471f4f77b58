"""Converts jobs and events to messages and back. Pipelines are sent as text, in which a server can name unknown
parts.

The text of a recipe is what users write, so it is the most stable format. An older peer does not send newer
fields, and a newer peer tolerates that (see `imageloom.proto`).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from imageloom.engines.nodes import imageloom_pb2 as pb
from imageloom.errors import PipelineError, UsageError
from imageloom.model import (
    UNREADABLE,
    Failure,
    Item,
    Job,
    Limits,
    Output,
    Plain,
    Recipe,
    Result,
    Times,
    Written,
)
from imageloom.recipes.checking import checked
from imageloom.recipes.formats import parse_format
from imageloom.recipes.pipeline import Pipeline, to_text
from imageloom.records.events import Done, Event, Failed, Retried, Skipped
from imageloom.records.summary import Summary

P = TypeVar("P", bound=Plain)

NEEDS = {"metadata": ("strict",), "damage": (), "colors": (), "gain_map": (), "pages": (), "density": ()}
"""Fields of a recipe that older servers do not support, or only without these values."""
KNOWN_NEEDS = frozenset((*NEEDS, "subsampling", "output options"))
"""Names of features that a client may request and that older servers do not support."""


def to_request(job: Job, id: str, detached: bool) -> pb.JobRequest:
    """The request for a job."""
    recipe, limits = job.recipe, job.limits
    return pb.JobRequest(
        id=id,
        source=job.source,
        sink=job.sink,
        outputs=[
            pb.Output(
                pipeline=to_text(output.steps),
                folder=output.folder,
                format=output.format or "",
                quality=output.quality,
                subsampling=output.subsampling or "",
                options=_options(output),
            )
            for output in recipe.outputs
        ],
        decode=recipe.decode,
        metadata=recipe.metadata,
        damage=recipe.damage,
        colors=recipe.colors,
        gain_map=recipe.gain_map,
        pages=str(recipe.pages),
        density=recipe.density,
        needs=_needs(recipe),
        operators=recipe.operators,
        include=job.include,
        exclude=job.exclude,
        if_exists=job.if_exists,
        retry_failed=job.retry_failed,
        name=job.name,
        in_place=job.in_place,
        tile=job.tile,
        max_pixels=limits.max_pixels,
        max_file_size=limits.max_file_size,
        max_expansion=limits.max_expansion,
        attempts=job.attempts,
        links="" if job.links == "follow" else job.links,  # a server does not follow links out of a source
        detached=detached,
    )


def _needs(recipe: Recipe) -> list[str]:
    """The features that a server must support for this recipe."""
    usual = Recipe(())
    needs = ["subsampling"] if any(output.subsampling for output in recipe.outputs) else []
    needs += ["output options"] if any(map(_options, recipe.outputs)) else []
    return needs + [
        name
        for name, values in NEEDS.items()
        if (value := getattr(recipe, name)) != getattr(usual, name) and (not values or value in values)
    ]


_OLD_FIELDS = ("steps", "folder", "format", "quality", "subsampling")
"""The fields of `Output` that have fields of their own in a request."""


def _options(output: Output) -> str:
    """The other fields of an output, those that are set, as JSON."""
    usual = Output(())
    names = [name for name in Output.__struct_fields__ if name not in _OLD_FIELDS]
    found = {name: value for name in names if (value := getattr(output, name)) != getattr(usual, name)}
    return msgspec.json.encode(found).decode() if found else ""


def _other_fields(options: str) -> dict[str, Any]:
    """The fields of an output that `_options` says.

    Raises:
        UsageError: there is an unknown field.
    """
    try:
        found = msgspec.json.decode(options, type=dict[str, Any]) if options else {}
    except UNREADABLE as error:
        raise UsageError(f"the options of an output are not JSON: {error}") from None
    known = {*Output.__struct_fields__} - {*_OLD_FIELDS}
    if unknown := sorted(found.keys() - known):
        raise UsageError(f"this server does not know the option {unknown[0]!r:.80} of an output")
    return found


def to_job(request: pb.JobRequest) -> Job:
    """The job of a request. Operators files must be loaded before.

    Raises:
        UsageError: the request is invalid. The message has the reason.
    """
    if unknown := set(request.needs) - KNOWN_NEEDS:
        raise UsageError(
            f"this server does not support {', '.join(sorted(unknown))}: it is older than the client"
        )
    if not request.source or not request.outputs or not (request.sink or request.in_place):
        raise UsageError("a job has a source, a sink and at least one output")
    given: dict[str, Any] = {
        "source": request.source,
        "sink": request.source if request.in_place else request.sink,
        "recipe": _recipe(request),
        "limits": Limits(**_given(request, Limits)),
        "include": tuple(request.include),
        "exclude": tuple(request.exclude),
        "retry_failed": request.retry_failed,
        "in_place": request.in_place,
        "links": request.links or "inside",
    }
    for name in ("if_exists", "name", "tile"):
        if value := getattr(request, name):
            given[name] = value
    return _checked(Job(**given, **_given(request, Job, ("attempts",))), Job)


def _recipe(request: pb.JobRequest) -> Recipe:
    outputs = tuple(
        Output(
            Pipeline.parse(output.pipeline).steps if output.pipeline else (),
            folder=_folder(output.folder),
            format=parse_format(output.format) if output.format else None,
            subsampling=output.subsampling or None,  # type: ignore[arg-type]  # checked below
            **_given(output, Output, ("quality",)),
            **_other_fields(output.options),
        )
        for output in request.outputs
    )
    chosen = {name: value for name in ("decode", *NEEDS) if (value := getattr(request, name))}
    if request.pages.isdecimal():
        chosen["pages"] = int(request.pages[:10])
    return checked(_checked(Recipe(outputs, operators=tuple(request.operators), **chosen), Recipe))


def _folder(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise PipelineError(f"an output's folder must be below the sink, not {name!r}")
    return name


def _given(message: Any, kind: type[Any], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The optional fields that the message has."""
    wanted = names or kind.__struct_fields__
    return {name: getattr(message, name) for name in wanted if message.HasField(name)}


def _checked(data: P, kind: type[P]) -> P:
    """Return plain data after checking its values against their types."""
    try:
        return msgspec.convert(msgspec.to_builtins(data), kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"the request is invalid: {error}") from None


def to_item_receipt(event: Event) -> pb.ItemReceipt | None:
    """The receipt of an event for a client; None for events that clients do not get."""
    match event:
        case Done(result, attempt, worker):
            return _receipt(pb.ITEM_DONE, result, attempt, worker)
        case Failed(result, attempt, worker):
            return _receipt(pb.ITEM_FAILED, result, attempt, worker)
        case Retried(result, attempt, worker, pause):
            return _receipt(pb.ITEM_RETRIED, result, attempt, worker, pause)
        case Skipped(item, reason):
            return pb.ItemReceipt(status=pb.ITEM_SKIPPED, key=item.key, reason=reason)
    return None


def _receipt(
    status: pb.ItemStatus, result: Result, attempt: int, worker: str, pause: float = 0.0
) -> pb.ItemReceipt:
    failure, times = result.failure, result.times
    return pb.ItemReceipt(
        status=status,
        key=result.key,
        attempt=attempt,
        worker=worker,
        failure=failure.kind if failure else "",
        message=failure.message if failure else "",
        pause=pause,
        written=[pb.WrittenFile(name=one.name, size=one.size) for one in result.written],
        times=pb.Times(**msgspec.structs.asdict(times)),
        dropped=result.dropped,
        warnings=result.warnings,
    )


def to_event(receipt: pb.ItemReceipt) -> Event:
    """The event of a receipt."""
    if receipt.status == pb.ITEM_SKIPPED:
        return Skipped(Item(receipt.key), receipt.reason)  # type: ignore[arg-type]
    written = tuple(Written(one.name, "", one.size) for one in receipt.written)
    failure = Failure(receipt.failure, receipt.message) if receipt.failure else None
    times = Times(**{name: getattr(receipt.times, name) for name in Times.__struct_fields__})
    dropped: Any = tuple(receipt.dropped)  # a newer server may report other things
    result = Result(receipt.key, written, failure, times, dropped=dropped, warnings=tuple(receipt.warnings))
    if receipt.status == pb.ITEM_RETRIED:
        return Retried(result, receipt.attempt, receipt.worker, receipt.pause)
    kind = Failed if receipt.status == pb.ITEM_FAILED else Done
    return kind(result, receipt.attempt, receipt.worker)


def to_summary(receipt: pb.JobReceipt) -> Summary:
    """The summary of a job for the client's output."""
    return Summary(
        receipt.job,
        receipt.done,
        receipt.failed,
        receipt.skipped,
        receipt.seconds,
        receipt.status == pb.JOB_CANCELLED,
        receipt.lost,
        dict(receipt.dropped),
        receipt.damaged,
        receipt.incomplete,
        dict(receipt.left_out),
    )
