"""`imageloom chaos`."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from imageloom.cli.options.values import Number, Whole
from imageloom.cli.text import say, say_json


class Rate(click.ParamType[float]):
    """A frequency, converted to events per second: 2/s, 30/min, or a number."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(s|min))?", str(value).strip())
        if found is None or not (number := float(found[1])):
            self.fail(f"{value!r} is not a rate, such as 2/s, 0.5/s or 30/min", param, ctx)
        return number / 60 if found[2] == "min" else number


@click.command("chaos", short_help="Run jobs while faults are injected, and check that nothing is lost.")
@click.argument("pipeline")
@click.argument("source", type=click.Path(exists=True, file_okay=False))
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- RUN'S FLAGS]")
@click.option("--engine", required=True, metavar="NAME", help="Engine to test; see `imageloom run --help`.")
@click.option(
    "-j",
    "--jobs",
    type=Whole(1, 1024),
    default=2,
    show_default=True,
    help="Number of workers in each run.",
)
@click.option(
    "--kill-workers", type=Rate(), metavar="RATE", help="Kill worker processes, at a rate like 2/s."
)
@click.option(
    "--stop-workers",
    type=Rate(),
    metavar="RATE",
    help="Suspend worker processes with SIGSTOP, and resume each after --pause.",
)
@click.option(
    "--kill-server", type=Rate(), metavar="RATE", help="Kill and restart the Redis server (engine redis)."
)
@click.option(
    "--kill-coordinator",
    type=Rate(),
    metavar="RATE",
    help="Kill the main process of the run, and start the run again.",
)
@click.option(
    "--cut", type=Rate(), metavar="RATE", help="Cut network connections (engines redis, zeromq, nodes)."
)
@click.option(
    "--fill-disk", type=Rate(), metavar="RATE", help="Fill the disk of the sink, and free it after --pause."
)
@click.option(
    "--for",
    "seconds",
    type=Number(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="How long jobs are started and faults are injected, in seconds.",
)
@click.option(
    "--pause",
    type=Number(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="How long a worker stays suspended or the disk stays full, in seconds.",
)
@click.option(
    "--patience",
    type=Number(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Time-out of a job after the last fault, in seconds.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the random numbers that select the times and targets of faults.",
)
@click.option("--json", "json_", is_flag=True, help="Print the report as one JSON object to stdout.")
def command(
    pipeline: str,
    source: str,
    flags: tuple[str, ...],
    engine: str,
    jobs: int,
    kill_workers: float | None,
    stop_workers: float | None,
    kill_server: float | None,
    kill_coordinator: float | None,
    cut: float | None,
    fill_disk: float | None,
    seconds: float,
    pause: float,
    patience: float,
    seed: int,
    json_: bool,
) -> int:
    """Run PIPELINE over SOURCE on an engine, repeatedly, while faults are injected at random times at the given
    rates.

    Each job writes into a new folder. A run that ends before its job is done is started again with the same
    command. After each job, these checks must pass: every output exists and is identical, byte for byte, to the
    output of the engine serial; the sink has no other files; one more run has nothing to do; no process and no
    shared memory is left. Flags after -- are passed to `imageloom run`.

    \b
    imageloom chaos 'resize 512x512' photos/ --engine processes --kill-workers 2/s
    imageloom chaos 'resize 512x512' photos/ --engine redis --kill-workers 2/s --kill-server 0.2/s
    imageloom chaos 'resize 512x512' photos/ --engine redis --kill-coordinator 10/min --cut 1/s --json
    imageloom chaos 'canny 60 150' photos/ --engine zeromq --cut 1/s --stop-workers 0.5/s --for 60 --seed 7
    imageloom chaos 'resize 50%' photos/ --engine threads --fill-disk 0.2/s -- --tile always

    Exit codes: 0 all checks passed; 1 a check failed, or a fault never happened; 2 usage error; 4 the job fails
    even without faults.
    """
    import msgspec

    from imageloom.chaos import run_chaos
    from imageloom.chaos.model import Chaos
    from imageloom.engines import ENGINES
    from imageloom.errors import UsageError
    from imageloom.recipes.pipeline import Pipeline

    if "--operators" not in flags and not pipeline.endswith((".yaml", ".yml")):
        Pipeline.parse(pipeline)
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}; there are: {', '.join(ENGINES.names())}")
    rates = {
        "kill-workers": kill_workers,
        "stop-workers": stop_workers,
        "kill-server": kill_server,
        "kill-coordinator": kill_coordinator,
        "cut": cut,
        "fill-disk": fill_disk,
    }
    asked = {name: rate for name, rate in rates.items() if rate}
    chaos = Chaos(
        pipeline,
        os.path.abspath(source),
        engine,
        asked,
        jobs=jobs,
        seconds=seconds,
        seed=seed,
        pause=pause,
        patience=patience,
        flags=flags,
    )
    report = run_chaos(chaos)
    if json_:
        say_json({**msgspec.to_builtins(report), "untested": report.untested, "cost": report.cost})
        return 1 if report.problems or report.untested else 0
    for name, count in report.fired.items():
        say(f"{name:<18} {count:>5} times")
    say(f"{'starts of the run':<18} {report.starts:>5}")
    say(
        f"{report.jobs} jobs of {report.outputs} outputs, {report.disturbed / max(1, report.jobs):.2f} s per job; "
        f"{report.undisturbed:.2f} s without faults: {report.cost:.2f} times as long with faults"
    )
    for problem in report.problems:
        say(f"wrong: {problem}", err=True)
    for name in report.untested:
        say(
            f"not tested: {name} never happened; give a higher rate, or a longer time (--for, now {seconds:g} s)",
            err=True,
        )
    if report.problems or report.untested:
        return 1
    say("all checks passed: all outputs exist and are identical to those of serial, and no other files exist")
    return 0
