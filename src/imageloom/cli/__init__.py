"""The command line: one file for each command, loaded when it is called."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Any

import click

from imageloom import __version__
from imageloom.cli.text import say, say_refusal
from imageloom.errors import ImageloomError, UsageError
from imageloom.system.machine import one_blas_thread
from imageloom.system.printable import guard_stderr

COMMANDS = {
    "run": "Run a pipeline over a folder of images.",
    "watch": "Run a pipeline over images as they come into a folder or a bucket.",
    "plan": "Explain what would be done to a file, and why.",
    "ops": "List the operators, or explain one.",
    "look": "Show a few images before and after, as a PNG or an HTML page.",
    "worker": "Work for an engine's driver, here or on another machine.",
    "keys": "Make the keys that workers and drivers prove themselves with.",
    "dead": "List, retry or drop the items that were given up, on a Redis server.",
    "jobs": "List past runs, or show one with its failures.",
    "submit": "Hand a job to a server, and follow it.",
    "server": "Take jobs from clients and divide them among nodes.",
    "node": "Do tasks for a server, or for runs with --engine nodes.",
    "scenario": "Compare the policies of nodes, for real and simulated.",
    "chaos": "Run jobs while things go wrong, and prove that nothing is lost.",
    "report": "Show where the time of a run went, as an HTML page and more.",
    "bench": "Compare the engines on this machine, and write a report.",
    "doctor": "Find and remove what a power cut left, and describe this machine.",
    "demo": "Draw sample photos and run a pipeline over them.",
    "completion": "Print the script that completes commands in a shell.",
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
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="A YAML file of options: a mapping for each command, as 'run: {jobs: 4, quality: 90}'.",
)
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Run a pipeline of image filters over a folder of images.

    \b
    imageloom run 'resize 512x512 | grayscale' photos/ out/
    imageloom plan 'resize 50%' photo.jpg
    imageloom ops canny
    """

    if "NO_COLOR" in os.environ:  # https://no-color.org
        context.color = False
    if config:
        context.default_map = _defaults(config)


def _defaults(path: str) -> dict[str, Any]:
    """Defaults of the commands' options, by command, as a YAML file has them."""
    import yaml

    with open(path, "rb") as file:
        try:
            found = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(options, dict) for options in found.values()):
        raise UsageError(f"{path}: a mapping of options for each command, as 'run: {{jobs: 4}}'")
    for name, options in found.items():
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            raise UsageError(f"{path}: there is no command {name!r}; there are: {', '.join(COMMANDS)}")
        flags = {option.lstrip("-").replace("-", "_"): p.name for p in command.params for option in p.opts}
        for option in options:
            if option not in flags:
                raise UsageError(f"{path}: {name} has no option {option!r}")
        found[name] = {flags[option]: value for option, value in options.items()}
    return found


def main() -> None:
    """The program. Exit codes: 0 all done, 1 some items failed, 2 usage, 3 nothing matched, 4 storage or
    access, 130 interrupted."""
    guard_stderr()
    gc.disable()  # imports leave no garbage behind; a command that goes on for long turns it on
    try:
        with one_blas_thread():
            code = cli.main(standalone_mode=False)
    except KeyboardInterrupt:
        say("imageloom: interrupted", err=True)
        code = 130
    except Exception as error:
        code = _say(error)
    _flush_output()
    gc.freeze()  # what is left ends with the process: nothing is to be looked for in it
    sys.exit(code if isinstance(code, int) else 0)


def _flush_output() -> None:
    """Write what waits, or drop it where its reader has gone: Python itself would make that the exit code."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(error: Exception) -> int:
    """Say why the program ends, in a line, and with which code. What is no error of ours goes on its way."""
    if isinstance(error, click.exceptions.Abort) or _is_amid_interruption(error):
        return 130
    if isinstance(error, click.ClickException):
        say_refusal(error)
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # the reader of what is shown has gone
        return 1
    if isinstance(error, ImageloomError):
        say(f"imageloom: {error}", err=True)
        return error.exit_code
    raise error


def _is_amid_interruption(error: BaseException) -> bool:
    """Whether it was raised by the tidying up after a second Ctrl-C, which may come in the middle of anything."""
    earlier = error.__context__
    return earlier is not None and (isinstance(earlier, KeyboardInterrupt) or _is_amid_interruption(earlier))
