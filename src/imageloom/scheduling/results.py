"""Results as they come in: a worker may run anywhere, so nothing that it says is believed unchecked.

A result is of the item that was asked for, says the names that were asked for, and names bytes that were staged
for this very attempt. One that says anything else is refused: it counts as a failed attempt, and no file that it
names is touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from msgspec.structs import astuple, replace

from imageloom.errors import InvalidResult
from imageloom.model import Failure, Outcome, Result, Task, Work
from imageloom.system.printable import printable_lines
from imageloom.system.tracing import MOST_TRACE

MOST_BYTES = 1 << 40
"""Of one output."""
MOST_SECONDS = 1e8
"""Of an attempt: three years."""
LATEST = 1e11
"""Seconds since the epoch."""
MOST_TEXT = 2000
"""Characters of a failure's message; the rest is cut off."""
MOST_NAME = 200
"""Characters of a worker's name and of a failure's kind."""

_RANDOM = 12
"""Hexadecimal digits in a token: see `names.new_token`."""
_HEXADECIMAL = frozenset("0123456789abcdef")
_KIND = rf"[A-Za-z_][A-Za-z0-9_.]{{0,{MOST_NAME - 1}}}"
_UNSHOWN = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"

log = logging.getLogger(__name__)

ResultCallback = Callable[[int, Result], None]
"""Called with an item's place in its task and its result, as soon as it is there."""


def checked(task: Task, work: Work, result: Result, worker: str) -> Result:
    """A result that can be believed: the one that came in, or a failure in its place.

    Args:
        work: the item that the result should be of.
        worker: who has sent it, where the result does not say so itself.
    """
    if result.worker and not (result.worker.isprintable() and len(result.worker) <= MOST_NAME):
        result = replace(result, worker=shown(result.worker))
    if wrong := _wrong(task, work, result):
        return refused(work.item.key, result.worker or worker, f"its {wrong}")
    failure = result.failure
    if failure is None:
        return result
    if failure.trace:
        failure = replace(failure, trace=printable_lines(failure.trace, MOST_TRACE))
    if not (failure.message.isprintable() and len(failure.message) <= MOST_TEXT):
        failure = replace(failure, message=shown(failure.message, MOST_TEXT))
    return result if failure is result.failure else replace(result, failure=failure)


def all_of(task: Task, outcome: Outcome) -> tuple[Result, ...]:
    """An outcome's results, one for each item of the task; where they are another task's, none is believed."""
    if outcome.task == task.id and len(outcome.results) == len(task.work):
        return outcome.results
    wrong = f"its outcome is that of another task, with {len(outcome.results)} results"
    return all_refused(task, shown(outcome.worker), wrong).results


def all_refused(task: Task, worker: str, reason: str) -> Outcome:
    """The outcome of a task whose worker sent nothing that can be believed."""
    return Outcome(task.id, worker, tuple(refused(work.item.key, worker, reason) for work in task.work))


def refused(key: str, worker: str, reason: str) -> Result:
    """The result of an attempt whose worker sent what cannot be; the log says so too."""
    log.warning("refused the result of worker %s for %s: %s", worker or "?", shown(key) or "an item", reason)
    error = InvalidResult(f"worker {worker or '?'} sent a result that was refused: {reason}")
    return Result(key, failure=Failure.of(error), worker=worker)


def shown(text: str, most: int = MOST_NAME) -> str:
    """A text from elsewhere as it can be shown and written down."""
    if len(text) > most:
        text = text[: most - 3] + "..."
    if text.isprintable():
        return text
    return re.sub(_UNSHOWN, lambda found: found[0].encode("unicode_escape").decode(), text)


def _wrong(task: Task, work: Work, result: Result) -> str | None:
    """The field of a result that is wrong, in words; None for none."""
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
        return "failure has outputs" if result.written or result.pieces or result.measure else None
    if task.part is not None:
        from imageloom.worker import parts  # no small image waits for it

        names, token_end = parts.outputs_of(task, task.part)
        return _wrong_outputs(task, work, result, names, token_end) or parts.wrong(task, task.part, result)
    if not 0 <= result.pixels <= task.limits.max_pixels:
        return "number of pixels is beyond the limit"
    if result.pieces or result.measure:
        return "pieces are those of a part, but the task is an item"
    return _wrong_outputs(task, work, result, work.names)


def _wrong_outputs(
    task: Task, work: Work, result: Result, names: Sequence[str], part: str = ""
) -> str | None:
    """What is wrong with the staged outputs, in words; None for nothing.

    Args:
        names: that they should have, in this order.
        part: what the token of a part's output ends in; else it is the output's place.
    """
    written = result.written
    if len(written) != len(names):
        return f"number of outputs is {len(written)}, not {len(names)}"
    before = f"{task.job}-{work.number}-{work.attempt}-"
    for place, one in enumerate(written):
        if one.name != names[place]:
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
