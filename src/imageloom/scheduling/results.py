"""Validation of results. A worker may run anywhere, so each value that it reports is checked.

A valid result has the key of the requested item, the requested names of outputs, and the staged files of this
attempt. Any other result is refused: it counts as a failed attempt, and the files that it names are not touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import astuple, replace

from imageloom.errors import InvalidResult
from imageloom.model import MOST_WARNING, MOST_WARNINGS, THINGS, Failure, Outcome, Result, Task, Work
from imageloom.stores.names import HASH, is_hashed
from imageloom.system.printable import printable, printable_lines
from imageloom.system.tracing import MOST_TRACE

MOST_BYTES = 1 << 40
"""Maximum size of one output, in bytes."""
MOST_SECONDS = 1e8
"""Maximum time of an attempt, in seconds: three years."""
LATEST = 1e11
"""Latest valid time, in seconds since the epoch."""
MOST_TEXT = 2000
"""Maximum length of a failure's message, in characters. The rest is cut off."""
MOST_NAME = 200
"""Maximum length of a worker's name and of a failure's kind, in characters."""

_RANDOM = 12
"""Number of hexadecimal digits in a token: see `names.new_token`."""
_HEXADECIMAL = frozenset("0123456789abcdef")
_KIND = rf"[A-Za-z_][A-Za-z0-9_.]{{0,{MOST_NAME - 1}}}"
_UNSHOWN = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"

log = logging.getLogger(__name__)

ResultCallback = Callable[[int, Result], None]
"""Called with an item's position in its task and with its result, as soon as the result is known."""


def checked(task: Task, work: Work, result: Result, worker: str) -> Result:
    """Check a result. Returns it if it is valid, otherwise a failure.

    Args:
        work: the item that the result must belong to.
        worker: name of the sender, used if the result has none.
    """
    if result.worker and not (result.worker.isprintable() and len(result.worker) <= MOST_NAME):
        result = replace(result, worker=shown(result.worker))
    if wrong := _wrong(task, work, result):
        return refused(work.item.key, result.worker or worker, f"its {wrong}")
    failure = result.failure
    if failure is None:
        return _shown_warnings(result) if result.warnings else result
    if failure.trace:
        failure = replace(failure, trace=printable_lines(failure.trace, MOST_TRACE))
    if not (failure.message.isprintable() and len(failure.message) <= MOST_TEXT):
        failure = replace(failure, message=shown(failure.message, MOST_TEXT))
    return result if failure is result.failure else replace(result, failure=failure)


def all_of(task: Task, outcome: Outcome) -> tuple[Result, ...]:
    """The checked results of an outcome, one for each item of the task. All are failures if the outcome
    belongs to another task."""
    if outcome.task == task.id and len(outcome.results) == len(task.work):
        return outcome.results
    wrong = f"its outcome is that of another task, with {len(outcome.results)} results"
    return all_refused(task, shown(outcome.worker), wrong).results


def all_refused(task: Task, worker: str, reason: str) -> Outcome:
    """The outcome of a task whose worker sent no valid data: each item has failed."""
    return Outcome(task.id, worker, tuple(refused(work.item.key, worker, reason) for work in task.work))


def refused(key: str, worker: str, reason: str) -> Result:
    """The failed result of an attempt whose worker sent an invalid result. It is also logged."""
    log.warning("refused the result of worker %s for %s: %s", worker or "?", shown(key) or "an item", reason)
    error = InvalidResult(f"worker {worker or '?'} sent a result that was refused: {reason}")
    return Result(key, failure=Failure.of(error), worker=worker)


def shown(text: str, most: int = MOST_NAME) -> str:
    """A text from elsewhere, made safe for the log and the terminal, and cut off after `most` characters."""
    if len(text) > most:
        text = text[: most - 3] + "..."
    if text.isprintable():
        return text
    return re.sub(_UNSHOWN, lambda found: found[0].encode("unicode_escape").decode(), text)


def _shown_warnings(result: Result) -> Result:
    """The result with warnings that are safe for the log and the terminal."""
    return replace(result, warnings=tuple([printable(one[:MOST_WARNING]) for one in result.warnings]))


def _wrong(task: Task, work: Work, result: Result) -> str | None:
    """What is wrong with a result, as text; None if it is valid."""
    if result.key != work.item.key:
        return "key is that of another item"
    failure, spent = result.failure, astuple(result.times)
    if not (0.0 <= sum(spent) <= MOST_SECONDS and min(spent) >= 0.0):
        return "times are not valid durations"
    if not (0.0 <= result.started <= LATEST and 0.0 <= result.lost <= MOST_SECONDS):
        return "moment is not a valid time"
    if failure is not None:
        if not re.fullmatch(_KIND, failure.kind):
            return "kind of failure is not a class name"
        has_outputs = result.written or result.pieces or result.measure or result.dropped or result.warnings
        return "failure has outputs" if has_outputs else None
    if (result.dropped or result.warnings) and (reason := _wrong_losses(result)):
        return reason
    if task.part is not None:
        from imageloom.worker import parts  # imported late: small images do not need it

        names, token_end = parts.outputs_of(task, task.part)
        return _wrong_outputs(task, work, result, names, token_end) or parts.wrong(task, task.part, result)
    if not 0 <= result.pixels <= task.limits.max_pixels:
        return "number of pixels is beyond the limit"
    if result.pieces or result.measure:
        return "pieces are those of a part, but the task is an item"
    return _wrong_outputs(task, work, result, work.names)


def _wrong_losses(result: Result) -> str | None:
    """What is wrong with the reported losses and warnings, as text; None if they are valid."""
    dropped = result.dropped
    if len(dropped) > len(THINGS) or any(thing not in THINGS for thing in dropped):
        return "losses are unknown"
    if list(dropped) != sorted(set(dropped)):
        return "losses are not sorted"
    return "warnings are too many" if len(result.warnings) > MOST_WARNINGS else None


def _is_named(name: str, planned: str, has_digest: bool) -> bool:
    return name == planned if not (has_digest and HASH in planned) else is_hashed(name, planned)


def _wrong_outputs(
    task: Task, work: Work, result: Result, names: Sequence[str], part: str = ""
) -> str | None:
    """What is wrong with the staged outputs, as text; None if they are valid.

    Args:
        names: names that they must have, in this order.
        part: end of the token of a part's output. For an item, the token ends in the output's position.
    """
    written = result.written
    places: Iterable[int] = range(len(written))
    if len(written) != len(names):
        if len(written) > len(names) or not any(output.only_if_smaller for output in task.recipe.outputs):
            return f"number of outputs is {len(written)}, not {len(names)}"
        there = {one.name for one in written}
        places = [place for place, name in enumerate(names) if name in there]
        if len(places) != len(written):
            return "output has a wrong name"
    before = f"{task.job}-{work.number}-{work.attempt}-"
    for place, one in zip(places, written, strict=True):
        if not _is_named(one.name, names[place], work.hashed):
            return "output has a wrong name"
        if not 0 < one.size <= MOST_BYTES:
            return "output has an invalid size"
        behind = f"-{part or place}"
        random = one.staged[len(before) : -len(behind)]
        if (
            one.staged != f"{before}{random}{behind}"
            or len(random) != _RANDOM
            or not _HEXADECIMAL.issuperset(random)
        ):
            return "staged output is not from this attempt"
    return None
