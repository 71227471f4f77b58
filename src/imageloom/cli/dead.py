"""`imageloom dead`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from imageloom.cli import options
from imageloom.cli.text import say, say_json

if TYPE_CHECKING:
    from redis import Redis

    from imageloom.engines.redis.wire import DeadLetter

connect_option = options.connect_options("Address of the Redis server.", is_needed=True)
keys_argument = click.argument("keys", nargs=-1, metavar="[KEY]...")
all_option = click.option("--all", "all_", is_flag=True, help="Select all dead letters.")


@click.group("dead", short_help="List, retry or drop the items that failed for good, on a Redis server.")
def command() -> None:
    """Manage the dead letters of the engine redis: a list, on the Redis server, of the items that failed for good.

    Removing a dead letter changes only this list. The ledger still records the item as failed: the next run with
    the same pipeline processes it again, and a run with --retry-failed processes only such items.

    \b
    imageloom dead list --connect redis://127.0.0.1:6379/0
    imageloom dead retry --connect redis://127.0.0.1:6379/0 day1/broken.jpg
    imageloom dead drop --connect redis://127.0.0.1:6379/0 --all
    """


@command.command("list", short_help="List the dead letters.")
@connect_option
@click.option("--json", "json_", is_flag=True, help="Print one JSON object per dead letter to stdout.")
def list_(connect: str, json_: bool) -> None:
    """List each item with the reason of its failure and its number of attempts, the oldest first."""
    from imageloom.engines.redis import dead_letters

    with _server(connect) as client:
        for _, letter in dead_letters.read(client):
            if json_:
                say_json(letter)
                continue
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.time))
            say(
                f"{when}  {letter.key}  {letter.kind}: {letter.message} "
                f"(attempt {letter.attempts})  {letter.source} -> {letter.sink}"
            )


@command.command("retry", short_help="Remove dead letters and print the commands to retry.")
@connect_option
@keys_argument
@all_option
def retry(connect: str, keys: tuple[str, ...], all_: bool) -> None:
    """Remove the dead letters of the items KEY, and print the commands that process these items again."""
    places = {(letter.source, letter.sink) for letter in _take_out(connect, keys, all_)}
    for source, sink in sorted(places):
        say(f"imageloom run PIPELINE {shlex.quote(source)} {shlex.quote(sink)} --retry-failed")


@command.command("drop", short_help="Remove dead letters.")
@connect_option
@keys_argument
@all_option
def drop(connect: str, keys: tuple[str, ...], all_: bool) -> None:
    """Remove the dead letters of the items KEY."""
    say(f"{len(_take_out(connect, keys, all_))} dropped")


def _take_out(connect: str, keys: tuple[str, ...], all_: bool) -> list[DeadLetter]:
    """Remove dead letters and return them.

    Raises:
        UsageError: there is no dead letter with one of the keys.
    """
    from imageloom.engines.redis import dead_letters
    from imageloom.errors import UsageError

    if bool(keys) == all_:
        raise click.UsageError("give the keys of items, or --all, not both; for example: day1/broken.jpg")
    with _server(connect) as client:
        found = [one for one in dead_letters.read(client) if all_ or one[1].key in keys]
        missing = set(keys) - {letter.key for _, letter in found}
        if missing:
            raise UsageError(f"there is no dead letter for the item {', '.join(sorted(missing))}")
        dead_letters.remove(client, [entry for entry, _ in found])
    return [letter for _, letter in found]


@contextmanager
def _server(url: str) -> Iterator[Redis]:
    """A client that is connected and logged in."""
    from imageloom.engines.redis import wire as redis_wire

    client = redis_wire.connect(url)
    try:
        redis_wire.check_server(client, url)
        from redis.exceptions import RedisError

        try:
            yield client
        except RedisError as error:
            raise redis_wire.refusal(error, url) from None
    finally:
        client.close()
