"""What a run prints: progress, failures, JSON lines and logs. Each reporter listens to the driver's events."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from imageloom.cli.progress import Bar, Lines
from imageloom.cli.text import say, say_json
from imageloom.errors import StorageError
from imageloom.model import Job, Result
from imageloom.records.events import Began, Done, Event, Failed, Listener, Planned, Pruned, Retried, Skipped
from imageloom.records.summary import Summary
from imageloom.stores import is_remote
from imageloom.system.printable import Formatter, json_line, printable

MOST_FAILURES = 20
"""Number of failures that are printed during a run; the ledger has all of them."""


class Reporters:
    """The listeners that the options select. Results go to stdout, messages for people to stderr.

    Args:
        is_endless: the number of items is unknown; every failure is printed.
    """

    def __init__(
        self,
        job: Job,
        json: bool,
        verbose: bool,
        quiet: bool,
        log_file: Path | None,
        log_format: str,
        is_endless: bool = False,
    ) -> None:
        self.listeners: list[Listener] = []
        self._json = json
        self._is_retry = job.retry_failed
        self._log = _Log(log_file, log_format) if log_file else None
        counted = None if is_endless or is_remote(job.source) else job
        has_bar = sys.stderr.isatty() and not is_endless
        self._progress = None if quiet else Bar(job) if has_bar else Lines(counted)
        self._most_failures = sys.maxsize if is_endless else MOST_FAILURES
        if json:
            self.listeners.append(_json_line)
        if self._progress:
            self.listeners.append(self._progress)
        self._quiet = quiet
        self._failures = _Failures(self._most_failures)
        self.listeners.append(self._failures)
        if verbose:
            self.listeners.append(_json_planned if json else _verbose_line)
        if self._log:
            self.listeners.append(self._log)

    def __enter__(self) -> Reporters:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress:
            self._progress.close()
            self._progress = None
        if self._log:
            self._log.close()
            self._log = None

    def finish(
        self, summary: Summary, done: str, ledger: Path | None = None, is_recorded: bool = True
    ) -> None:
        """Print the summary.

        Args:
            ledger: the ledger of the run, if it is not the default one.
            is_recorded: whether the run is in a ledger.
        """
        self._close()
        show = f"imageloom jobs show {summary.job} --failed"
        where = f" --ledger {shlex.quote(str(ledger))}" if ledger else ""
        if summary.failed > self._most_failures:
            more = summary.failed - self._most_failures
            say(f"{more} more items failed" + (f"; list all: {show}{where}" if is_recorded else ""), err=True)
        if self._failures.have_traces and is_recorded and not self._quiet:
            say(f"show tracebacks: {show} -v{where}", err=True)
        if summary.total == summary.elsewhere == 0 and not summary.interrupted:
            say("no image matched in the source (see --include and --exclude)", err=True)
        elif self._is_retry and summary.total == summary.skipped:
            say("no item failed in an earlier run; without --retry-failed, all items are processed", err=True)
        if (summary.lost or summary.damaged) and is_recorded and not self._quiet:
            say(f"list what was lost: imageloom jobs show {summary.job} --lost{where}", err=True)
        with contextlib.suppress(BrokenPipeError):  # the reader of stdout has closed the pipe
            say(summary.text(done), err=self._json)
            if self._json:
                fields = msgspec.to_builtins(summary)
                del fields["failures"]  # each has a line of its own
                say_json({"event": "summary", **fields})


class _Failures:
    """One line for each of the first failures."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._shown = 0
        self.have_traces = False
        """A bug failed an item, or an operator raised."""

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Failed):
            return
        self.have_traces |= bool(event.result.failure and event.result.failure.trace)
        if self._shown < self._most:
            self._shown += 1
            _above_the_bar(f"failed: {event.result.key}: {_reason(event)}")


def _verbose_line(event: Event) -> None:
    match event:
        case Planned(item, names):
            _above_the_bar(f"planned: {item.key} -> {', '.join(names)}")
        case Done(result, waited=waited):
            after = f", {waited:.2f} s after its arrival" if waited else ""
            losses = "".join(f"; {name}: {', '.join(found)}" for name, found in _losses(result).items())
            _above_the_bar(f"done: {result.key}, {1000 * result.times.total:.1f} ms{after}{losses}")
        case Skipped(item, reason):
            _above_the_bar(f"skipped: {item.key}: {reason}")
        case Pruned(name, key, kept) if not kept:
            _above_the_bar(f"removed: {name} (its input {key} is gone)")
        case Retried(result, attempt, _, pause):
            _above_the_bar(
                f"retry in {pause:.1f} s: {result.key}: attempt {attempt} failed: {_reason(event)}"
            )


def _json_planned(event: Event) -> None:
    if isinstance(event, Planned):
        say_json({"event": "planned", "item": event.item.key, "outputs": event.names})


def _json_line(event: Event) -> None:
    match event:
        case Done(result, attempt, worker, waited):
            say_json(
                {
                    "event": "done",
                    "item": result.key,
                    "outputs": {w.name: w.size for w in result.written},
                    "attempt": attempt,
                    "worker": worker,
                    "times": result.times,
                    **_losses(result),
                    **({"waited": round(waited, 4)} if waited else {}),
                }
            )
        case Failed(result, attempt):
            say_json({"event": "failed", "item": result.key, "attempt": attempt, "failure": result.failure})
        case Skipped(item, reason):
            say_json({"event": "skipped", "item": item.key, "reason": reason})
        case Pruned(name, key, kept):
            say_json({"event": "kept" if kept else "removed", "output": name, "item": key, "reason": kept})


def _losses(result: Result) -> dict[str, tuple[str, ...]]:
    """What an item lost and the warnings about it, as fields; empty if there are none."""
    fields: dict[str, tuple[str, ...]] = {"dropped": result.dropped, "warnings": result.warnings}
    return {name: found for name, found in fields.items() if found}


class _Log:
    """Writes one line per event to a log file, as text or as JSON."""

    def __init__(self, path: Path, format: str) -> None:
        self._job = 0
        try:
            self._handler = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write the log {path} (--log-file): {error.strerror}") from None
        if format == "json":
            self._handler.setFormatter(_JsonFormatter())
        else:
            self._handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._logger = logging.getLogger("imageloom.driver.run")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self._handler)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Began):
            self._job = event.job
        for level, message, fields in _log_lines(event):
            fields = {"job": self._job, **fields}
            self._logger.log(
                level, "%s %s", message, _words(fields), extra={"fields": fields, "what": message}
            )

    def close(self) -> None:
        self._logger.removeHandler(self._handler)
        self._handler.close()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "event": getattr(record, "what", record.getMessage()),
            **fields,
        }
        return json_line(line)


def _log_lines(event: Event) -> Iterator[tuple[int, str, dict[str, Any]]]:
    match event:
        case Done(result, attempt, worker):
            fields = {"item": result.key, "attempt": attempt, "worker": worker, "seconds": result.times.total}
            losses = _losses(result)
            yield (logging.WARNING if losses else logging.INFO), "done", {**fields, **losses}
        case Failed(result, attempt, worker):
            reason = {"reason": _reason(event)}
            yield (
                logging.ERROR,
                "failed",
                {"item": result.key, "attempt": attempt, "worker": worker, **reason},
            )
        case Retried(result, attempt, worker):
            reason = {"reason": _reason(event)}
            yield (
                logging.WARNING,
                "again",
                {"item": result.key, "attempt": attempt, "worker": worker, **reason},
            )
        case Skipped(item, reason_):
            yield logging.INFO, "skipped", {"item": item.key, "reason": reason_}
        case Pruned(name, key, kept):
            yield logging.INFO, "kept" if kept else "removed", {"output": name, "item": key, "reason": kept}


def _words(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _reason(event: Failed | Retried) -> str:
    failure = event.result.failure
    return f"{failure.kind}: {failure.message}" if failure else "unknown"


def _above_the_bar(text: str) -> None:
    """Write a line to stderr without breaking the progress bar."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(printable(text), file=sys.stderr)
    else:
        say(text, err=True)
