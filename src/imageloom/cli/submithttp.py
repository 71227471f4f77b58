"""`imageloom submit --http`: the job runs on `imageloom serve`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import click

from imageloom.cli.signals import finish_on_signals
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.model import Job


def submit_http(
    url: str,
    credentials: dict[str, str | None],
    job: Job | None,
    id: str,
    is_cancel: bool,
    detach: bool,
    shown: tuple[bool, bool, bool],
) -> int:
    """Submit a job, or follow or cancel one. Returns the exit code, which is that of `imageloom run`.

    Args:
        job: the job; None for one that was submitted before.
        id: its number.
        shown: whether to print JSON, all items, nothing.

    Raises:
        UsageError, TaskRefused, StorageError: see `service.httpjob`.
    """
    from imageloom.cli.reporters import Reporters
    from imageloom.model import Job as AnyJob
    from imageloom.model import Recipe
    from imageloom.service.httpclient import Client
    from imageloom.service.httpjob import follow, submit

    if job is None and not (id.isascii() and id.isdecimal()):
        raise click.UsageError(f"{id}: the jobs of `imageloom serve` have numbers")
    with Client(url, token_file=credentials["token"], authority=credentials["authority"]) as client:
        if is_cancel:
            client.cancel(int(id))
            say(f"cancelled {id}")
            return 0
        number = submit(client, job).id if job else int(id)
        if detach:
            say(str(number))
            return 0
        if not shown[2]:
            say(f"job {number}: {client.url}jobs/{number}", err=True)

        def cancel() -> None:
            threading.Thread(target=client.cancel, args=(number,), daemon=True).start()

        finish_on_signals(cancel, "cancelling", "stop")
        with Reporters(job or AnyJob("/dev/null", "", Recipe(())), *shown, None, "text") as reporters:
            summary = follow(client, number, reporters.listeners)
            reporters.finish(summary, "done", is_recorded=False)
        return summary.exit_code
