"""Options of what a command records and prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from imageloom.cli.options.values import C


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


json_option = click.option(
    "--json", "json_", is_flag=True, help="Print one JSON object per item and a summary to stdout."
)


verbose_option = click.option("-v", "--verbose", is_flag=True, help="Print one line per item.")


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only failures and the summary.")
