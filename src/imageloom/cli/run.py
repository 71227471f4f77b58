"""`imageloom run`."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from imageloom.cli import options
from imageloom.cli.options import Quantity

if TYPE_CHECKING:
    from imageloom.model import Decode, IfExists, Keep
    from imageloom.run import Driver


@click.command("run", short_help="Run a pipeline over a folder of images.")
@click.argument("pipeline")
@click.argument("source", type=click.Path())
@click.argument("sink", type=click.Path(file_okay=False))
@options.recipe_options
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), help="Workers.  [one for each core]")
@click.option("--engine", default="auto", show_default=True, metavar="NAME", help="serial, threads, or auto.")
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
@options.limit_options
@options.ledger_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "json_", is_flag=True, help="One JSON object for each item and a summary, on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each item.")
@click.option("-q", "--quiet", is_flag=True, help="Failures and the last line only.")
@click.option("--log-file", type=click.Path(dir_okay=False, path_type=Path), help="A line for each event.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    pipeline: str,
    source: str,
    sink: str,
    format_: str | None,
    quality: int | None,
    decode: Decode,
    metadata: Keep,
    jobs: int | None,
    engine: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    if_exists: IfExists,
    retry_failed: bool,
    memory: int | None,
    max_pixels: int,
    max_file_size: int,
    max_expansion: int,
    ledger: Path | None,
    dry_run: bool,
    json_: bool,
    verbose: bool,
    quiet: bool,
    log_file: Path | None,
    log_format: str,
) -> int:
    """Run PIPELINE over the images of SOURCE (a folder or a file) into the folder SINK.

    PIPELINE is a text, or the name of a YAML file. What was done before, with the same pipeline and the same
    input, is not done again: an interrupted run is resumed by the same command.

    \b
    imageloom run 'resize 512x512 | grayscale' photos/ out/
    imageloom run 'resize 1600x1600 fit=inside' photos/ web/ --quality 80 -j 4
    imageloom run 'gaussian_blur 2 | canny 60 150' photos/ edges/ --format png
    imageloom run edges.yaml photos/ edges/ --include '*.jpg' --exclude 'draft-*'
    imageloom run 'resize 50%' photos/ half/ --retry-failed

    Exit codes: 0 all done; 1 some items failed; 2 usage; 3 nothing matched; 4 storage or access; 130
    interrupted, to be resumed.
    """
    from imageloom.api import choose_engine
    from imageloom.cli.reporters import Reporters
    from imageloom.engines import open_engine
    from imageloom.ledger import Ledger
    from imageloom.model import Job
    from imageloom.run import Driver

    job = Job(
        source,
        sink,
        options.read_recipe(pipeline, format_, quality, decode, metadata),
        options.limits(max_pixels, max_file_size, max_expansion),
        include,
        exclude,
        if_exists,
        retry_failed,
        memory or 0,
    )
    name, workers = choose_engine(engine, jobs or 0)
    with (
        Reporters(job, json_, verbose or dry_run, quiet, log_file, log_format) as reporters,
        Ledger(ledger, scratch=dry_run) as book,
        closing(open_engine(name, workers)) as opened,
    ):
        driver = Driver(job, opened, book, name, reporters.listeners)
        if dry_run:
            summary = driver.preview()
            reporters.finish(summary, "would be done")
            return 1 if summary.failed else 0 if summary.total else 3
        _stop_on_signals(driver)
        summary = driver.run()
        reporters.finish(summary, "done")
    return summary.exit_code


def _stop_on_signals(driver: Driver) -> None:
    """The first Ctrl-C or SIGTERM finishes what is in hand, the second one ends the program."""
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        click.echo("stopping: finishing what is in hand (once more to stop at once)", err=True)
        driver.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
