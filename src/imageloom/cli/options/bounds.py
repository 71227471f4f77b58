"""Options that limit what an image may cost, and where it is decoded."""

from __future__ import annotations

import click

from imageloom.cli.options.values import C, Quantity, together
from imageloom.errors import UsageError
from imageloom.system.sandbox import Mode, Sandbox


def limit_options(command: C) -> C:
    """Add the limits that are checked against an image's header, before it is decoded."""
    return together(
        command,
        click.option(
            "--max-pixels",
            type=Quantity(),
            default="512M",
            show_default=True,
            help="Refuse images with more pixels than this.",
        ),
        click.option(
            "--max-file-size",
            type=Quantity(),
            default="4G",
            show_default=True,
            help="Refuse files with more bytes than this.",
        ),
        click.option(
            "--max-expansion",
            type=Quantity(),
            default="1000",
            show_default=True,
            help="Refuse files that decode to more than this many bytes per byte of the file. Files that "
            "decode to at most 64 MB are not checked.",
        ),
    )


memory_option = click.option(
    "--memory",
    type=Quantity(),
    show_default="half of this machine's memory",
    help="Maximum memory of all items in progress together, in bytes.",
)


tile_option = click.option(
    "--tile",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Process an image in tiles: if it is large or the only one in progress (auto), always, or never.",
)


def sandbox_options(command: C) -> C:
    """Add --sandbox and --untrusted."""
    return together(
        command,
        click.option(
            "--sandbox",
            type=click.Choice(["auto", "require", "off"]),
            show_default="off, or auto with --untrusted",
            help="Decode images and run operators in processes that can do nothing else: with the "
            "restrictions that the kernel has (auto), only if it has all of them (require), or not (off).",
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
    from imageloom.worker.sandbox import check

    if untrusted and mode == "off":
        raise UsageError("--untrusted needs a sandbox: it excludes --sandbox off")
    sandbox = Sandbox(mode or ("auto" if untrusted else "off"), untrusted, timeout=timeout, memory=memory)
    check(sandbox)
    return sandbox
