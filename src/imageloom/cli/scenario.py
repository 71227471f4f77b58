"""`imageloom scenario`."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from imageloom.cli import service
from imageloom.cli.options.values import Number, Whole
from imageloom.cli.text import say

MANY = (10, 100, 1000)
"""Numbers of nodes in the large simulations."""
MOST_TASKS = 20_000
"""Maximum number of tasks in one simulation."""


@click.command("scenario", short_help="Compare the policies that choose nodes, measured and simulated.")
@click.option("--tasks", type=Whole(1), default=400, show_default=True, help="Number of tasks for 4 nodes.")
@click.option(
    "--load",
    type=Number(0, 1),
    default=0.9,
    show_default=True,
    help="Load of the loaded nodes, from 0 to 1.",
)
@click.option(
    "--delay",
    type=Number(0),
    default=0.3,
    show_default=True,
    help="Delay of a task on a loaded node, in seconds. Its probability is the load.",
)
@click.option(
    "--runs",
    type=Whole(1),
    default=3,
    show_default=True,
    help="Minimum number of runs of each scenario. Short scenarios have more.",
)
@click.option(
    "--choice",
    "choices",
    multiple=True,
    metavar="NAME",
    show_default="all",
    help="Policy to compare, such as random or least-loaded. Repeatable.",
)
@click.option("--no-real", is_flag=True, help="Only simulate; start no nodes.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a bar chart of the times to this SVG file.",
)
def command(
    tasks: int,
    load: float,
    delay: float,
    runs: int,
    choices: tuple[str, ...],
    no_real: bool,
    plot: Path | None,
) -> int:
    """Compare the policies on 4 nodes on this machine, of which 0 to 4 are loaded. Print a table of the times.

    Every policy (--choice) runs with both kinds of acceptance. Each scenario is measured and simulated. Then 10,
    100 and 1,000 nodes are simulated, with more tasks (up to 20,000) and cores in proportion, and a quarter of
    the nodes loaded. The simulation uses the duration of a task without delay and of a rejection, measured
    before each run. The whole command takes about 20 minutes, and with one --choice about 5 minutes.

    \b
    imageloom scenario --plot scenario.svg
    imageloom scenario --no-real --choice random --choice least-loaded
    """
    service.nodes_extra()
    from imageloom.bench.scenario import (
        SIMULATED,
        Costs,
        Scenario,
        cost_meter,
        simulate,
        simulated_mean,
        times_of,
    )
    from imageloom.scheduling.policies import CHOICES, open_choice
    from imageloom.system.machine import available_cores

    for choice in choices:
        open_choice(choice)
    pairs = [
        (acceptance, choice) for choice in choices or CHOICES for acceptance in ("mandatory", "optional")
    ]
    cores = min(available_cores(), 8)  # 4 nodes, each with 2 tasks at the same time
    usual = Costs(0.005, 0.001, cores)
    found: list[Costs] = []
    bars: list[tuple[str, float]] = []
    say("| loaded of 4 | choice | acceptance | real, s | simulated, s | ratio |", "|---|---|---|---|---|---|")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imageloom-")))
        measure = None if no_real else stack.enter_context(cost_meter(folder, tasks, cores))
        for loaded in range(5):
            loads = (load,) * loaded + (0.0,) * (4 - loaded)
            for acceptance, choice in pairs:
                scenario = Scenario(acceptance, choice, loads, tasks=tasks, delay=delay)  # type: ignore[arg-type]
                times, costs = times_of(scenario, folder, measure, runs) if measure else ([], usual)
                real = statistics.mean(times) if times else 0.0
                simulated = simulated_mean(scenario, costs, len(times) or SIMULATED)
                shown = (f"{real:.2f}", f"{simulated / real:.2f}") if real else ("-", "-")
                say(f"| {loaded} | {choice} | {acceptance} | {shown[0]} | {simulated:.2f} | {shown[1]} |")
                bars.append((f"{loaded} loaded, {choice}, {acceptance}", real or simulated))
                found.append(costs)
    task, rejection = (
        statistics.median(each) for each in zip(*((c.task, c.rejection) for c in found), strict=True)
    )
    say(
        "",
        f"CPU time on {cores} cores: {1000 * task:.1f} ms for a task without delay, "
        f"{1000 * rejection:.1f} ms for a rejection "
        + ("(medians of the measurements)" if measure else "(assumed, not measured)"),
    )
    say("", "| nodes, a quarter loaded | choice | acceptance | simulated, s |", "|---|---|---|---|")
    for count in MANY:
        for acceptance, choice in pairs:
            loads = (load,) * (count // 4) + (0.0,) * (count - count // 4)
            many = min(MOST_TASKS, tasks * count // 4)
            scenario = Scenario(acceptance, choice, loads, tasks=many, delay=delay)  # type: ignore[arg-type]
            seconds = simulate(scenario, Costs(task, rejection, max(1, cores * count // 4)), 0)
            say(f"| {count} | {choice} | {acceptance} | {seconds:.2f} |")
    if plot:
        plot.write_text(_svg(bars), encoding="utf-8")
    return 0


def _svg(bars: list[tuple[str, float]]) -> str:
    """A bar chart with one bar per scenario."""
    longest = max(seconds for _, seconds in bars) or 1.0
    rows = "".join(
        f'<text x="4" y="{18 * number + 14}">{name}</text>'
        f'<rect x="290" y="{18 * number + 3}" width="{400 * seconds / longest:.1f}" height="13" fill="#47a"/>'
        f'<text x="{296 + 400 * seconds / longest:.1f}" y="{18 * number + 14}">{seconds:.2f} s</text>'
        for number, (name, seconds) in enumerate(bars)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="770" height="{18 * len(bars) + 6}" '
        f'font-family="sans-serif" font-size="12">{rows}</svg>\n'
    )
