"""`imageloom watch`."""

from __future__ import annotations

import sys
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import options
from imageloom.cli.arguments import collect_garbage, job_and_engine
from imageloom.cli.options.values import Number
from imageloom.cli.run import command as run
from imageloom.cli.signals import finish_on_signals
from imageloom.cli.text import say, say_json

if TYPE_CHECKING:
    from imageloom.driver.watch import Watched
    from imageloom.records.events import Listener

_SHARED = (
    *("outputs", "operators", "name", "flatten", "format_", "quality", "subsampling"),
    *("max_bytes", "lossless", "progressive", "effort", "only_if_smaller", "widths", "formats"),
    *("decode", "damage", "colors", "gain_map", "metadata", "strict_metadata", "pages", "density"),
    *("jobs", "engine", "connect", "connect_file", "nodes", "threads", "bind", "keys", "timeout"),
    *("include", "exclude", "if_exists", "memory", "tile", "items_at_once", "scratch", "in_flight"),
    *("sandbox", "untrusted"),
    *("max_pixels", "max_file_size", "max_expansion", "ledger"),
    *("json_", "verbose", "quiet", "log_file", "log_format"),
)
"""The options of `run` that `watch` has too."""
DAY = 86400.0


@click.command("watch", short_help="Run a pipeline over new images in a folder or a bucket, as they arrive.")
@click.argument("arguments", nargs=-1, required=True, metavar="[PIPELINE] SOURCE SINK")
@click.option(
    "--poll",
    type=Number(0.05, DAY),
    metavar="SECONDS",
    show_default="change notifications for a local SOURCE, 5 for a remote one",
    help="List SOURCE at this interval, in seconds. For file systems without change notifications, such as NFS.",
)
@click.option(
    "--until-idle",
    type=Number(0),
    metavar="SECONDS",
    show_default="never",
    help="End when all items are done and none has arrived for this time, in seconds. 0: as soon as all are done.",
)
@click.option(
    "--keep",
    type=Number(0),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="How long `imageloom jobs show` can list an item, in days. 0: for ever.",
)
@options.durable_option("on")
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
    """Run PIPELINE over the images of SOURCE and over each new image, into SINK, until a signal ends the command.

    Pipelines, recipes, addresses and engines are those of `imageloom run`.

    A file is processed when it is complete: unchanged for 0.1 s, and not open for writing by any process. An
    overwritten file is processed again. The outputs of a deleted file stay. Files that arrived while no watch was
    running are processed at the next start. A failed item is processed again when its file changes, or after a
    back-off if the storage failed. Links that lead out of SOURCE are failed items, unless --links follow is given.

    The first SIGTERM or Ctrl-C finishes the items in progress and ends with exit code 0; a second one ends at
    once.

    \b
    imageloom watch 'resize 512x512 | grayscale' inbox/ out/
    imageloom watch recipe.yaml s3://uploads/new s3://web/photos --poll 10
    imageloom watch --output gray=grayscale --output edges='canny 100 200' inbox/ out/ --engine pipeline
    imageloom watch 'resize 50%' /mnt/nfs/inbox out/ --poll 2
    imageloom watch 'resize 50%' inbox/ half/ --until-idle 10

    Exit codes: 0 ended by a signal, or by --until-idle with all items done; 1 ended by --until-idle, and some
    items failed; 2 usage error; 4 storage or access error; 130 ended at once.
    """
    from imageloom.cli.reporters import Reporters
    from imageloom.driver.run import Driver
    from imageloom.driver.watch import Watched
    from imageloom.engines import opened_engine
    from imageloom.records.ledger import Ledger
    from imageloom.records.retention import Retention
    from imageloom.system.announcing import show_states

    collect_garbage()
    given["durable"] = given["durable"] is not False
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # readers need each line at once
    job, chosen, settings = job_and_engine(arguments, engine, given)
    shown = (given["json_"], given["verbose"], given["quiet"], given["log_file"], given["log_format"])
    is_ending = Event()
    try:
        with (
            opened_engine(chosen, settings) as opened,  # first: an MPI job's other ranks stay there
            Reporters(job, *shown, is_endless=True) as reporters,
            Ledger(given["ledger"]) as book,
        ):
            source = Watched(job.source, job.include, job.exclude, poll or 0.0, until_idle, job.links)
            listeners: list[Listener] = [source, *reporters.listeners, Retention(book, keep)]
            driver = Driver(job, opened, book, chosen, listeners, source)
            if not given["quiet"]:
                show_states()
                say(f"watching {source.root}; Ctrl-C ends", err=True)

            def end() -> None:
                is_ending.set()
                source.end()
                driver.stop()

            finish_on_signals(end, "ending", "end", has_begun=lambda: driver.has_begun)
            summary = driver.run()
            if summary.total or summary.left_out:
                reporters.finish(summary, "done", given["ledger"])
            _show_latencies(source, given["json_"])
    except KeyboardInterrupt:
        if is_ending.is_set():  # by a second signal
            raise
        return 0  # nothing was in progress yet
    return 1 if summary.failed and until_idle is not None else 0


command.params += [option for option in run.params if option.name in _SHARED]


def _show_latencies(source: Watched, as_json: bool) -> None:
    """Print percentiles of the latency: the time from a complete input file to its published outputs."""
    if not source.latencies:
        return
    in_order = sorted(source.latencies)
    at = {f"p{part}": in_order[min(len(in_order) - 1, len(in_order) * part // 100)] for part in (50, 95)}
    at["max"] = in_order[-1]
    if as_json:
        line = {"event": "latency", "items": len(in_order), **at}
        say_json(line)
    words = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in at.items())
    say(f"latency from complete file to output: {words} (the last {len(in_order)} items)", err=as_json)
