"""`imageloom submit`."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from imageloom.cli import options, service
from imageloom.cli.arguments import make_job
from imageloom.cli.text import say, say_amid

if TYPE_CHECKING:
    from imageloom.engines.nodes.config import ClientConfig
    from imageloom.model import Job
    from imageloom.service.client import Client


@click.command("submit", short_help="Hand a job to a server, and follow it.")
@click.argument("arguments", nargs=-1, metavar="[PIPELINE] SOURCE [SINK]")
@click.option(
    "--config", type=click.Path(dir_okay=False), metavar="FILE", help="YAML: server, root, credentials."
)
@click.option("--server", metavar="HOST:PORT", help="[127.0.0.1:7000]")
@click.option("--root", metavar="FOLDER", help="Of the storage that all share: SOURCE and SINK are below it.")
@click.option("--detach", is_flag=True, help="Do not wait: print the job's id.")
@click.option("--job", "follow", metavar="ID", help="Follow a job that was submitted before.")
@click.option("--cancel", metavar="ID", help="Have a job finish what is in hand, and no more.")
@click.option("--output", "outputs", multiple=True, metavar="NAME=PIPELINE", help="An output; repeatable.")
@options.operators_option
@options.recipe_options
@click.option("--name", default="{dir}/{stem}.{ext}", show_default=True, help="Of outputs below the sink.")
@click.option("--in-place", is_flag=True, help="Put each output in the place of its input; there is no SINK.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Only such names, as '*.jpg'; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not such names; repeatable.")
@click.option("--if-exists", type=click.Choice(["error", "skip", "overwrite"]), default="error")
@click.option("--retry-failed", is_flag=True, help="Do only the items that failed before.")
@options.links_option("inside", "refuse")
@options.limit_options
@click.option("--json", "json_", is_flag=True, help="One JSON object for each item and a summary, on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each item.")
@click.option("-q", "--quiet", is_flag=True, help="Failures and the last line only.")
@service.credential_options
def command(
    arguments: tuple[str, ...],
    config: str | None,
    server: str | None,
    root: str | None,
    detach: bool,
    follow: str | None,
    cancel: str | None,
    json_: bool,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Have a server run PIPELINE over SOURCE into SINK, and wait for it as `imageloom run` does.

    Only the names travel: the server and its nodes read and write the files themselves. Ctrl-C cancels the job;
    when the client vanishes, the server does so after a while, unless --detach was given. When the server
    vanishes, the client waits for it.

    \b
    imageloom submit 'resize 512x512 | grayscale' photos/ out/ --config client.yaml
    imageloom submit 'canny 100 200' /data/photos /data/edges --server 127.0.0.1:7000 --detach
    imageloom submit --job 3f2a77d05c1e9b64
    imageloom submit --cancel 3f2a77d05c1e9b64
    """
    service.nodes_extra()
    from imageloom.cli.reporters import Reporters
    from imageloom.service.client import Client

    names = ("certificate", "key", "token", "authority")
    settings = _settings(config, server, root, {name: given.pop(name) for name in names})
    with closing(Client(settings.server, settings.credentials)) as client:
        if cancel:
            client.cancel(cancel)
            say(f"cancelled {cancel}")
            return 0
        if follow and arguments:
            raise click.UsageError("--job ID takes no PIPELINE, SOURCE and SINK")
        job = _below(settings.root, make_job(arguments, given)) if not follow else None
        if detach and job:
            say(client.submit(job, detached=True).id)
            return 0
        with Reporters(job or _unknown(), json_, verbose, quiet, None, "text") as reporters:
            return _wait(client, job, follow or "", reporters, quiet)


def _wait(client: Client, job: Job | None, id: str, reporters: Any, quiet: bool) -> int:
    from imageloom.service.messages import to_summary

    known: list[str] = [id] if id else []

    def accepted(id: str) -> None:
        known.append(id)
        if not quiet:
            say(f"job {id}", err=True)

    def stop(number: int, frame: object) -> None:
        if not known:
            raise KeyboardInterrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say_amid("cancelling: what is in hand is finished (once more to stop at once)")
        threading.Thread(target=client.cancel, args=(known[0],), daemon=True).start()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    receipt = (
        client.submit(job, reporters.listeners, accepted=accepted)
        if job
        else client.follow(id, reporters.listeners)
    )
    if receipt.message and receipt.exit_code == 130:
        say(receipt.message, err=True)
    reporters.finish(to_summary(receipt), "done")
    return int(receipt.exit_code)


def _settings(
    config: str | None, server: str | None, root: str | None, credentials: dict[str, str | None]
) -> ClientConfig:
    from imageloom.engines.nodes.config import ClientConfig, read_config

    found = read_config(config, ClientConfig) if config else ClientConfig()
    return ClientConfig(
        server or found.server or "127.0.0.1:7000",
        root or found.root,
        service.overruled(found.credentials, **credentials),
    )


def _below(root: str, job: Job) -> Job:
    """The job in the storage that all share, or in folders of this machine's where it has no root."""
    source, sink = (os.path.abspath(os.path.join(root, folder)) for folder in (job.source, job.sink))
    return replace(job, source=source, sink=sink)


def _unknown() -> Job:
    """In the place of a job that was submitted elsewhere: its number of items is not known."""
    from imageloom.model import Job, Recipe

    return Job(os.devnull, "", Recipe(()))
