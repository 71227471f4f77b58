"""Runs many commands of the program, each in a forked child: the imports are paid for once.

Reads a JSON list of argument lists from stdin, and prints one for each: its exit code and what it printed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Ran(NamedTuple):
    """One command: its exit code, stdout and stderr together."""

    code: int
    text: str


def run_all(commands: Sequence[Sequence[str]], folder: Path, seconds: float = 100) -> list[Ran]:
    """Run commands of imageloom, without their first word, one after the other in a folder."""
    ran = subprocess.run(
        [sys.executable, __file__],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=True,
    )
    return [Ran(*json.loads(line)) for line in ran.stdout.splitlines()]


def _run(arguments: list[str]) -> tuple[int, str]:
    from imageloom.cli import main

    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.argv = ["imageloom", *arguments]
            try:
                main()
            except SystemExit as end:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(end.code or 0))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(70)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read().decode(errors="replace")


if __name__ == "__main__":
    for name in (
        "cli.run",
        "cli.reporters",
        "cli.arguments",
        "driver.run",
        "records.ledger",
        "worker.perform",
    ):
        importlib.import_module(f"imageloom.{name}")  # once for all
    importlib.import_module("cv2")
    for arguments in json.load(sys.stdin):
        sys.stdout.write(json.dumps(_run(arguments)) + "\n")
