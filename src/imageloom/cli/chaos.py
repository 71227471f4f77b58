"""`imageloom chaos`."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from imageloom.cli.text import say, say_json


class Rate(click.ParamType[float]):
    """How often something happens: 2/s, 30/min, or a number for each second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(s|min))?", str(value).strip())
        if found is None or not (number := float(found[1])):
            self.fail(f"{value!r} is no rate such as 2/s, 0.5/s or 30/min", param, ctx)
        return number / 60 if found[2] == "min" else number


@click.command("chaos", short_help="Run jobs while things go wrong, and prove that nothing is lost.")
@click.argument("pipeline")
@click.argument("source", type=click.Path(exists=True, file_okay=False))
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- RUN'S FLAGS]")
@click.option("--engine", required=True, metavar="NAME", help="As of `imageloom run`.")
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), default=2, show_default=True, help="Workers.")
@click.option("--kill-workers", type=Rate(), metavar="RATE", help="Kill a worker process, as 2/s.")
@click.option("--stop-workers", type=Rate(), metavar="RATE", help="Stop a worker process; it goes on later.")
@click.option("--kill-server", type=Rate(), metavar="RATE", help="Kill the Redis server; it comes back.")
@click.option("--kill-coordinator", type=Rate(), metavar="RATE", help="Kill the run; it is started again.")
@click.option("--cut", type=Rate(), metavar="RATE", help="Cut a connection: redis, zeromq, nodes.")
@click.option(
    "--fill-disk", type=Rate(), metavar="RATE", help="Have no byte left on the sink's disk for a while."
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds in which jobs are begun and faults injected.",
)
@click.option(
    "--pause",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds that a stopped worker or a full disk stays so.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds after the last fault within which a job must end.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of when faults fire, and whom they hit."
)
@click.option("--json", "json_", is_flag=True, help="The report as one JSON object, on stdout.")
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
    """Run PIPELINE over SOURCE on an engine, again and again into folders of its own, while faults are injected
    at random at the given rates. A run that ends before its work is done is started again by the same command.
    Then look from the outside: every output must be there and equal, byte for byte, to what the engine serial
    makes; nothing more may lie in the sink; a further run must find nothing to do; no process and no shared
    memory may be left.

    \b
    imageloom chaos 'resize 512x512' photos/ --engine processes --kill-workers 2/s
    imageloom chaos 'resize 512x512' photos/ --engine redis --kill-workers 2/s --kill-server 0.2/s
    imageloom chaos 'resize 512x512' photos/ --engine redis --kill-coordinator 10/min --cut 1/s --json
    imageloom chaos 'canny 60 150' photos/ --engine zeromq --cut 1/s --stop-workers 0.5/s --for 60 --seed 7
    imageloom chaos 'resize 50%' photos/ --engine threads --fill-disk 0.2/s -- --tile always

    Exit codes: 0 all is as it should be; 1 something is wrong; 2 usage; 4 the job fails without any fault.
    """
    import msgspec

    from imageloom.chaos import run_chaos
    from imageloom.chaos.model import Chaos
    from imageloom.engines import ENGINES
    from imageloom.errors import UsageError

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
        say_json({**msgspec.to_builtins(report), "cost": report.cost})
        return 1 if report.problems else 0
    for name, count in report.fired.items():
        say(f"{name:<18} {count:>5} times")
    say(f"{'starts of the run':<18} {report.starts:>5}")
    say(
        f"{report.jobs} jobs of {report.outputs} outputs, {report.disturbed / max(1, report.jobs):.2f} s each; "
        f"undisturbed {report.undisturbed:.2f} s: {report.cost:.2f} of its time"
    )
    for problem in report.problems:
        say(f"wrong: {problem}", err=True)
    if not report.problems:
        say("nothing is wrong: all outputs are there, equal to serial's, and nothing else is")
    return 1 if report.problems else 0
