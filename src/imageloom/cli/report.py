"""`imageloom report`."""

from __future__ import annotations

from pathlib import Path

import click

from imageloom.cli import options
from imageloom.cli.text import say, say_csv, say_json


@click.command("report", short_help="Show where the time of a run went, as an HTML page and more.")
@click.argument("job")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="The page.  [report-JOB.html]"
)
@click.option("--json", "json_", is_flag=True, help="The figures as JSON, on stdout.")
@click.option("--csv", "csv_", is_flag=True, help="A line for each attempt, on stdout.")
@click.option("--svg", type=click.Path(file_okay=False, path_type=Path), help="A folder for plots as SVG.")
@click.option("--png", type=click.Path(file_okay=False, path_type=Path), help="A folder for plots as PNG.")
@options.ledger_option
def command(
    job: str,
    out: Path | None,
    json_: bool,
    csv_: bool,
    svg: Path | None,
    png: Path | None,
    ledger: Path | None,
) -> None:
    """Report on JOB: its number, or `last`.

    What was run, throughput, a timeline of the workers, cores and memory, latencies, failures, before and after:
    one HTML file that needs no network, and a summary here. With --json or --csv that alone goes to stdout, and
    there is no page without --out.

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
        raise click.UsageError("--json and --csv both go to stdout: give one of them")
    with Ledger(ledger) as book:
        record, timeline = report.recorded(book, number)
        found = figures(record, timeline)
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
    """The job's number; None for the last one."""
    if job == "last":
        return None
    if not job.isdecimal():
        raise click.BadParameter(f"{job!r} is neither a job's number nor 'last'", param_hint="JOB")
    return int(job)
