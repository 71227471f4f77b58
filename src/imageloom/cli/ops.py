"""`imageloom ops`."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

import click

from imageloom.cli import options
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.operators import Operator


@click.command("ops", short_help="List the operators, or explain one.")
@click.argument("name", required=False)
@options.operators_option
def command(name: str | None, operators: tuple[str, ...]) -> None:
    """List all operators with one example each, or explain the operator NAME.

    With --operators, explain the operators of your own files. Such a file needs five lines:

    \b
    from imageloom import Pixels, operator
    @operator("point", dtypes=("uint8",))
    def lighten(image: Pixels, *, by: int = 20) -> Pixels:
        "Add to all values."
        return (image.astype(int) + by).clip(0, 255).astype(image.dtype)

    \b
    imageloom ops
    imageloom ops canny
    imageloom ops --operators my_ops.py
    imageloom new operator my_ops.py
    """
    from imageloom import operators as known

    known.load_files(tuple(map(os.path.abspath, operators)))
    if name is not None:
        _explain(known.get(name))
        return
    if not operators:
        known.load_packages()
    files = {os.path.abspath(file) for file in operators}
    for number, operator in enumerate(_of(files) if files else known.operators()):
        if files:
            say(*([""] if number else []))
            _explain(operator)
            continue
        say(f"{operator.name:<15} {operator.summary}")
        say(*(f"{'':<15} {example}" for example in operator.examples[:1]), dim=True)
    if not files:
        say("", "`imageloom ops NAME` explains one; `imageloom new operator FILE` starts one of your own")


def _of(files: set[str]) -> list[Operator]:
    """The operators of files."""
    from imageloom.operators import operators

    return [one for one in operators() if one.function.__code__.co_filename in files]


def _explain(operator: Operator) -> None:
    from imageloom.operators.registry import describe_parameter

    say(f"{operator.name}: {operator.declared}; takes {', '.join(operator.dtypes)}")
    if text := inspect.getdoc(operator.function):
        say("", *text.split("\n"))
    if operator.parameters:
        say("", "Parameters, by position or by name:")
        for parameter in operator.parameters:
            say(f"  {describe_parameter(operator, parameter)}")
    if operator.examples:
        say("", "Examples:", *(f"  {example}" for example in operator.examples))
