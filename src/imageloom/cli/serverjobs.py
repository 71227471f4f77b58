"""Lists the jobs of a server, for `imageloom jobs --server`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from imageloom.cli import service
from imageloom.cli.text import say, say_json

if TYPE_CHECKING:
    from imageloom.engines.nodes import imageloom_pb2 as pb


def list_jobs(address: str, as_json: bool, credentials: dict[str, str | None]) -> None:
    """Print one line for each job of the server, by the id that `imageloom submit` prints.

    Raises:
        UsageError, StorageError: see `Client.jobs`.
    """
    service.nodes_extra()
    from imageloom.engines.nodes.config import Credentials
    from imageloom.service.client import Client

    with closing(Client(address, service.overruled(Credentials(), **credentials))) as client:
        jobs = client.jobs()
    for job in jobs:
        fields = _fields(job)
        if as_json:
            say_json(fields)
            continue
        place = f"  {fields['pipeline']}  {fields['source']} -> {fields['sink']}" if job.source else ""
        why = f"  {fields['message']}" if fields["message"] else ""
        say(
            f"{fields['id']:<16}  {fields['state']:<9}  {fields['done']} done, {fields['failed']} failed, "
            f"{fields['skipped']} skipped, {fields['seconds']:.1f} s{place}{why}"
        )
    if not jobs and not as_json:
        say(f"the server {address} has no jobs; send one with `imageloom submit`", err=True)


def _fields(job: pb.JobEntry) -> dict[str, Any]:
    receipt = job.receipt
    states = {0: "waiting" if job.waits else "running", 1: "done", 2: "failed", 3: "cancelled"}
    return {
        "id": receipt.id,
        "state": states.get(receipt.status, "unknown"),
        "done": receipt.done,
        "failed": receipt.failed,
        "skipped": receipt.skipped,
        "seconds": receipt.seconds,
        "message": receipt.message,
        "pipeline": job.pipeline,
        "source": job.source,
        "sink": job.sink,
    }
