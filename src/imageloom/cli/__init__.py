"""The command line: one file for each command, loaded when it is called."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

from imageloom import __version__
from imageloom.cli.signals import listen
from imageloom.cli.text import say, say_refusal
from imageloom.errors import ImageloomError, StorageError, UsageError
from imageloom.system.machine import one_blas_thread
from imageloom.system.printable import guard_stderr, printable

GROUPS = {
    "Everyday": {
        "run": "Run a pipeline over a folder of images.",
        "watch": "Run a pipeline over new images in a folder or a bucket, as they arrive.",
        "plan": "Explain how one image would be processed, and why.",
        "look": "Show a few images before and after a pipeline, as PNG or HTML.",
        "ops": "List the operators, or explain one.",
        "new": "Write a starting point: an operator of your own, or a recipe.",
        "jobs": "List past runs, or show one run with its failures.",
        "doctor": "Describe this machine; find and remove leftovers of killed runs.",
        "demo": "Draw sample photos and run a pipeline over them.",
        "completion": "Print a script for command completion in a shell.",
    },
    "Cluster": {
        "worker": "Process items for a run on this or another machine (zeromq, redis).",
        "keys": "Make the keys for encrypted connections between a run and its workers.",
        "dead": "List, retry or drop the items that failed for good, on a Redis server.",
        "node": "Process tasks for a server, or for runs with --engine nodes.",
    },
    "Service": {
        "serve": "Serve a page and an HTTP interface where people see and steer the work.",
        "server": "Run jobs that clients submit, on several nodes.",
        "submit": "Send a job to a server and show its progress.",
    },
    "Evidence": {
        "report": "Show how a run spent its time, as HTML, JSON, CSV, SVG or PNG.",
        "bench": "Compare the engines on this machine and write a report.",
        "scenario": "Compare the policies that choose nodes, measured and simulated.",
        "chaos": "Run jobs while faults are injected, and check that nothing is lost.",
    },
}
"""The commands in the groups of the help, with what each does."""

COMMANDS = {name: what for group in GROUPS.values() for name, what in group.items()}

_OTHER_NAMES = {
    "convert": "run",
    "help": "--help",
    "list": "jobs",
    "magick": "run",
    "mogrify": "run --in-place",
    "process": "run",
    "status": "jobs",
    "version": "--version",
}
"""Names of other programs for commands that have another name here."""


class _Commands(click.Group):
    """A group that lists its commands from GROUPS and imports only the command that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"imageloom.cli.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            other = _OTHER_NAMES.get(args[0])
            hint = f" (did you mean {other}?)" if other else _nearest(args[0], COMMANDS)
            ctx.fail(f"there is no command {args[0]!r}{hint}; imageloom --help lists all")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", what) for name, what in commands.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="imageloom %(version)s")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="YAML file with defaults for options, per command, such as 'run: {jobs: 4, quality: 90}'.",
)
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Run a pipeline of image filters over a folder of images.

    \b
    imageloom run 'resize 512x512 | grayscale' photos/ out/
    imageloom plan 'resize 50%' photo.jpg
    imageloom ops canny
    """

    listen()
    if "NO_COLOR" in os.environ:  # https://no-color.org
        context.color = False
    if config:
        context.default_map = _defaults(config)


def _defaults(path: str) -> dict[str, Any]:
    """Read a YAML file with defaults for options, per command.

    Raises:
        UsageError: the file is not YAML, or names an unknown command or option.
    """
    from imageloom.recipes.pipeline import read_yaml  # few commands have such a file

    with open(path, "rb") as file:
        found = read_yaml(file.read(), f"{path} (--config)")
    if not isinstance(found, dict) or not all(isinstance(options, dict) for options in found.values()):
        raise UsageError(
            f"{path} (--config) must map each command to a mapping of options, such as 'run: {{jobs: 4}}'"
        )
    for name, given in found.items():
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            hint = _nearest(str(name), COMMANDS)
            raise UsageError(f"{path}: there is no command {name!r}{hint}; there are: {', '.join(COMMANDS)}")
        options = [one for one in command.params if isinstance(one, click.Option)]
        flags = {option.lstrip("-"): one for one in options for option in one.opts}
        found[name] = {}
        for option, value in given.items():
            flag = str(option).replace("_", "-")
            if flag not in flags:
                known = [one for one in flags if len(one) > 1]
                hint = _nearest(flag, known)
                raise UsageError(
                    f"{path}: {name} has no option {option!r}{hint}; imageloom {name} --help lists all"
                )
            parameter = flags[flag]
            is_list = parameter.multiple and isinstance(value, (str, int, float))
            found[name][parameter.name] = [str(value)] if is_list else value
    return found


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message: the known name that is most like a wrong one."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(known), 1)
    return f" (did you mean {found[0]}?)" if found else ""


def main() -> None:
    """The program. Exit codes: 0 all items done, 1 some items failed, 2 usage error, 3 no image matched,
    4 storage or access error, 130 interrupted."""
    guard_stderr()
    if {"run", "watch"} & set(sys.argv[1:4]):  # perhaps after --config FILE
        from imageloom.cli.supervisor import is_supervised, supervise

        if is_supervised(sys.argv[1:]):
            supervise()
    gc.disable()  # imports make no garbage; a command that runs long turns it on
    try:
        with one_blas_thread():
            code = cli.main(standalone_mode=False)
    except KeyboardInterrupt:
        say("imageloom: interrupted", err=True)
        code = 130
    except Exception as error:
        code = _say(error)
    _flush_output()
    gc.freeze()  # no collection at exit: the process ends anyway
    sys.exit(code if isinstance(code, int) else 0)


def _flush_output() -> None:
    """Flush stdout. If its reader has closed the pipe, discard the rest: Python would change the exit code."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(error: Exception) -> int:
    """Print why the program ends, in one line, and return the exit code. Unexpected errors are raised again."""
    if isinstance(error, click.exceptions.Abort) or _is_amid_interruption(error):
        say("imageloom: interrupted", err=True)
        return 130
    if isinstance(error, click.ClickException):
        say_refusal(error)
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # the reader of stdout has closed the pipe
        return 1
    if isinstance(error, ImageloomError):
        say(f"imageloom: {error}", err=True)
        return error.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        say(f"imageloom: cannot use {printable(os.fsdecode(error.filename))}: {error.strerror}", err=True)
        return StorageError.exit_code
    say(f"imageloom {__version__}: this is a bug: please report the command and the lines below", err=True)
    raise error


def _is_amid_interruption(error: BaseException) -> bool:
    """Whether the error was raised while a second Ctrl-C was being handled, for example during cleanup."""
    earlier = error.__context__
    return earlier is not None and (isinstance(earlier, KeyboardInterrupt) or _is_amid_interruption(earlier))
