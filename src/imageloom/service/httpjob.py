"""Runs a job on `imageloom serve` and follows it, as if it ran here: the same events, the same summary."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from msgspec.structs import replace

from imageloom.errors import ServerBusy, StorageError, UsageError
from imageloom.model import Failure, Item, Job, Output, Recipe, Result, Written
from imageloom.recipes.pipeline import to_text
from imageloom.recipes.recipe import CHOICES
from imageloom.records.events import Began, Done, Event, Failed, Listener, Retried, Skipped
from imageloom.records.losses import Losses
from imageloom.records.summary import MOST_FAILURES, Summary
from imageloom.service.httpclient import Client
from imageloom.service.outcomes import Outcome
from imageloom.service.state import ENDED
from imageloom.service.web.answers import JobAnswer

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two requests for outcomes. The pause grows while none arrive."""
PATIENCE = 60.0
"""Seconds for which the service may be away."""
_T = TypeVar("_T")


def text_of(job: Job) -> dict[str, Any]:
    """A job as the fields of a flow.

    Raises:
        UsageError: a flow cannot have an option of it.
    """
    plain, recipe = Job(job.source, job.sink, job.recipe), job.recipe
    cannot = {
        "--in-place": job.in_place,
        "--retry-failed": job.retry_failed,
        "--operators": bool(recipe.operators),
        "--pages": recipe.pages != "first",
        "--density": bool(recipe.density),
        "--links follow": job.links == "follow",
    }
    if unfit := [flag for flag, is_set in cannot.items() if is_set]:
        raise UsageError(f"{', '.join(unfit)}: the jobs of `imageloom serve` have no such option")
    options: dict[str, Any] = {
        name: value
        for name in ("include", "exclude", "name", "if_exists", "links", "tile", "attempts", "memory")
        if (value := getattr(job, name)) != getattr(plain, name)
    }
    for name in ("max_pixels", "max_file_size", "max_expansion"):
        if (most := getattr(job.limits, name)) != getattr(plain.limits, name):
            options[name] = most
    return {"source": job.source, "sink": job.sink, "recipe": _recipe(recipe), "options": options}


def _recipe(recipe: Recipe) -> dict[str, Any]:
    outputs = {f"output {number}": _output(one) for number, one in enumerate(recipe.outputs, 1)}
    return {"outputs": outputs, **{name: getattr(recipe, name) for name in CHOICES}}


def _output(output: Output) -> dict[str, Any]:
    fields = {"folder": output.folder, "quality": output.quality, "subsampling": output.subsampling}
    found: dict[str, Any] = {"pipeline": to_text(output.steps), "format": output.format, **fields}
    return {name: value for name, value in found.items() if value is not None}


def submit(client: Client, job: Job) -> JobAnswer:
    """Submit a job. It is submitted once, also if an answer is lost.

    Raises:
        UsageError, TaskRefused, ServerBusy, StorageError: see `Client.submit`.
    """
    name, fields = f"submit-{secrets.token_hex(8)}", text_of(job)
    client.jobs(most=1)  # the service is there, and accepts the token
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return client.submit(name, fields)
        except ServerBusy:
            raise
        except StorageError:
            if time.monotonic() > until:
                raise
        time.sleep(LONGEST_PAUSE)


def follow(client: Client, id: int, listeners: Iterable[Listener]) -> Summary:
    """Follow a job to its end. The service may be restarted meanwhile.

    Raises:
        UnknownName: there is no such job.
        StorageError: the service is away for longer than `PATIENCE`, or the job could not run.
    """
    follower = _Follower(client, id, tuple(listeners))
    job = follower.run()
    if job.state == "error":
        raise StorageError(f"job {id} has ended: {job.message}")
    return follower.summary(job)


class _Follower:
    def __init__(self, client: Client, id: int, listeners: tuple[Listener, ...]) -> None:
        self._client, self._id, self._listeners = client, id, listeners
        self._losses, self._failures = Losses(), dict[str, Failure]()
        self._done: set[str] = set()
        """Keys of items that are done: a service that was started again skips them."""
        self._last = self._unchanged = 0
        self._heard = time.monotonic()

    def run(self) -> JobAnswer:
        job = self._patiently(lambda: self._client.job(self._id))
        self._tell(Began(self._id))
        pause = FIRST_PAUSE
        while True:
            is_over = job.state in ENDED
            found = self._patiently(lambda: self._client.outcomes(self._id, self._last))
            self._last = found.last
            for outcome in found.outcomes:
                self._take(outcome)
            if found.outcomes:
                pause = FIRST_PAUSE
                continue
            if is_over:
                return job
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 1.5 * pause)
            job = self._patiently(lambda: self._client.job(self._id))

    def summary(self, job: JobAnswer) -> Summary:
        losses = self._losses
        seconds = (job.ended or job.created) - job.created
        summary = Summary(self._id, job.done, job.failed, job.skipped, seconds, job.state == "cancelled")
        return replace(
            summary,
            lost=losses.lost,
            dropped=dict(losses.dropped),
            damaged=losses.damaged,
            incomplete=losses.incomplete,
            unchanged=self._unchanged,
            failures=self._failures,
        )

    def _take(self, outcome: Outcome) -> None:
        event = event_of(outcome)
        match event:
            case Done(result):
                self._losses.add(result)
                self._done.add(result.key)
                self._failures.pop(result.key, None)
            case Failed(result) if result.failure and len(self._failures) < MOST_FAILURES:
                self._failures[result.key] = result.failure
            case Skipped(item) if item.key in self._done:
                return
            case Skipped(_, reason):
                self._unchanged += reason == "done before"
        self._tell(event)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        while True:
            try:
                found = ask()
            except StorageError:
                if time.monotonic() - self._heard > PATIENCE:
                    raise
                time.sleep(LONGEST_PAUSE)
                continue
            self._heard = time.monotonic()
            return found


def event_of(outcome: Outcome) -> Done | Failed | Retried | Skipped:
    """The event of an outcome."""
    o = outcome
    if o.kind == "skipped":
        return Skipped(Item(o.key), o.message)  # type: ignore[arg-type]
    written = tuple(Written(name, "", size) for name, size in o.outputs.items())
    failure = Failure(o.failure, o.message) if o.failure else None
    dropped: Any = o.dropped  # a newer service may report other things
    result = Result(o.key, written, failure, o.times, dropped=dropped, warnings=o.warnings)
    if o.kind == "retried":
        return Retried(result, o.attempt, o.worker, o.pause)
    return (Failed if o.kind == "failed" else Done)(result, o.attempt, o.worker)
