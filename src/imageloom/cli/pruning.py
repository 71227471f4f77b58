"""Shows the outputs that --prune would remove, and asks before it does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.driver.pruning import Orphan

MOST_SHOWN = 50
"""Maximum number of outputs that are listed before a question; a dry run lists all."""


def confirm(orphans: list[Orphan], yes: bool, dry_run: bool) -> None:
    """List the outputs whose inputs are gone, and ask whether to remove them.

    Args:
        yes: do not ask.
        dry_run: nothing will be removed.

    Raises:
        UsageError: there is no terminal to ask at, and the answer was not given.
        Abort: the answer is no.
    """
    removed = [orphan for orphan in orphans if not orphan.kept]
    for orphan in removed if dry_run else removed[:MOST_SHOWN]:
        say(f"to be removed: {orphan.made.name} ({orphan.reason})", err=True)
    if len(removed) > MOST_SHOWN and not dry_run:
        say(f"and {len(removed) - MOST_SHOWN:,} more (list all: --dry-run)", err=True)
    for orphan in orphans:
        if orphan.kept:
            say(f"kept: {orphan.made.name} ({orphan.reason}, but {orphan.kept})", err=True)
    number = f"{len(removed):,} output{'s' if len(removed) > 1 else ''}"
    if dry_run:
        say(f"{number} would be removed (--prune)" if removed else "nothing to prune", err=True)
        return
    if not removed or yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"--prune would remove {number}, and there is no terminal to ask at: add --yes to remove them, or "
            "--dry-run to list them"
        )
    click.confirm(f"Remove {number}?", abort=True, err=True)
