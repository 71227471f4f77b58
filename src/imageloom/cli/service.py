"""What `server`, `node` and `submit` share: options, configuration that flags overrule, and leaving on signals."""

from __future__ import annotations

import signal
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import click

from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.nodes.config import Credentials

C = TypeVar("C", bound=Callable[..., Any])

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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


def block_signals() -> None:
    """Have SIGTERM and Ctrl-C wait for `await_signal`; before any thread is started, which then has it so too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def await_signal() -> None:
    """Wait until the program is asked to leave; if it is asked once more, it ends at once."""
    signal.sigwait(SIGNALS)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    say("leaving: finishing what is in hand (once more to stop at once)", err=True)
