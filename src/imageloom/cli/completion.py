"""`imageloom completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from imageloom.cli.text import say


@click.command("completion", short_help="Print a script for command completion in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that adds completion of imageloom's commands and options to SHELL (bash, zsh or fish).

    \b
    imageloom completion bash >> ~/.bashrc
    imageloom completion zsh >> ~/.zshrc
    imageloom completion fish > ~/.config/fish/completions/imageloom.fish
    """
    from imageloom.cli import cli

    found = get_completion_class(shell)
    assert found is not None, shell
    say(*found(cli, {}, "imageloom", "_IMAGELOOM_COMPLETE").source().split("\n"))
