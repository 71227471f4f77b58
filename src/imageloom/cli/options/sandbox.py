"""The options --sandbox and --untrusted, which several commands share."""

from __future__ import annotations

import click
from msgspec.structs import replace

from imageloom.cli.options.values import C, together
from imageloom.errors import UsageError
from imageloom.system.sandbox import Mode, Sandbox


def sandbox_options(command: C) -> C:
    """Add --sandbox and --untrusted, for a command that runs a job itself."""
    return _options(command, "auto", "all but formats with well-tested decoders")


def sandbox_options_of_service(command: C) -> C:
    """The same for a command that processes the files of others: see `sandbox_of_service`."""
    return _options(command, "auto", "all of them")


def sandbox_options_of_worker(command: C) -> C:
    """The same for a command that processes tasks, which have a sandbox themselves: see `sandbox_of_worker`."""
    return _options(command, "as each task says", "all but formats with well-tested decoders")


def _options(command: C, default: str, automatic: str) -> C:
    """The options.

    Args:
        default: what --sandbox is if it is not given, for the help.
        automatic: which images `auto` decodes so, for the help.
    """
    return together(
        command,
        click.option(
            "--sandbox",
            type=click.Choice(["auto", "require", "off"]),
            show_default=default,
            help="Decode images and run operators in sandboxed processes, which cannot use the network or other "
            f"files. auto: {automatic}, with the restrictions that the kernel offers; require: all formats, and "
            "an error if the kernel lacks a restriction; off: none.",
        ),
        click.option(
            "--untrusted",
            is_flag=True,
            help="The images may be hostile: process each one in a new sandboxed process.",
        ),
    )


def sandbox_of(mode: Mode | None, untrusted: bool, timeout: float = 0.0, memory: int = 0) -> Sandbox:
    """The sandbox from the options of `sandbox_options`.

    Raises:
        UsageError: the options contradict each other, or this machine lacks what they need.
    """
    from imageloom.cli import supervisor
    from imageloom.worker.sandbox import check

    if untrusted and mode == "off":
        raise UsageError("--untrusted needs a sandbox: it excludes --sandbox off")
    mode = mode or "auto"
    shortcut = mode == "auto" and not untrusted and not supervisor.has_crashed
    sandbox = Sandbox(mode, untrusted, shortcut, timeout, memory)
    check(sandbox)
    return sandbox


def sandbox_of_service(mode: Mode | None, untrusted: bool, timeout: float, memory: int = 0) -> Sandbox:
    """Like `sandbox_of`. A service processes no item in its own processes, unless the sandbox is off."""
    return replace(sandbox_of(mode, untrusted, timeout, memory), shortcut=False)


def sandbox_of_worker(given: Sandbox, mode: Mode | None) -> Sandbox:
    """What a worker adds to the sandbox of its tasks: without --sandbox and --untrusted only limits."""
    return given if mode or given.untrusted else replace(given, mode="off", shortcut=False)
