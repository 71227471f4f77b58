"""Options that connect to a server or a cluster."""

from __future__ import annotations

import re
from collections.abc import Callable

import click
from click.core import ParameterSource

from imageloom.cli.options.values import C
from imageloom.errors import StorageError, UsageError

_CONNECT = "imageloom.connect"


_SECRET = r"(?i)//[^/?#]*:[^@]*@|[?&]\w*(password|token|secret)="


def connect_options(text: str, is_needed: bool = False) -> Callable[[C], C]:
    """Add --connect and --connect-file. The command gets `connect`: an address, or "" if neither is given.

    Args:
        text: the help of --connect.
        is_needed: refuse a command line without an address.
    """

    def read(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
        if path is None:
            return
        try:
            with open(path, encoding="utf-8") as file:
                address = file.readline().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read {path} (--connect-file): {error}") from None
        if not address:
            raise UsageError(f"the first line of {path} (--connect-file) is empty: put the address there")
        context.meta[_CONNECT] = address

    def check(context: click.Context, parameter: click.Parameter, address: str | None) -> str:
        if context.get_parameter_source("connect") is ParameterSource.COMMANDLINE:
            if _CONNECT in context.meta:
                raise click.UsageError("give --connect or --connect-file, not both")
            if re.search(_SECRET, address or ""):
                raise UsageError(
                    "--connect: the address contains a password, and all users of this machine can read a command "
                    "line: put the address into the variable IMAGELOOM_CONNECT, or into a file (--connect-file)"
                )
        address = context.meta.get(_CONNECT) or address or ""
        if is_needed and not address:
            raise click.MissingParameter(ctx=context, param=parameter)
        return address

    def add(command: C) -> C:
        for option in (
            click.option(
                "--connect-file",
                type=click.Path(dir_okay=False),
                is_eager=True,
                expose_value=False,
                callback=read,
                metavar="FILE",
                help="Read the address from the first line of this file. Use it for an address with a password.",
            ),
            click.option(
                "--connect",
                default="",
                metavar="ADDRESS",
                envvar="IMAGELOOM_CONNECT",
                callback=check,
                help=text,
            ),
        ):
            command = option(command)
        return command

    return add
