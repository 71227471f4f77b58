"""`imageloom keys`."""

from __future__ import annotations

import click

from imageloom.cli.text import say


@click.command("keys", short_help="Make the keys for encrypted connections between a run and its workers.")
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
@click.option(
    "--client",
    "clients",
    multiple=True,
    metavar="NAME",
    show_default="client",
    help="Name of a worker: makes NAME.key. Workers can also be added later. Repeatable.",
)
def command(folder: str, clients: tuple[str, ...]) -> None:
    """Make key files for the engine zeromq: DIR/server.key for the run, and DIR/client.key for its workers.

    The keys are needed for all workers started by `imageloom worker`, even on the same machine. Both sides
    authenticate each other with their keys, and all messages are encrypted. A worker is accepted only if its key
    is listed in the server's key file.

    \b
    imageloom keys keys/
    imageloom run 'resize 50%' photos/ out/ --engine zeromq --bind tcp://0.0.0.0:5555 --keys keys/server.key
    imageloom worker --engine zeromq --connect tcp://driver:5555 --keys keys/client.key
    """
    from imageloom.errors import MissingExtra

    try:
        from imageloom.engines.zeromq.wire import make_keys
    except ModuleNotFoundError:
        raise MissingExtra("imageloom keys", "zeromq") from None
    for path in make_keys(folder, clients or ("client",)):
        say(path)
