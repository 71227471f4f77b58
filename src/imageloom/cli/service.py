"""Shared by `server`, `node` and `submit`: credential options, flags over configuration files, signals."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import click

from imageloom.cli.signals import finish_on_signals

if TYPE_CHECKING:
    from imageloom.engines.nodes.config import Credentials

C = TypeVar("C", bound=Callable[..., Any])


def credential_options(command: C) -> C:
    """Add the options for credential files."""
    for name, text in (
        ("authority", "File with the certificates to trust when connecting, in PEM."),
        ("key", "File with the private key of --certificate, in PEM."),
        ("certificate", "File with the TLS certificate of this side, in PEM."),
        ("token", "File whose first line is the secret that clients, server and nodes share."),
    ):
        command = click.option(f"--{name}", type=click.Path(dir_okay=False), metavar="FILE", help=text)(
            command
        )
    return command


def overruled(credentials: Credentials, **flags: str | None) -> Credentials:
    """The credentials of a configuration file, overridden by the flags that are given."""
    from msgspec.structs import replace

    return replace(credentials, **{name: value for name, value in flags.items() if value})


def nodes_extra() -> None:
    """Raise MissingExtra if gRPC is not installed. It is not imported: a node must fork first."""
    from imageloom.errors import MissingExtra

    if not all(find_spec(name) for name in ("grpc", "grpc_health", "grpc_reflection")):
        raise MissingExtra("the service", "nodes")


def leave_on_signals() -> threading.Event:
    """An event that is set by the first SIGTERM or Ctrl-C. A second signal ends the program at once."""
    leaving = threading.Event()
    finish_on_signals(leaving.set, "leaving", "stop", end=lambda: os._exit(130))
    return leaving
