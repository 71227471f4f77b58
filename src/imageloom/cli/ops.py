"""`imageloom ops`."""

from __future__ import annotations

import inspect

import click


@click.command("ops", short_help="List the operators, or explain one.")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the operators with an example each, or explain the operator NAME.

    \b
    imageloom ops
    imageloom ops canny
    """
    from imageloom import operators
    from imageloom.operators.registry import describe_parameter

    if name is None:
        for operator in operators.operators():
            click.echo(f"{operator.name:<15} {operator.summary}")
            click.echo(f"{'':<15} {click.style(operator.examples[0], dim=True)}")
        return
    operator = operators.get(name)
    click.echo(f"{operator.name}: {operator.declared}; takes {', '.join(operator.dtypes)}\n")
    click.echo(inspect.getdoc(operator.function))
    if operator.parameters:
        click.echo("\nParameters, by position or by name:")
        for parameter in operator.parameters:
            click.echo(f"  {describe_parameter(operator, parameter)}")
    click.echo("\nExamples:")
    for example in operator.examples:
        click.echo(f"  {example}")
