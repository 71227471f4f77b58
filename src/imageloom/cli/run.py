"""`imageloom run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imageloom.cli import options
from imageloom.cli.arguments import collect_garbage, job_and_engine
from imageloom.cli.options.values import Number, Whole
from imageloom.cli.signals import finish_on_signals
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.engines import Engine
    from imageloom.model import Job
    from imageloom.records.events import Listener
    from imageloom.system.sandbox import Sandbox


@click.command("run", short_help="Run a pipeline over a folder of images.")
@click.argument("arguments", nargs=-1, required=True, metavar="[PIPELINE] SOURCE [SINK]")
@options.outputs_option
@options.operators_option
@options.recipe_options
@options.name_option
@click.option("--flatten", is_flag=True, help="Put all outputs into one folder, as --name '{stem}.{ext}'.")
@options.in_place_option
@options.durable_option("off, except with --in-place")
@click.option(
    "-j",
    "--jobs",
    type=Whole(0, 1024),
    show_default="one per core; 0 with --bind",
    help="Number of workers on this machine.",
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Engine that runs the workers: auto, serial, threads, processes, pipeline, zeromq, redis, nodes, mpi, "
    "dask or ray.",
)
@options.connect_options(
    "Address of an existing cluster or server, or of nodes (HOST:PORT,...). Without it, the engine starts its own."
)
@click.option(
    "--nodes",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="YAML file with the addresses of running nodes and the policy that chooses among them.",
)
@click.option(
    "--threads",
    type=Whole(1, 64),
    default=1,
    show_default=True,
    help="Number of threads in each worker process.",
)
@click.option(
    "--bind",
    default="",
    metavar="ADDRESS",
    help="Address to listen on for `imageloom worker`, such as tcp://127.0.0.1:5555.",
)
@click.option(
    "--relay",
    metavar="HOST:PORT",
    help="Serve local SOURCE and SINK to workers on machines that share no storage with this one: they connect to "
    "this address of this machine. Start them with --root relay://HOST:PORT.",
)
@click.option("--keys", default="", metavar="FILE", help="Key file of this run, made by `imageloom keys`.")
@click.option(
    "--timeout",
    type=Number(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Time-out of one item in a worker process or in a sandboxed process, in seconds.",
)
@options.document_options
@options.include_option
@options.exclude_option
@options.list_options
@options.if_exists_option
@options.adopt_option
@options.prune_options
@options.retry_failed_option
@options.shard_option
@options.memory_option
@options.tile_option
@click.option(
    "--items-at-once",
    type=Whole(0),
    default=0,
    show_default="0: as many as memory and workers allow",
    help="Maximum number of images in progress at the same time.",
)
@click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    show_default="in SINK, if it is a local folder",
    help="Folder for temporary pixel files of large images.",
)
@click.option(
    "--in-flight",
    type=Whole(1, 1024),
    show_default="tuned automatically",
    help="Number of storage requests in flight, for remote sources and sinks.",
)
@options.links_option("follow", "inside", "refuse")
@options.accept_host_keys_option
@options.sandbox_options
@options.limit_options
@options.ledger_option
@click.option(
    "--timeline/--no-timeline",
    default=True,
    show_default=True,
    help="Record the measurements that `imageloom report` needs.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write an HTML report to this file when the run ends.",
)
@click.option(
    "--manifest",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="When the run ends, write which outputs each image has to this file: .json, or .html with <picture> "
    "elements. Repeatable.",
)
@click.option(
    "--sizes",
    default="100vw",
    show_default=True,
    help="How wide pictures are shown, as in the attribute sizes of HTML, for --manifest.",
)
@click.option("--dry-run", is_flag=True, help="Print what the run would do, without doing it.")
@options.json_option
@options.verbose_option
@options.quiet_option
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append one line per finished, failed, retried or skipped item to this file.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of the lines in the log file.",
)
@options.health_option
@options.otlp_options
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
    relay: str | None,
    otlp: str | None,
    trace_sample: float,
    prune: bool,
    yes: bool,
    manifest: tuple[str, ...],
    sizes: str,
    **given: Any,
) -> int:
    """Run PIPELINE over the images of SOURCE (a folder or a file) and write the outputs into the folder SINK.

    SOURCE and SINK are paths or addresses: s3://bucket/folder, gs://, az://, gdrive://, sftp://. SOURCE may also
    be a zip:// or tar:// archive.

    PIPELINE is a text such as 'resize 50% | grayscale', or the name of a YAML file with a pipeline or a recipe.
    To make several outputs of each image, give --output several times instead of PIPELINE: the image is decoded
    once, and each output has its own folder in SINK. Items that an earlier run finished with the same pipeline and
    the same input are skipped. To resume an interrupted run, repeat its command.

    \b
    imageloom run 'resize 512x512 | grayscale' photos/ out/
    imageloom run 'resize 1600x1600 fit=inside' photos/ web/ --quality 80 -j 4
    imageloom run 'gaussian_blur 2 | canny 60 150' photos/ edges/ --format png
    imageloom run edges.yaml photos/ edges/ --include '*.jpg' --exclude 'draft-*'
    imageloom run 'resize 50%' photos/ half/ --retry-failed
    imageloom run --output gray='grayscale' --output edges='grayscale | canny 100 200' photos/ out/
    imageloom run 'rotate 90' scans/ --in-place
    imageloom run 'resize 512x' s3://photos/2026 s3://web/2026
    imageloom run 'resize 50%' photos/ half/ --shard 3/16
    imageloom run 'resize 50%' photos/ half/ --report report.html
    imageloom run 'resize 50%' photos/ half/ --engine redis --connect rediss://host:6379 --relay 10.0.0.5:7443
    imageloom run 'my_filter 3 | resize 50%' photos/ out/ --operators my_ops.py
    imageloom run 'when portrait | resize 2000x' photos/ out/ --max-bytes 500k
    imageloom run 'resize 100%' photos/ out/ --only-if-smaller --effort 9
    imageloom run 'resize 100%' photos/ web/ --widths 320,640,1280 --formats avif,webp,jpeg --manifest web.html
    imageloom run 'resize 50%' photos/ out/ --name '{exif.DateTimeOriginal:%Y/%m:-undated}/{stem}.{ext}'

    Exit codes: 0 all items done; 1 some items failed; 2 usage error; 3 no image matched in SOURCE; 4 storage,
    access or engine error, or a full sink; 130 interrupted (repeat the command to resume).
    """
    if engine == "processes":  # the workers' modules load while this process loads its own
        from imageloom.worker.fork_server import warm_up

        warm_up()
    from imageloom.cli.reporters import Reporters
    from imageloom.driver.run import Driver
    from imageloom.engines import opened_engine
    from imageloom.records.ledger import Ledger
    from imageloom.records.recorder import Recorder

    if yes and not prune:
        raise click.UsageError("--yes is about --prune: give both")
    if report and (dry_run or not timeline):
        raise click.UsageError("--report needs a recorded timeline: it excludes --dry-run and --no-timeline")
    if report and not report.absolute().parent.is_dir():
        raise click.UsageError(f"--report {report}: there is no folder {report.absolute().parent}")
    if manifest:
        from imageloom.interface.manifests import check_manifests, write_manifests  # few runs need it

        check_manifests(manifest)
    collect_garbage()
    job, chosen, settings = job_and_engine(arguments, engine, given)
    if relay:
        from imageloom.service.relay.hosting import prepared  # few runs have one

        job, settings = prepared(job, settings, relay)
    with (
        opened_engine(chosen, settings) as own,  # first: an MPI job's other ranks stay there
        _relayed(job, own, relay) as opened,
        Reporters(job, json_, verbose or dry_run, quiet, log_file, log_format) as reporters,
        Ledger(ledger, scratch=dry_run) as book,
        Recorder(book.path, job, chosen, opened.capacity, timeline and not dry_run) as recorder,
        _measured(health, otlp, trace_sample, opened, job.sandbox) as more,
    ):
        driver = Driver(job, opened, book, chosen, (*recorder.listeners, *reporters.listeners, *more))
        if prune:
            from imageloom.cli.pruning import confirm  # few runs need it

            confirm(driver.prune(), yes, dry_run)
        if dry_run:
            summary = driver.preview()
            reporters.finish(summary, "would be done", is_recorded=False)
            return summary.exit_code
        finish_on_signals(driver.stop, "stopping", "stop", has_begun=lambda: driver.has_begun)
        summary = driver.run()
        reporters.finish(summary, "done", ledger)
        if manifest:
            write_manifests(driver, manifest, sizes)
        recorder.close()
        if report:
            from imageloom.report import write_page

            write_page(report, book, summary.job)
    return summary.exit_code


@contextmanager
def _relayed(job: Job, engine: Engine, relay: str | None) -> Iterator[Engine]:
    """The engine, whose workers reach source and sink through a relay if an address is given."""
    if not relay:
        yield engine
        return
    from imageloom.service.relay.hosting import relayed

    with relayed(job, engine, relay) as found:
        say(f"relay {found.address}: start workers with --root {found.address}", err=True)
        yield found


@contextmanager
def _measured(
    health: str | None, otlp: str | None, share: float, engine: Engine, sandbox: Sandbox
) -> Iterator[list[Listener]]:
    """Serve health probes and send telemetry, if addresses are given; yield the listeners that this needs."""
    if not health and not otlp:
        yield []
        return
    from imageloom.service.health import Health, Tally

    tally = Tally(sandbox)
    listeners: list[Listener] = [tally]
    with ExitStack() as stack:
        if health:
            served = stack.enter_context(
                Health(health, lambda: tally.has_begun, lambda: tally.of_run(engine))
            )
            say(f"health {served.address}", err=True)
        if otlp:
            from imageloom.service.telemetry import Telemetry

            sent = Telemetry(otlp, share, lambda: tally.of_run(engine), lambda text: say(text, err=True))
            listeners.append(stack.enter_context(sent))
        yield listeners
