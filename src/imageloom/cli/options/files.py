"""Options that choose the items and the names of their outputs."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from imageloom.cli.options.values import C, together

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


def list_options(command: C) -> C:
    """Add --files-from, --null and --newer-than."""
    return together(
        command,
        click.option(
            "--files-from",
            type=click.Path(exists=True, dir_okay=False, allow_dash=True),
            metavar="FILE",
            help="Process the files that FILE names, one a line, relative to SOURCE. - reads them from stdin.",
        ),
        click.option(
            "-0",
            "--null",
            is_flag=True,
            help="The names of --files-from end with NUL characters, as `find -print0` writes them.",
        ),
        click.option(
            "--newer-than",
            metavar="TIME",
            help="Process only files that were changed after this time: 2026-11-01, '2026-11-01 14:30', an age "
            "such as 2h or 7d (s, m, h, d, w), or the path of a file, for the time of its last change.",
        ),
    )


def prune_options(command: C) -> C:
    """Add --prune and --yes."""
    return together(
        command,
        click.option(
            "--prune",
            is_flag=True,
            help="Before the run, remove the outputs whose inputs are gone from SOURCE: only those of earlier "
            "runs that nobody has changed since. They are listed first; with --dry-run, only listed.",
        ),
        click.option("-y", "--yes", is_flag=True, help="With --prune: remove without asking."),
    )


adopt_option = click.option(
    "--adopt",
    is_flag=True,
    help="If the ledger was lost: an output that exists and has the bytes that this run would write becomes "
    "imageloom's again, unchanged. One with other bytes is a failed item.",
)

if_exists_option = click.option(
    "--if-exists",
    type=click.Choice(["error", "skip", "overwrite"]),
    default="error",
    show_default=True,
    help="What to do if an output's name is taken by a file that imageloom did not make: fail the item (error), "
    "skip it, or overwrite the file.",
)


shard_option = click.option(
    "--shard",
    metavar="NUMBER/COUNT",
    help="Process only one share of the images, such as 3/16, so that runs of all 16 shards can work at the same "
    "time, on one machine or on several. The name of an image decides which shard it belongs to.",
)


retry_failed_option = click.option(
    "--retry-failed", is_flag=True, help="Process only the items that failed in an earlier run."
)


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


accept_host_keys_option = click.option(
    "--accept-host-keys",
    is_flag=True,
    expose_value=False,
    callback=_accept_host_keys,
    help="Accept the key of an unknown SFTP host at the first connection, and save it in ~/.ssh/known_hosts.",
)
