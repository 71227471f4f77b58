"""`python -m imageloom.testing.fuzzing`: runs fuzz targets, and stops at the first fault.

The input that shows a fault is added to the corpus. With atheris (the extra `fuzz`) the coverage of branches
guides the choice of inputs; otherwise the coverage of lines does, and the same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Runs the command. Returns its exit code: 1 if there is a fault, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(
        prog="python -m imageloom.testing.fuzzing", description="Run fuzz targets."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="names of targets; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each target (60)")
    parser.add_argument("--runs", type=int, default=0, help="maximum number of executions; 0: no limit")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations (0)")
    parser.add_argument("--corpus", type=Path, default=Path("tests/fuzz_corpus"), help="folder of inputs")
    parser.add_argument("--keep", action="store_true", help="add small inputs that reach new lines (--plain)")
    parser.add_argument("--plain", action="store_true", help="do not use atheris")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    given = parser.parse_args()
    guided = None if given.plain or given.list else _atheris()
    loop, table = _loaded() if guided is None else _instrumented(guided)
    if unknown := [name for name in given.targets if name not in table]:
        parser.error(f"there is no target {unknown[0]}; there are: {', '.join(table)}")
    if given.list:
        sys.stdout.write("".join(f"{name}\n" for name in table))
        return 0
    plan = loop.Plan(given.seconds, given.runs, given.seed, given.corpus, given.keep, guided)
    return _run([table[name] for name in given.targets or table], loop, plan)


def _atheris() -> Any:
    """The module, or None if it is not installed."""
    return importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None


def _loaded() -> tuple[Any, Any]:
    """The module of the loop, and the table of targets. They must be imported after atheris."""
    loop, targets = (
        importlib.import_module(f"imageloom.testing.fuzzing.{name}") for name in ("loop", "targets")
    )
    return loop, targets.all_targets()


def _instrumented(guided: Any) -> tuple[Any, Any]:
    """The same, and atheris measures their coverage."""
    with (
        contextlib.redirect_stderr(io.StringIO()),  # it names each module
        guided.instrument_imports(include=["imageloom"], enable_loader_override=False),
    ):
        return _loaded()


def _run(chosen: list[Any], loop: Any, plan: Any) -> int:
    unit = "edges" if plan.guided else "lines"
    total = 0
    for target in chosen:
        found = loop.run(target, plan)
        total += found.executions
        sys.stdout.write(f"{target.name:20} {found.executions:>11,} executions {found.covered:>6,} {unit}\n")
        if found.fault:
            path = loop.add_to_corpus(target, plan.corpus, found.culprit)
            sys.stdout.write(f"{found.fault}\nThe input is in {path}; seed {plan.seed}\n")
            return 1
        sys.stdout.flush()
    sys.stdout.write(f"{total:,} executions of {len(chosen)} targets: no fault\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
