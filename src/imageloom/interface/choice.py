"""The choice of the engine for `auto`."""

from __future__ import annotations

from msgspec.structs import replace

from imageloom import operators
from imageloom.engines import Settings
from imageloom.errors import UsageError
from imageloom.model import Job, Recipe
from imageloom.stores import is_remote
from imageloom.system.machine import available_cores
from imageloom.worker.guard import Guard

MOST_THREADS = 4
"""Most workers that `auto` runs as threads: a small photo holds Python's lock for about a tenth of its
time."""


def _of_the_main_program(recipe: Recipe) -> str:
    """The name of an operator that is defined in the main program; "" if there is none."""
    names = {step.name for output in recipe.outputs for step in output.steps}
    return next((name for name in names if operators.get(name).function.__module__ == "__main__"), "")


def choose_engine(engine: str, settings: Settings, job: Job) -> tuple[str, Settings, str]:
    """Choose the engine for `auto`, and the number of workers for 0 jobs.

    Returns:
        The engine's name, its settings, and the reason for the choice.

    Raises:
        UsageError: an operator is defined in the main program, and the engine's workers are other processes.
    """
    jobs = settings.jobs or available_cores()
    if own := _of_the_main_program(job.recipe):
        if engine not in ("auto", "serial", "threads"):
            raise UsageError(
                f"the operator {own!r} is defined in the main program, which workers of the engine {engine} do "
                "not load: move it into a file and name the file (Recipe.operators, --operators), or use "
                "engine='threads'"
            )
        if engine == "auto":
            engine = "threads"
    if engine == "redis" and settings.connect:
        jobs, why = settings.jobs, "only the workers of --jobs run here; others connect to the Redis server"
    elif engine != "auto":
        why = "selected by --engine"
    elif job.sandbox.untrusted:
        engine, why = "processes", "the images are untrusted"
    elif job.recipe.operators:
        engine, why = "processes", "your own operators may crash, hang or hold Python's lock (the GIL)"
    elif jobs == 1:
        engine, why = "serial", "there is only one worker"
    elif jobs <= MOST_THREADS:
        engine, why = "threads", f"up to {MOST_THREADS} workers scale well as threads"
    else:
        engine, why = "processes", f"more than {MOST_THREADS} threads would wait for Python's lock (the GIL)"
    if settings.bind and not settings.jobs:  # external workers process the items
        jobs = 0
    waits = is_remote(job.source) or is_remote(job.sink)
    settings = replace(settings, jobs=jobs, waits=waits, in_flight=job.in_flight, guard=Guard.of(job))
    return engine, settings, why
