"""Options that limit what an image may cost."""

from __future__ import annotations

import click

from imageloom.cli.options.values import C, Quantity, together


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
