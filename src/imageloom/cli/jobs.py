"""`imageloom jobs`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from imageloom.cli import options, service
from imageloom.cli.serverjobs import list_jobs
from imageloom.cli.text import say, say_json


class _Jobs(click.Group):
    """A group with a hint for a job that is given without `show`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; to show a job: imageloom jobs show {args[0]}")
        return super().resolve_command(ctx, args)


@click.group(
    "jobs",
    cls=_Jobs,
    invoke_without_command=True,
    short_help="List past runs, or show one run with its failures.",
)
@options.past_ledger_option
@click.option("--json", "json_", is_flag=True, help="Print one JSON object per run to stdout.")
@click.option(
    "--server",
    metavar="HOST:PORT",
    help="List the jobs of this server instead: those that run, those that wait, and the latest that have ended.",
)
@service.credential_options
@click.pass_context
def command(
    context: click.Context,
    /,
    ledger: Path | None,
    json_: bool,
    server: str | None,
    **credentials: str | None,
) -> None:
    """List the jobs (runs) in the ledger, the latest first. `imageloom jobs show JOB` shows one.

    \b
    imageloom jobs
    imageloom jobs show 7
    imageloom jobs show 7 --failed
    imageloom jobs --server 127.0.0.1:7000
    """
    if server:
        if context.invoked_subcommand is not None or ledger:
            raise click.UsageError("--server lists the jobs of a server: it excludes `show` and --ledger")
        list_jobs(server, json_, credentials)
        return
    if unused := [f"--{name}" for name, value in credentials.items() if value]:
        raise click.UsageError(f"{', '.join(unused)}: credentials are for --server: give its address")
    from imageloom.records.ledger import Ledger

    context.obj = context.with_resource(Ledger(ledger)), json_
    if context.invoked_subcommand is not None:
        return
    for job in context.obj[0].jobs():
        if json_:
            say_json(job)
            continue
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))
        say(
            f"{job.id:>5}  {began}  {job.state:<11} {job.done} done, {job.failed} failed, "
            f"{job.skipped} skipped  {job.recipe}  {job.source} -> {job.sink}"
        )


@command.command("show", short_help="Show one job: its items, or only its failures.")
@click.argument("job")
@options.past_ledger_option
@click.option("--failed", is_flag=True, help="Show only the failed items.")
@click.option("--lost", is_flag=True, help="Show only the items that lost something or are damaged.")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of each failure, if it has one.")
@click.option("--json", "json_", is_flag=True, help="Print one JSON object per item to stdout.")
@click.option(
    "--parquet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the items as a table into this Parquet file instead.",
)
@click.pass_obj
@click.pass_context
def show(
    context: click.Context,
    obj: tuple[object, bool],
    ledger: Path | None,
    job: str,
    failed: bool,
    lost: bool,
    verbose: bool,
    json_: bool,
    parquet: Path | None,
) -> None:
    """Show the job JOB, a number or `last`: each item with its times and losses, or the reason of its failure.

    \b
    imageloom jobs show 7
    imageloom jobs show 7 --failed -v
    imageloom jobs show 7 --lost
    imageloom jobs show 7 --failed --json
    imageloom jobs show 7 --parquet items.parquet
    """
    from imageloom.records.ledger import Ledger
    from imageloom.records.losses import counted

    opened, json_above = obj
    assert isinstance(opened, Ledger)
    if ledger is not None:
        opened = context.with_resource(Ledger(ledger))
    found = next((j for j in opened.jobs() if job in (str(j.id), "last")), None)
    if found is None:
        raise click.BadParameter(
            f"there is no job {job} in {opened.path} (--ledger): give a number from `imageloom jobs`, or 'last'",
            param_hint="JOB",
        )
    chosen = "failed" if failed else None
    if parquet:
        from imageloom.records.parquet import write

        say(f"{write(parquet, opened.items(found.id, chosen, lost))} items in {parquet}")
        return
    as_json = json_ or json_above
    if not as_json:
        seconds = f"{found.finished - found.started:.2f} s" if found.finished else "not finished"
        say(f"job {found.id}: {found.state}, {seconds}, {found.engine} with {found.workers} workers")
        say(f"  {found.recipe}", f"  {found.source} -> {found.sink}")
        say(f"  {found.done} done, {found.failed} failed, {found.skipped} skipped")
        if losses := opened.losses(found.id):
            say(f"  lost: {counted(losses)}")
    has_hidden = has_items = False
    for item in opened.items(found.id, chosen, lost):
        has_items = True
        if as_json:
            say_json(item)
        elif item.failure:
            say(f"failed  {item.key}  {item.failure.kind}: {item.failure.message} (attempt {item.attempts})")
            trace = item.failure.trace.splitlines()
            say(*(f"    {line}" for line in trace if verbose))
            has_hidden |= bool(trace) and not verbose
        else:
            t = item.times
            say(
                f"done    {item.key}  read {1e3 * t.read:.1f}, decode {1e3 * t.decode:.1f}, "
                f"filter {1e3 * t.filter:.1f}, encode {1e3 * t.encode:.1f}, write {1e3 * t.write:.1f} ms"
            )
            say(*([f"    lost: {', '.join(item.dropped)}"] if item.dropped else []))
            say(*(f"    damaged: {warning}" for warning in item.warnings))
    if (failed or lost) and not (has_items or as_json):
        say("no item failed" if failed else "no item lost anything or is damaged")
    if has_hidden:
        say("-v shows the tracebacks of failures", err=True)
