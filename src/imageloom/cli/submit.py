"""`imageloom submit`."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from imageloom.cli import options, service
from imageloom.cli.arguments import make_job
from imageloom.cli.signals import finish_on_signals
from imageloom.cli.submithttp import submit_http
from imageloom.cli.text import say

if TYPE_CHECKING:
    from imageloom.engines.nodes.config import ClientConfig
    from imageloom.model import Job
    from imageloom.service.client import Client


@click.command("submit", short_help="Send a job to a server and show its progress.")
@click.argument("arguments", nargs=-1, metavar="[PIPELINE] SOURCE [SINK]")
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="YAML file with server, root and credentials. Flags override it.",
)
@click.option("--server", metavar="HOST:PORT", show_default="127.0.0.1:7000", help="Address of the server.")
@click.option(
    "--http", metavar="URL", help="Address of `imageloom serve`: the job runs there, and not on a server."
)
@click.option(
    "--root",
    metavar="FOLDER",
    show_default="the current folder",
    help="Folder of the shared storage. SOURCE and SINK are relative to it.",
)
@click.option("--detach", is_flag=True, help="Print the job's ID and return, without waiting for its end.")
@click.option("--job", "follow", metavar="ID", help="Show the progress of a job that was submitted before.")
@click.option(
    "--cancel", metavar="ID", help="Cancel this job. The server finishes the items that are in progress."
)
@options.outputs_option
@options.operators_option
@options.recipe_options
@options.document_options
@options.name_option
@options.in_place_option
@options.include_option
@options.exclude_option
@options.if_exists_option
@options.retry_failed_option
@options.links_option("inside", "refuse")
@options.limit_options
@options.json_option
@options.verbose_option
@options.quiet_option
@service.credential_options
def command(
    arguments: tuple[str, ...],
    config: str | None,
    server: str | None,
    http: str | None,
    root: str | None,
    detach: bool,
    follow: str | None,
    cancel: str | None,
    json_: bool,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Run PIPELINE over SOURCE into SINK on a server. Show the progress until the job ends, as `imageloom run`
    does.

    Only file names are sent: the server and its nodes read and write the files themselves. Ctrl-C cancels the job.
    If the connection to the client is lost, the server cancels the job after its --patience, unless the job was
    submitted with --detach. If the connection to the server is lost, the client waits and connects again.

    \b
    imageloom submit 'resize 512x512 | grayscale' photos/ out/ --config client.yaml
    imageloom submit 'canny 100 200' /data/photos /data/edges --server 127.0.0.1:7000 --detach
    imageloom submit --job 3f2a77d05c1e9b64
    imageloom submit --cancel 3f2a77d05c1e9b64
    imageloom submit 'resize 50%' /data/photos /data/small --http http://127.0.0.1:8100 --token operator.token
    """
    names = ("certificate", "key", "token", "authority")
    credentials = {name: given.pop(name) for name in names}
    if follow and arguments:
        raise click.UsageError("--job ID excludes PIPELINE, SOURCE and SINK: the job exists already")
    if http:
        if server or config or credentials["certificate"] or credentials["key"]:
            raise click.UsageError("--http excludes --server, --config, --certificate and --key")
        job = below(root or "", make_job(arguments, given)) if not (follow or cancel) else None
        return submit_http(http, credentials, job, follow or cancel or "", bool(cancel), detach,
                           (json_, verbose, quiet))  # fmt: skip
    service.nodes_extra()
    from imageloom.cli.reporters import Reporters
    from imageloom.service.client import Client

    settings = _settings(config, server, root, credentials)
    with closing(Client(settings.server, settings.credentials)) as client:
        if cancel:
            client.cancel(cancel)
            say(f"cancelled {cancel}")
            return 0
        job = below(settings.root, make_job(arguments, given)) if not follow else None
        if detach and job:
            say(client.submit(job, detached=True).id)
            return 0
        with Reporters(job or unknown_job(), json_, verbose, quiet, None, "text") as reporters:
            return _wait(client, job, follow or "", reporters, quiet)


def _wait(client: Client, job: Job | None, id: str, reporters: Any, quiet: bool) -> int:
    from imageloom.records.events import Event, Skipped
    from imageloom.service.messages import to_summary

    known: list[str] = [id] if id else []

    def accepted(id: str) -> None:
        known.append(id)
        if not quiet:
            say(f"job {id}", err=True)

    def cancel() -> None:
        threading.Thread(target=client.cancel, args=(known[0],), daemon=True).start()

    finish_on_signals(cancel, "cancelling", "stop", has_begun=lambda: bool(known))
    unchanged: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Skipped) and event.reason == "done before":
            unchanged.append(event.item.key)

    listeners = [*reporters.listeners, note]
    receipt = client.submit(job, listeners, accepted=accepted) if job else client.follow(id, listeners)
    if receipt.message and receipt.exit_code == 130:
        say(receipt.message, err=True)
    reporters.finish(replace(to_summary(receipt), unchanged=len(unchanged)), "done")
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


def below(root: str, job: Job) -> Job:
    """The job with absolute paths: relative to the root of the shared storage, or to the current folder."""
    from imageloom.stores import is_remote

    source, sink = (
        folder if is_remote(folder) else os.path.abspath(os.path.join(root, folder))
        for folder in (job.source, job.sink)
    )
    return replace(job, source=source, sink=sink)


def unknown_job() -> Job:
    """A placeholder for a job that was submitted before: its source is not known here."""
    from imageloom.model import Job, Recipe

    return Job(os.devnull, "", Recipe(()))
