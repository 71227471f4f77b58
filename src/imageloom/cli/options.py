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
from imageloom.model import MOST_PAGES

C = TypeVar("C", bound=Callable[..., Any])

_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Quantity(click.ParamType[int]):
    """A positive whole number with an optional decimal suffix k, M, G or T, as in 512M or 4GB."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", str(value).strip().lower())
        if found is None or (number := int(float(found[1]) * _SCALE[found[2]])) <= 0:
            self.fail(f"{value!r} is not a positive number, such as 512M or 4GB", param, ctx)
        return number


_STRICT = "imageloom.strict"


def _strict_metadata(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    context.meta[_STRICT] = is_given


def _metadata(context: click.Context, option: click.Parameter, value: str) -> str:
    if not context.meta.get(_STRICT):
        return value
    if value == "strip":
        raise click.UsageError("--strict-metadata excludes --metadata strip")
    return "strict"


def recipe_options(command: C) -> C:
    """Add the options that determine the bytes of the outputs."""
    for option in reversed(
        [
            click.option(
                "--format",
                "format_",
                metavar="FORMAT",
                show_default="the format of the input",
                help="Format of the outputs: jpeg, png, webp, tiff, bmp, pnm, avif, heif, jxl, jp2 or zarr.",
            ),
            click.option(
                "--quality",
                type=click.IntRange(1, 100),
                show_default="jpeg 85, webp 80, avif 60",
                help="Quality of outputs in a lossy format, from 1 to 100.",
            ),
            click.option(
                "--subsampling",
                type=click.Choice(["keep", "444", "422", "420"]),
                show_default="420",
                help="Chroma subsampling of JPEG outputs. keep: that of the input, or 420 if it has none.",
            ),
            click.option(
                "--decode",
                type=click.Choice(["safe", "fast", "exact"]),
                default="safe",
                show_default=True,
                help="How far the decoder may shrink a JPEG before a resize: to twice the target size (safe), to "
                "the target size (fast), or not at all (exact).",
            ),
            click.option(
                "--damage",
                type=click.Choice(["refuse", "warn", "salvage"]),
                default="warn",
                show_default=True,
                help="Which damaged files to accept: none (refuse), those whose pixels are all there (warn), or "
                "all that can be decoded in part (salvage).",
            ),
            click.option(
                "--colors",
                type=click.Choice(["keep", "srgb"]),
                default="keep",
                show_default=True,
                help="Keep the colours as the input states them, by a profile for example, or convert them to "
                "sRGB. Colours that an output cannot state are always converted.",
            ),
            click.option(
                "--gainmap",
                "gain_map",
                type=click.Choice(["keep", "drop"]),
                default="keep",
                show_default=True,
                help="Process the gain map of an Ultra HDR photo along with the photo, or drop it.",
            ),
            click.option(
                "--metadata",
                type=click.Choice(["keep", "strict", "strip"]),
                default="keep",
                show_default=True,
                callback=_metadata,
                help="Keep or remove EXIF, XMP, IPTC, the colour profile and the like. What an output cannot hold "
                "is dropped and reported (keep), or fails the item (strict).",
            ),
            click.option(
                "--strict-metadata",
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_strict_metadata,
                help="The same as --metadata strict.",
            ),
        ]
    ):
        command = option(command)
    return command


class PageChoice(click.ParamType[str | int]):
    """first, all, or the number of a page."""

    name = "pages"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        text = str(value)
        if text in ("first", "all"):
            return text
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_PAGES):
            self.fail(f"{text!r} is not first, all or a number from 1 to {MOST_PAGES}", param, ctx)
        return int(text)


def document_options(command: C) -> C:
    """Add the options for files with pages, and for documents that are drawn."""
    for option in reversed(
        [
            click.option(
                "--pages",
                type=PageChoice(),
                default="first",
                show_default=True,
                metavar="all|first|N",
                help="Pages of TIFF, PDF and HEIF files to process: the first one, each as an item of its own "
                "(needs {page} in --name), or the one with this number.",
            ),
            click.option(
                "--density",
                type=click.IntRange(1, 4800),
                show_default="pdf 150, svg 96",
                help="Pixels per inch at which documents are drawn.",
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
    help="Python file that defines operators: your own, or those that a recipe names. Its code is executed. "
    "Repeatable.",
)


def limit_options(command: C) -> C:
    """Add the limits that are checked against an image's header, before it is decoded."""
    for option in reversed(
        [
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
        ]
    ):
        command = option(command)
    return command


def links_option(default: str, *others: str) -> Callable[[C], C]:
    """Add --links: which symbolic links in a local source are followed."""
    choices = click.Choice([default, *others])
    can_follow = "follow" in choices.choices
    return click.option(
        "--links",
        type=choices,
        default=default,
        show_default=True,
        help=f"Which symbolic links in SOURCE to read: {'all (follow), ' if can_follow else ''}only those that "
        "point inside SOURCE (inside), or none (refuse). Any other link is a failed item.",
    )


def _accept_host_keys(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    """Set the choice for this process and its child processes."""
    if is_given:
        os.environ["IMAGELOOM_ACCEPT_HOST_KEYS"] = "1"


outputs_option = click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="NAME=PIPELINE",
    help="Output of each image: the folder NAME in SINK, and the pipeline. Repeatable; replaces PIPELINE.",
)

name_option = click.option(
    "--name",
    default="{dir}/{stem}.{ext}",
    show_default=True,
    help="Name of each output, relative to SINK. {dir}, {stem} and {page} come from the input, {ext} from the "
    "output's format.",
)

in_place_option = click.option(
    "--in-place", is_flag=True, help="Replace each input by its output. There is no SINK."
)


def durable_option(default: str) -> Callable[[C], C]:
    """Add --durable: None if it is not given.

    Args:
        default: when it is on without being given, for the help.
    """
    return click.option(
        "--durable/--no-durable",
        default=None,
        show_default=default,
        help="Flush outputs and ledger to the disk, so that a power cut loses no image that is recorded as done. "
        "Object stores do so themselves.",
    )


include_option = click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Process only files that this pattern fits: '*.jpg' in any folder (A.JPG too), '2024/**/*.{jpg,png}' "
    "below a folder, 'drafts' for a folder with all below it. Repeatable.",
)

exclude_option = click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Do not process files that this pattern fits; see --include. Repeatable.",
)

if_exists_option = click.option(
    "--if-exists",
    type=click.Choice(["error", "skip", "overwrite"]),
    default="error",
    show_default=True,
    help="What to do if an output's name is taken by a file that imageloom did not make: fail the item (error), "
    "skip it, or overwrite the file.",
)

retry_failed_option = click.option(
    "--retry-failed", is_flag=True, help="Process only the items that failed in an earlier run."
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

json_option = click.option(
    "--json", "json_", is_flag=True, help="Print one JSON object per item and a summary to stdout."
)

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Print one line per item.")

quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print only failures and the summary.")

accept_host_keys_option = click.option(
    "--accept-host-keys",
    is_flag=True,
    expose_value=False,
    callback=_accept_host_keys,
    help="Accept the key of an unknown SFTP host at the first connection, and save it in ~/.ssh/known_hosts.",
)

ledger_option = click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="in the user's state folder",
    help="Database file that records runs and finished items.",
)

health_option = click.option(
    "--health",
    metavar="[HOST:]PORT",
    show_default="off",
    help="Serve /health, /ready and /metrics over HTTP at this address.",
)


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
