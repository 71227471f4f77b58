"""Options of what a command records and prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from imageloom.cli.options.values import C, Number, together


def durable_option(default: str) -> Callable[[C], C]:
    """Add --durable: None if it is not given.

    Args:
        default: when it is on without being given, for the help.
    """
    return click.option(
        "--durable/--no-durable",
        default=None,
        show_default=default,
        help="Flush outputs and ledger to the disk, so that a power cut loses no image that is recorded as done. "
        "Object stores do so themselves.",
    )


past_ledger_option = click.option(
    "--ledger",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default="in the user's state folder",
    help="Database file that recorded the runs.",
)

ledger_option = click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="in the user's state folder",
    help="Database file that records runs and finished items.",
)


health_option = click.option(
    "--health",
    metavar="[HOST:]PORT",
    show_default="off",
    help="Serve /health, /ready and /metrics over HTTP at this address.",
)


def otlp_options(command: C) -> C:
    """Add --otlp and --trace-sample."""
    return together(
        command,
        click.option(
            "--otlp",
            metavar="URL",
            show_default="off",
            help="Send metrics, and traces of some items, to this OpenTelemetry collector, by OTLP over HTTP.",
        ),
        click.option(
            "--trace-sample",
            type=Number(0, 1),
            default=0.01,
            show_default=True,
            help="Share of the done items that --otlp traces. Failed attempts are always traced.",
        ),
    )


json_option = click.option(
    "--json", "json_", is_flag=True, help="Print one JSON object per item and a summary to stdout."
)


verbose_option = click.option("-v", "--verbose", is_flag=True, help="Print one line per item.")


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only failures and the summary.")
