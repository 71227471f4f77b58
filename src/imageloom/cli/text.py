"""The one way to standard output and standard error: what is in a line only shows on a terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable

import click

from imageloom.system.printable import json_line, printable


def say(*lines: str, err: bool = False, dim: bool = False) -> None:
    """Write lines for people.

    Args:
        lines: each one line: a line break within it is a part of a name, and shown as an escape.
        err: on standard error.
        dim: less bright than the others, on a terminal.
    """
    for line in lines:
        shown = printable(line)
        click.echo(click.style(shown, dim=True) if dim else shown, err=err)


def say_json(data: object) -> None:
    """Write an object as a line of JSON on standard output."""
    sys.stdout.write(json_line(data) + "\n")


def say_csv(lines: Iterable[str]) -> None:
    """Write lines that `csv_line` has made on standard output."""
    sys.stdout.writelines(lines)


def say_amid(text: str) -> None:
    """A line on stderr while others write there: past sys.stderr, where another line may be half written."""
    os.write(2, f"{printable(text)}\n".encode())


def say_refusal(error: click.ClickException) -> None:
    """Write what click has against a command line, with its usage."""
    shown = io.StringIO()
    error.show(shown)
    say(*shown.getvalue().rstrip("\n").split("\n"), err=True)
