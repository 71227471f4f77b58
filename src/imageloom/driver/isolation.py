"""Which items of a job can be processed in other processes, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imageloom import operators
from imageloom.engines import Engine
from imageloom.errors import UsageError
from imageloom.model import Header, Job, Recipe
from imageloom.operators.extern import is_installed
from imageloom.system.sandbox import Sandbox
from imageloom.worker.sandbox import check, is_needed

if TYPE_CHECKING:
    from imageloom.tiling.loader import Decoder, OpenDecoder


def foreign(recipe: Recipe) -> str:
    """The name of an operator that other processes cannot load; "" if there is none."""
    steps = (step.name for output in recipe.outputs for step in output.steps)
    modules = ((name, operators.get(name).function.__module__) for name in steps)
    return next((name for name, module in modules if not is_installed(module)), "")


def sandbox_of(job: Job, engine: Engine) -> Sandbox:
    """The sandbox for the tasks of a job.

    Raises:
        UsageError: it is required, but the kernel lacks it, or an operator cannot be loaded in it.
    """
    sandbox = job.sandbox
    if not sandbox.is_on:
        return Sandbox()
    check(sandbox)
    if engine.capabilities.shares_memory and (name := foreign(job.recipe)):
        if sandbox.untrusted or sandbox.mode == "require":
            raise UsageError(
                f"the operator {name!r} is defined in the main program, which a sandboxed process does not load: "
                "move it into a file and name the file (Recipe.operators, --operators)"
            )
        return Sandbox()
    return sandbox


def opener_of(sandbox: Sandbox, recipe: Recipe) -> OpenDecoder:
    """What decodes the files of large images for the driver."""
    from imageloom.tiling.loader import FileDecoder  # small images must not wait for these
    from imageloom.worker.large_sandbox import ChildDecoder

    def opened(file: int, header: Header) -> Decoder:
        if is_needed(sandbox, recipe, header):
            return ChildDecoder(file, header, sandbox)
        return FileDecoder(file, header)

    return opened
