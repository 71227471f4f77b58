"""The command line: one file for each command, loaded when it is called."""

from __future__ import annotations

import importlib
import sys

import click

from imageloom import __version__
from imageloom.errors import ImageloomError

COMMANDS = {
    "run": "Run a pipeline over a folder of images.",
    "plan": "Explain what would be done to a file, and why.",
    "ops": "List the operators, or explain one.",
    "jobs": "List past runs, or show one with its failures.",
    "demo": "Draw sample photos and run a pipeline over them.",
}


class _Commands(click.Group):
    """A group that knows its commands' names and one-line helps, and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"imageloom.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="imageloom %(version)s")
def cli() -> None:
    """Run a pipeline of image filters over a folder of images.

    \b
    imageloom run 'resize 512x512 | grayscale' photos/ out/
    imageloom plan 'resize 50%' photo.jpg
    imageloom ops canny
    """


def main() -> None:
    """The program. Exit codes: 0 all done, 1 some items failed, 2 usage, 3 nothing matched, 4 storage or
    access, 130 interrupted."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except ImageloomError as error:
        click.echo(f"imageloom: {error}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        click.echo("imageloom: interrupted", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
