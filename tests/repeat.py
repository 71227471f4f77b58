"""Repeat the tests that start processes or servers or send signals, beside busy loops.

./check --repeat 10                      # all of them
./check --repeat 10 tests/test_redis.py  # those of a file; other arguments of pytest may follow too
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import click

LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""Keeps a core busy until the process that started it has ended."""
TAIL = 8000
"""Characters of a repetition's output that are shown where something failed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./check --repeat", description=__doc__.splitlines()[0])
    parser.add_argument("times", type=int, help="how often each test runs")
    parser.add_argument("--busy", type=int, default=2, metavar="N", help="busy loops beside the tests  [2]")
    given, arguments = parser.parse_known_args()
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(given.busy)]
    runs: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    try:
        for number in range(1, given.times + 1):
            began = time.monotonic()
            ran, failed, output = repetition(arguments)
            runs.update(ran)
            failures.update(failed)
            seconds = time.monotonic() - began
            click.echo(f"{number} of {given.times}: {len(ran)} tests, {len(failed)} failed, {seconds:.0f} s")
            if failed or not ran:
                click.echo(output[-TAIL:])
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    click.echo(table(runs, failures))
    return 1 if failures or not runs else 0


def repetition(arguments: list[str]) -> tuple[list[str], list[str], str]:
    """Run the tests once, in a new process: those that ran, those that failed, and what was printed."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        # No time-out: pytest-timeout bounds each test.
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-m", "processes and not long", f"--junitxml={results}"),
                *("-p", "no:cacheprovider", f"--basetemp={folder}/tests", "--tb=short", *arguments),
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        cases = list(ElementTree.parse(results).iter("testcase")) if results.exists() else []
    ran = {
        f"{case.get('classname')}::{case.get('name')}": case for case in cases if case.find("skipped") is None
    }
    failed = [
        name
        for name, case in ran.items()
        if case.find("failure") is not None or case.find("error") is not None
    ]
    if done.returncode not in (0, 1):  # the process itself was ended, as by a crash
        failed.append(f"pytest ended with {done.returncode}")
    return list(ran), failed, done.stdout


def table(runs: Counter[str], failures: Counter[str]) -> str:
    """A row for each file, and one for each test that failed."""
    rows = ["| test | runs | failures |", "|---|---|---|"]
    by_file: dict[str, list[str]] = {}
    for name in sorted(runs | failures):
        by_file.setdefault(name.partition("::")[0], []).append(name)
    for file, names in by_file.items():
        rows.append(f"| {file} | {sum(runs[n] for n in names)} | {sum(failures[n] for n in names)} |")
        rows += [f"| {name} | {runs[name]} | {failures[name]} |" for name in names if failures[name]]
    rows.append(f"| all {len(runs)} tests | {runs.total()} | {failures.total()} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
