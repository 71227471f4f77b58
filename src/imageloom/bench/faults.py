"""Runs whose workers are killed: all outputs must nevertheless exist and be identical, byte for byte."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress

import msgspec

from imageloom.bench.programs import PATIENCE
from imageloom.bench.records import Configuration, Fault
from imageloom.bench.work import Work, difference, digests
from imageloom.records.ledger import Ledger
from imageloom.records.timeline import RETRIED
from imageloom.report import recorded
from imageloom.system import machine


def with_kills(
    work: Work, configuration: Configuration, kills: int, expected: dict[str, str], patience: float = PATIENCE
) -> Fault:
    """Run the job and kill, `kills` times and evenly over the run, the worker that has just finished an item."""
    work.clear()
    command = work.command(configuration, work.photos, "--json")
    began = time.perf_counter()
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}  # each item as it is done
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        timer = threading.Timer(patience, _end, (process.pid,))
        timer.start()
        try:
            killed = _kill(process, [work.count * (n + 1) // (kills + 1) for n in range(kills)])
            process.wait()
        except BaseException:
            _end(process.pid)
            raise
        finally:
            timer.cancel()
    seconds = time.perf_counter() - began
    with Ledger(work.ledger) as ledger:
        job, timeline = recorded(ledger, None)
    again = sum(a.outcome == RETRIED for a in timeline.attempts)
    equal = difference(expected, digests(work.out)) == ""
    return Fault(configuration, killed, again, job.done, job.failed, equal, seconds)


def _kill(process: subprocess.Popen[bytes], targets: list[int]) -> int:
    """Kill a worker each time a number of items in `targets` is done. Returns the number of killed workers."""
    assert process.stdout is not None
    done = killed = 0
    for line in process.stdout:
        try:
            event = msgspec.json.decode(line)
        except msgspec.DecodeError:  # Ray's processes print there when a worker dies
            continue
        if event.get("event") != "done":
            continue
        done += 1
        if killed < len(targets) and done >= targets[killed]:
            killed += _kill_worker(event["worker"], process.pid)
    return killed


def _kill_worker(name: str, driver: int) -> bool:
    """Kill the process in a worker's name, if the driver has started it."""
    started = machine.process_tree(driver)[1:]
    for number in map(int, re.findall(r"\d+", name)):
        if number in started:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
                return True
    return False


def _end(driver: int) -> None:
    """Kill a run and all its processes."""
    for process in machine.process_tree(driver):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
