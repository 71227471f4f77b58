"""`imageloom ops`."""

from __future__ import annotations

import inspect

import click

from imageloom.cli.text import say


@click.command("ops", short_help="List the operators, or explain one.")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List all operators with one example each, or explain the operator NAME.

    \b
    imageloom ops
    imageloom ops canny
    """
    from imageloom import operators
    from imageloom.operators.registry import describe_parameter

    if name is None:
        operators.load_packages()
        for operator in operators.operators():
            say(f"{operator.name:<15} {operator.summary}")
            say(*(f"{'':<15} {example}" for example in operator.examples[:1]), dim=True)
        return
    operator = operators.get(name)
    say(f"{operator.name}: {operator.declared}; takes {', '.join(operator.dtypes)}", "")
    say(*(inspect.getdoc(operator.function) or "").split("\n"))
    if operator.parameters:
        say("", "Parameters, by position or by name:")
        for parameter in operator.parameters:
            say(f"  {describe_parameter(operator, parameter)}")
    say("", "Examples:")
    for example in operator.examples:
        say(f"  {example}")
