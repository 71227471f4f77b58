"""`imageloom watch`."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import options
from imageloom.cli.arguments import collect_garbage, job_and_engine
from imageloom.cli.run import command as run
from imageloom.cli.signals import finish_on_signals
from imageloom.cli.text import say, say_json

if TYPE_CHECKING:
    from imageloom.driver.watch import Watched
    from imageloom.records.events import Event, Listener
    from imageloom.records.ledger import Ledger

_SHARED = (
    *("outputs", "operators", "name", "flatten", "format_", "quality", "decode", "metadata"),
    *("jobs", "engine", "connect", "connect_file", "nodes", "threads", "bind", "keys", "timeout"),
    *("include", "exclude", "if_exists", "memory", "tile", "items_at_once", "scratch", "in_flight"),
    *("max_pixels", "max_file_size", "max_expansion", "ledger"),
    *("json_", "verbose", "quiet", "log_file", "log_format"),
)
"""The options of `run` that `watch` has too."""
DAY = 86400.0
HOUR = 3600.0


@click.command("watch", short_help="Run a pipeline over images as they come into a folder or a bucket.")
@click.argument("arguments", nargs=-1, required=True, metavar="[PIPELINE] SOURCE SINK")
@click.option(
    "--poll",
    type=click.FloatRange(0.05, DAY),
    metavar="SECONDS",
    help="List SOURCE that often, for file systems that tell no changes.  [5 for what is not local]",
)
@click.option(
    "--until-idle",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="End when nothing has come for so long and all is done; 0: when all is done.  [never]",
)
@click.option(
    "--keep",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="Of the history of single items, for 'jobs show'; 0 for all.",
)
@options.links_option("inside", "follow", "refuse")
@options.accept_host_keys_option
def command(
    arguments: tuple[str, ...],
    poll: float | None,
    until_idle: float | None,
    keep: float,
    engine: str,
    **given: Any,
) -> int:
    """Run PIPELINE over the images of SOURCE, and over those that come, into SINK, until it is told to end.
    Pipelines, recipes, addresses and engines are those of `imageloom run`.

    A file is done when it has settled: unchanged for a tenth of a second, and nobody has it open for writing.
    One that is overwritten is done again, one that is deleted is dropped. What came while nobody watched is done
    at the next start. What failed is done again when it changes, or now and then where a store was at fault. Links
    that lead out of SOURCE are not followed, unless --links follow says so.

    SIGTERM and Ctrl-C let it finish what is in hand, with exit code 0; a second one ends it at once.

    \b
    imageloom watch 'resize 512x512 | grayscale' inbox/ out/
    imageloom watch recipe.yaml s3://uploads/new s3://web/photos --poll 10
    imageloom watch --output gray=grayscale --output edges='canny 100 200' inbox/ out/ --engine pipeline
    imageloom watch 'resize 50%' /mnt/nfs/inbox out/ --poll 2
    imageloom watch 'resize 50%' inbox/ half/ --until-idle 10

    Exit codes: 0 it was told to end, or --until-idle is over; 1 likewise, and some items failed; 2 usage; 4
    storage or access; 130 ended at once.
    """
    from imageloom.cli.reporters import Reporters
    from imageloom.driver.run import Driver
    from imageloom.driver.watch import Watched
    from imageloom.engines import open_engine
    from imageloom.records.ledger import Ledger

    collect_garbage()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # who reads it wants it now
    job, chosen, settings = job_and_engine(arguments, engine, given)
    shown = (given["json_"], given["verbose"], given["quiet"], given["log_file"], given["log_format"])
    with (
        closing(open_engine(chosen, settings)) as opened,  # first: an MPI job's other ranks stay there
        Reporters(job, *shown, is_endless=True) as reporters,
        Ledger(given["ledger"]) as book,
    ):
        source = Watched(job.source, job.include, job.exclude, poll or 0.0, until_idle, job.links)
        listeners: list[Listener] = [source, *reporters.listeners, _Retention(book, keep)]
        driver = Driver(job, opened, book, chosen, listeners, source)
        finish_on_signals(source.end, "ending", "end")
        summary = driver.run()
        if summary.total:
            reporters.finish(summary, "done", given["ledger"])
        _show_latencies(source, given["json_"])
    return 1 if summary.failed and until_idle is not None else 0


command.params += [option for option in run.params if option.name in _SHARED]


class _Retention:
    """Drops the history of items that is too old, each hour.

    Args:
        days: that it is kept; 0 for ever.
    """

    def __init__(self, ledger: Ledger, days: float) -> None:
        self._ledger = ledger
        self._days = days
        self._job = 0
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        from imageloom.records.events import Began

        if isinstance(event, Began):
            self._job = event.job
        elif self._days and time.monotonic() >= self._next:
            self._next = time.monotonic() + HOUR
            self._ledger.forget_items(self._job, time.time() - self._days * DAY)


def _show_latencies(source: Watched, as_json: bool) -> None:
    """How long items took from when they had settled until their outputs were there."""
    if not source.latencies:
        return
    in_order = sorted(source.latencies)
    at = {f"p{part}": in_order[min(len(in_order) - 1, len(in_order) * part // 100)] for part in (50, 95)}
    at["max"] = in_order[-1]
    if as_json:
        line = {"event": "latency", "items": len(in_order), **at}
        say_json(line)
    words = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in at.items())
    say(f"from settled to published: {words} (the last {len(in_order)} items)", err=as_json)
