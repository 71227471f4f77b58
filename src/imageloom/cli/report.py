"""`imageloom report`."""

from __future__ import annotations

from pathlib import Path

import click

from imageloom.cli import options
from imageloom.cli.text import say, say_csv, say_json


@click.command("report", short_help="Show how a run spent its time, as HTML, JSON, CSV, SVG or PNG.")
@click.argument("job")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="report-JOB.html",
    help="File for the HTML page.",
)
@click.option("--json", "json_", is_flag=True, help="Print the figures as JSON to stdout.")
@click.option("--csv", "csv_", is_flag=True, help="Print one CSV line per attempt to stdout.")
@click.option(
    "--svg",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the plots as SVG files into this folder.",
)
@click.option(
    "--png",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write the plots as PNG files into this folder.",
)
@options.past_ledger_option
def command(
    job: str,
    out: Path | None,
    json_: bool,
    csv_: bool,
    svg: Path | None,
    png: Path | None,
    ledger: Path | None,
) -> None:
    """Write an HTML report on the run JOB, and print a summary. JOB is a job's number, or `last`.

    The report shows the pipeline, the throughput, a timeline of the workers, CPU and memory use, latencies,
    failures, and images before and after. It is one HTML file that needs no network. With --json or --csv, only
    that output is printed, and the HTML page is written only if --out is given.

    \b
    imageloom report last
    imageloom report 7 --out report.html
    imageloom report last --json
    imageloom report 7 --csv > attempts.csv
    imageloom report last --svg plots/ --png plots/
    """
    from imageloom import report
    from imageloom.records.ledger import Ledger
    from imageloom.report.figures import figures

    number = _number(job)
    if json_ and csv_:
        raise click.UsageError("give --json or --csv, not both: each prints to stdout")
    with Ledger(ledger) as book:
        record, timeline = report.recorded(book, number)
        found = figures(record, timeline, book.items(record.id, lost=True))
        if json_:
            say_json(found)
        elif csv_:
            from imageloom.report.text import table

            say_csv(table(timeline))
        else:
            from imageloom.report.text import summary

            say(*summary(found).split("\n"))
            out = out or Path(f"report-{found.job}.html")
        if out:
            report.write_page(out, book, found.job)
            say("", str(out), err=json_ or csv_)
    if svg or png:
        report.write_plots(found, timeline, svg, png)


def _number(job: str) -> int | None:
    """The job's number; None for `last`."""
    if job == "last":
        return None
    if not job.isdecimal():
        raise click.BadParameter(
            f"{job!r} is neither a job's number (see `imageloom jobs`) nor 'last'", param_hint="JOB"
        )
    return int(job)
