"""`imageloom keys`."""

from __future__ import annotations

import click

from imageloom.cli.text import say


@click.command("keys", short_help="Make the keys that workers and drivers prove themselves with.")
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
@click.option(
    "--client",
    "clients",
    multiple=True,
    metavar="NAME",
    help="A worker's file of keys; repeatable, and later too.  [client]",
)
def command(folder: str, clients: tuple[str, ...]) -> None:
    """Make DIR/server.key, for the driver of the engine zeromq, and DIR/client.key, for its workers.

    They are needed wherever workers connect, also on one machine. Each side proves to the other that it has its
    key, and all that goes between them is encrypted. A worker gets in only where the driver's file lists its key.

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
