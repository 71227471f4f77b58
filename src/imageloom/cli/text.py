"""The only module that writes to stdout and stderr. It escapes control characters in each line."""

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
        lines: each is one line; a line break inside it, as in a file name, is written as an escape.
        err: write to stderr.
        dim: write less brightly on a terminal.
    """
    for line in lines:
        shown = printable(line)
        click.echo(click.style(shown, dim=True) if dim else shown, err=err)


def say_json(data: object) -> None:
    """Write an object as one line of JSON to stdout."""
    sys.stdout.write(json_line(data) + "\n")


def say_csv(lines: Iterable[str]) -> None:
    """Write lines made by `csv_line` to stdout."""
    sys.stdout.writelines(lines)


def say_amid(text: str) -> None:
    """Write a line to stderr from any thread. It bypasses sys.stderr, where another line may be half written."""
    os.write(2, f"{printable(text)}\n".encode())


def say_refusal(error: click.ClickException) -> None:
    """Write click's usage error, with the command's usage line, to stderr."""
    shown = io.StringIO()
    error.show(shown)
    say(*shown.getvalue().rstrip("\n").split("\n"), err=True)
