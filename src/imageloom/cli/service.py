"""What `server`, `node` and `submit` share: options, configuration that flags overrule, and leaving on signals."""

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
    """Files that say who this side is, and whom it trusts."""
    for name, text in (
        ("authority", "Certificates that are trusted: PEM."),
        ("key", "The certificate's private key: PEM."),
        ("certificate", "What this side shows who connects to it: PEM."),
        ("token", "A secret that both sides have, in the file's first line."),
    ):
        command = click.option(f"--{name}", type=click.Path(dir_okay=False), metavar="FILE", help=text)(
            command
        )
    return command


def overruled(credentials: Credentials, **flags: str | None) -> Credentials:
    """The credentials of a file, where no flag says otherwise."""
    from msgspec.structs import replace

    return replace(credentials, **{name: value for name, value in flags.items() if value})


def nodes_extra() -> None:
    """Raise MissingExtra where gRPC is not installed. It is not loaded: a node must not do so yet."""
    from imageloom.errors import MissingExtra

    if not all(find_spec(name) for name in ("grpc", "grpc_health", "grpc_reflection")):
        raise MissingExtra("the service", "nodes")


def leave_on_signals() -> threading.Event:
    """An event that the first SIGTERM or Ctrl-C sets; one more ends the program at once, whatever still runs."""
    leaving = threading.Event()
    finish_on_signals(leaving.set, "leaving", "stop", end=lambda: os._exit(130))
    return leaving
