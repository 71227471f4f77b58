"""Option types and options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from imageloom.errors import StorageError, UsageError
from imageloom.model import Decode, Keep, Limits, Recipe

C = TypeVar("C", bound=Callable[..., Any])

_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Quantity(click.ParamType[int]):
    """A whole number with k, M, G or T for its thousands: 512M, 4GB."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", str(value).strip().lower())
        if found is None or (number := int(float(found[1]) * _SCALE[found[2]])) <= 0:
            self.fail(f"{value!r} is no positive number such as 512M or 4GB", param, ctx)
        return number


def recipe_options(command: C) -> C:
    """What decides about the outputs' bytes."""
    for option in reversed(
        [
            click.option(
                "--format",
                "format_",
                metavar="FORMAT",
                help="Of the outputs: jpeg, png, webp, tiff, bmp, pnm, avif, zarr.  [each input's]",
            ),
            click.option(
                "--quality", type=click.IntRange(1, 100), help="1 to 100.  [jpeg 85, webp 80, avif 60]"
            ),
            click.option(
                "--decode",
                type=click.Choice(["safe", "fast", "exact"]),
                default="safe",
                show_default=True,
                help="How far decoding may shrink a JPEG: to twice the target, to the target, or not.",
            ),
            click.option(
                "--metadata",
                type=click.Choice(["keep", "strip"]),
                default="keep",
                show_default=True,
                help="EXIF, XMP and colour profile; an RGB profile is dropped where the result is gray.",
            ),
        ]
    ):
        command = option(command)
    return command


operators_option = click.option(
    "--operators",
    multiple=True,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="A Python file with operators of your own, or of a recipe; it is run. Repeatable.",
)


def limit_options(command: C) -> C:
    """What is refused from the header."""
    for option in reversed(
        [
            click.option(
                "--max-pixels", type=Quantity(), default="512M", show_default=True, help="Of one image."
            ),
            click.option(
                "--max-file-size", type=Quantity(), default="4G", show_default=True, help="In bytes."
            ),
            click.option(
                "--max-expansion",
                type=Quantity(),
                default="1000",
                show_default=True,
                help="Decoded bytes for each byte of the file, above 64 MB.",
            ),
        ]
    ):
        command = option(command)
    return command


def links_option(default: str, *others: str) -> Callable[[C], C]:
    """Which links in a local source are followed."""
    choices = click.Choice([default, *others])
    return click.option(
        "--links",
        type=choices,
        default=default,
        show_default=True,
        help="Links in SOURCE: follow all, only those that lead to a place inside of it, or none; others fail.",
    )


def _accept_host_keys(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    """For this process and those that it starts."""
    if is_given:
        os.environ["IMAGELOOM_ACCEPT_HOST_KEYS"] = "1"


accept_host_keys_option = click.option(
    "--accept-host-keys",
    is_flag=True,
    expose_value=False,
    callback=_accept_host_keys,
    help="Accept the key of an SFTP host at the first visit, and write it into ~/.ssh/known_hosts.",
)

ledger_option = click.option(
    "--ledger", type=click.Path(dir_okay=False, path_type=Path), help="The file that remembers what was done."
)

health_option = click.option(
    "--health", metavar="[HOST:]PORT", help="Answer /health, /ready and /metrics over HTTP.  [not]"
)


_CONNECT = "imageloom.connect"
_SECRET = r"(?i)//[^/?#]*:[^@]*@|[?&]\w*(password|token|secret)="


def connect_options(text: str, is_needed: bool = False) -> Callable[[C], C]:
    """--connect and --connect-file, which give a command `connect`: an address, empty where there is none.

    Args:
        text: the help.
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
            raise UsageError(f"{path} (--connect-file): its first line is empty, where the address should be")
        context.meta[_CONNECT] = address

    def check(context: click.Context, parameter: click.Parameter, address: str | None) -> str:
        if context.get_parameter_source("connect") is ParameterSource.COMMANDLINE:
            if _CONNECT in context.meta:
                raise click.UsageError("give --connect or --connect-file, not both")
            if re.search(_SECRET, address or ""):
                raise UsageError(
                    "--connect: all users of this machine see the password of an address on a command line: give "
                    "the address in the variable IMAGELOOM_CONNECT, or in a file: --connect-file FILE"
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
                help="A file whose first line is the address, where that has a password.",
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


def make_recipe(
    pipeline: str | None,
    outputs: tuple[str, ...],
    operators: tuple[str, ...],
    format_: str | None,
    quality: int | None,
    decode: Decode,
    metadata: Keep,
) -> Recipe:
    """The recipe that the arguments mean; the flags fill in what the recipe leaves open."""
    from msgspec.structs import replace

    from imageloom.recipes import recipe as recipes

    if pipeline is not None:
        found = recipes.read_recipe(pipeline, operators)
    else:
        loaded = recipes.with_operators(Recipe(()), operators)
        found = replace(loaded, outputs=tuple(recipes.parse_output(text) for text in outputs))
    chosen = recipes.parse_format(format_) if format_ is not None else None
    return replace(
        found,
        outputs=tuple(
            replace(
                output,
                format=output.format or chosen,
                quality=output.quality if output.quality is not None else quality,
            )
            for output in found.outputs
        ),
        decode=decode if found.decode == "safe" else found.decode,
        metadata=metadata if found.metadata == "keep" else found.metadata,
    )


def limits(max_pixels: int, max_file_size: int, max_expansion: int) -> Limits:
    return Limits(max_pixels, max_file_size, max_expansion)
