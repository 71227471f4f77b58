"""`imageloom run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import options
from imageloom.cli.arguments import collect_garbage, job_and_engine
from imageloom.cli.options import Quantity
from imageloom.cli.signals import finish_on_signals
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.engines import Engine
    from imageloom.records.events import Listener


@click.command("run", short_help="Run a pipeline over a folder of images.")
@click.argument("arguments", nargs=-1, required=True, metavar="[PIPELINE] SOURCE [SINK]")
@click.option("--output", "outputs", multiple=True, metavar="NAME=PIPELINE", help="An output; repeatable.")
@options.operators_option
@options.recipe_options
@click.option("--name", default="{dir}/{stem}.{ext}", show_default=True, help="Of outputs below the sink.")
@click.option("--flatten", is_flag=True, help="All outputs in one folder: --name '{stem}.{ext}'.")
@click.option("--in-place", is_flag=True, help="Put each output in the place of its input; there is no SINK.")
@click.option(
    "-j", "--jobs", type=click.IntRange(0, 1024), help="Workers here.  [one for each core; with --bind 0]"
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="serial, threads, processes, pipeline, zeromq, redis, nodes, mpi, dask, ray.",
)
@options.connect_options("Of an existing cluster or server, or of nodes: HOST:PORT,...  [one of its own]")
@click.option(
    "--nodes",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="YAML: nodes that are there, and how they are chosen.",
)
@click.option("--threads", type=click.IntRange(1, 64), default=1, help="In each worker process.  [1]")
@click.option(
    "--bind",
    default="",
    metavar="ADDRESS",
    help="Where `imageloom worker` connects to: tcp://127.0.0.1:5555.",
)
@click.option("--keys", default="", metavar="FILE", help="The driver's keys: see `imageloom keys`.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    help="Seconds that an item may take in a worker process.  [600]",
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only such names, as '*.jpg'; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not such names; repeatable.")
@click.option(
    "--if-exists",
    type=click.Choice(["error", "skip", "overwrite"]),
    default="error",
    show_default=True,
    help="What happens where a file that imageloom did not make has an output's name.",
)
@click.option("--retry-failed", is_flag=True, help="Do only the items that failed before.")
@click.option(
    "--memory", type=Quantity(), help="Bytes that the work in hand may need.  [half of the machine's]"
)
@click.option(
    "--tile",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Do images in tiles: where they are large or alone, always, never.",
)
@click.option(
    "--items-at-once", type=click.IntRange(0), default=0, help="Images under way together.  [what fits]"
)
@click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="A folder for large images' pixels.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 1024),
    help="Requests in flight on stores that are not local folders.  [found by measuring]",
)
@options.links_option("follow", "inside", "refuse")
@options.accept_host_keys_option
@options.limit_options
@options.ledger_option
@click.option(
    "--timeline/--no-timeline", default=True, help="Record what is measured, for 'report'.  [recorded]"
)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML report.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "json_", is_flag=True, help="One JSON object for each item and a summary, on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each item.")
@click.option("-q", "--quiet", is_flag=True, help="Failures and the last line only.")
@click.option("--log-file", type=click.Path(dir_okay=False, path_type=Path), help="A line for each event.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@options.health_option
def command(
    arguments: tuple[str, ...],
    engine: str,
    ledger: Path | None,
    timeline: bool,
    report: Path | None,
    dry_run: bool,
    json_: bool,
    verbose: bool,
    quiet: bool,
    log_file: Path | None,
    log_format: str,
    health: str | None,
    **given: Any,
) -> int:
    """Run PIPELINE over the images of SOURCE (a folder or a file) into the folder SINK. Each is a path or an
    address, as s3://bucket/folder, gs://, az://, gdrive://, sftp://, and zip:// or tar:// to read from.

    PIPELINE is a text, or the name of a YAML file with a pipeline or a recipe. With --output instead of it,
    each image is decoded once for several outputs, each in a folder of its own. What was done before, with the
    same pipeline and the same input, is not done again: an interrupted run is resumed by the same command.

    \b
    imageloom run 'resize 512x512 | grayscale' photos/ out/
    imageloom run 'resize 1600x1600 fit=inside' photos/ web/ --quality 80 -j 4
    imageloom run 'gaussian_blur 2 | canny 60 150' photos/ edges/ --format png
    imageloom run edges.yaml photos/ edges/ --include '*.jpg' --exclude 'draft-*'
    imageloom run 'resize 50%' photos/ half/ --retry-failed
    imageloom run --output gray='grayscale' --output edges='grayscale | canny 100 200' photos/ out/
    imageloom run 'rotate 90' scans/ --in-place
    imageloom run 'resize 512x' s3://photos/2026 s3://web/2026
    imageloom run 'resize 50%' photos/ half/ --report report.html
    imageloom run 'my_filter 3 | resize 50%' photos/ out/ --operators my_ops.py

    Exit codes: 0 all done; 1 some items failed; 2 usage; 3 nothing matched; 4 storage or access; 130
    interrupted, to be resumed.
    """
    if engine == "processes":  # what it needs is loaded at the same time as what this process needs
        from imageloom.worker.fork_server import warm_up

        warm_up()
    from imageloom.cli.reporters import Reporters
    from imageloom.driver.run import Driver
    from imageloom.engines import open_engine
    from imageloom.records.ledger import Ledger
    from imageloom.records.recorder import Recorder

    if report and (dry_run or not timeline):
        raise click.UsageError("--report needs a run whose timeline is recorded")
    collect_garbage()
    job, chosen, settings = job_and_engine(arguments, engine, given)
    with (
        closing(open_engine(chosen, settings)) as opened,  # first: an MPI job's other ranks stay there
        Reporters(job, json_, verbose or dry_run, quiet, log_file, log_format) as reporters,
        Ledger(ledger, scratch=dry_run) as book,
        Recorder(book.path, job, chosen, opened.capacity, timeline and not dry_run) as recorder,
        _health(health, opened) as more,
    ):
        driver = Driver(job, opened, book, chosen, (*recorder.listeners, *reporters.listeners, *more))
        if dry_run:
            summary = driver.preview()
            reporters.finish(summary, "would be done", is_recorded=False)
            return 1 if summary.failed else 0 if summary.total else 3
        finish_on_signals(driver.stop, "stopping", "stop")
        summary = driver.run()
        reporters.finish(summary, "done", ledger)
        recorder.close()
        if report:
            from imageloom.report import write_page

            write_page(report, book, summary.job)
    return summary.exit_code


@contextmanager
def _health(address: str | None, engine: Engine) -> Iterator[list[Listener]]:
    """Answer probes and scrapers, where an address was given: the listeners that this needs."""
    if not address:
        yield []
        return
    from imageloom.service.health import Health, Tally

    tally = Tally()
    with Health(address, lambda: tally.has_begun, lambda: tally.of_run(engine)) as health:
        say(f"health {health.address}", err=True)
        yield [tally]
