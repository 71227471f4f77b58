"""Fault injection: whole runs under faults, and checks from the outside that nothing is lost.

The runs are started as separate processes, with the command line. The expected outputs are made by the engine
serial.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imageloom.chaos.injector import Injector
from imageloom.chaos.model import Chaos, Report
from imageloom.chaos.processes import MARK, MarkedProcesses
from imageloom.chaos.site import Site
from imageloom.chaos.verdict import compare, left_in_memory
from imageloom.errors import StorageError

MOST_FAILURES = 10
"""A run is not restarted after this number of consecutive ends without an injected fault."""
TICK = 0.01
"""Seconds between two checks of the run and the faults."""
PERIOD = 0.5
"""Seconds between two checks of the processes' shared memory."""
END_TIMEOUT = 10.0
"""Seconds within which all processes of a run must end after it."""
SMALLEST_DISK = 32_000_000

Inspect = Callable[[Path], None]


def run_chaos(chaos: Chaos, inspect: Inspect = lambda sink: None) -> Report:
    """Run jobs under faults, one after the other, and report the results.

    Args:
        inspect: called with each sink before it is checked.

    Raises:
        UsageError: a fault is impossible on this engine or this system.
        StorageError: the job fails even without faults.
    """
    chaos.check()
    with tempfile.TemporaryDirectory(prefix="imageloom-chaos-") as folder:
        return _Experiment(chaos, os.path.realpath(folder), inspect).run()


class _Experiment:
    def __init__(self, chaos: Chaos, folder: str, inspect: Inspect) -> None:
        self._chaos, self._folder, self._inspect = chaos, folder, inspect
        self._mark = os.urandom(8).hex()
        self._processes = MarkedProcesses(self._mark, folder)
        self._coordinator: subprocess.Popen[bytes] | None = None
        self._was_killed = False
        self._starts = self._jobs = 0
        self._problems: list[str] = []

    def run(self) -> Report:
        try:
            return self._run()
        finally:
            self._processes.kill_all()

    def _run(self) -> Report:
        serial, outputs, size = self._make_reference()
        site = self._open_site(2 * size + SMALLEST_DISK if "fill-disk" in self._chaos.rates else 0)
        injector = Injector(self._chaos, self._processes, site, self._kill_coordinator)
        try:
            undisturbed = self._undisturbed(site, serial)
            began = time.monotonic()
            self._until = began + self._chaos.seconds
            disturbed = 0.0
            while not self._problems and self._has_time():
                disturbed += self._one_job(site, injector, serial)
        finally:
            injector.undo_all()
            self._kill_coordinator()
            site.close()
        self._problems += self._left_over()
        return Report(
            self._chaos.engine,
            self._chaos.seed,
            outputs,
            self._jobs,
            {name: injector.fired[name] for name in self._chaos.rates},
            self._starts,
            undisturbed,
            disturbed,
            tuple(self._problems),
        )

    def _has_time(self) -> bool:
        """Whether another job must be started. The first job always is."""
        runs = self._chaos.runs or self._jobs + 1
        return self._jobs < runs and (not self._jobs or time.monotonic() < self._until)

    # Runs without faults

    def _make_reference(self) -> tuple[Path, int, int]:
        """The folder, the number and the total bytes of the outputs of the engine serial."""
        site = Site(os.path.join(self._folder, "serial"), self._environment())
        command = self._command(site, "out", ["--engine", "serial"])
        if site.start(*command).wait() != 0:
            raise StorageError(f"the job fails even without faults: {_last_words(site)}")
        out = Path(site.view, "out")
        sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
        return out, len(sizes), sum(sizes)

    def _undisturbed(self, site: Site, serial: Path) -> float:
        """Duration of a job on the engine without faults, in seconds."""
        began = time.monotonic()
        code = site.start(*self._command(site, "undisturbed")).wait()
        seconds = time.monotonic() - began
        if code != 0:
            raise StorageError(f"the job fails even without faults: {_last_words(site)}")
        self._check_sink(site, "undisturbed", serial)
        return seconds

    # Runs under faults

    def _one_job(self, site: Site, injector: Injector, serial: Path) -> float:
        """Duration of a job under faults, from its start to its successful end, in seconds."""
        name = f"job{self._jobs + 1}"
        command = self._command(site, name)
        began = time.monotonic()
        if self._run_to_its_end(site, injector, command):
            self._jobs += 1
            seconds = time.monotonic() - began
            self._check_sink(site, name, serial, command)
            return seconds
        return time.monotonic() - began

    def _run_to_its_end(self, site: Site, injector: Injector, command: list[str]) -> bool:
        """Start a run, and restart it each time it ends before its job is done."""
        failures, looked = 0, 0.0
        injector.begin()
        self._start(site, command)
        assert self._coordinator is not None
        while True:
            now = time.monotonic()
            if now < self._until:
                injector.work()
            else:
                injector.undo_all()
            if now > looked + PERIOD:
                looked = now
                self._processes.record_shared_memory()
            code = self._coordinator.poll()
            if code == 0:
                injector.undo_all()
                return True
            if now > self._until + self._chaos.patience:
                self._problems.append(
                    f"a job did not end within {self._chaos.patience:g} s after the last fault"
                )
                return False
            if code is not None:
                failures = 0 if self._was_killed else failures + (now > self._until)
                if failures > MOST_FAILURES:
                    self._problems.append(
                        f"a job ended with exit code {code} on every restart: {_last_words(site)}"
                    )
                    return False
                self._start(site, command)
            time.sleep(TICK)

    def _start(self, site: Site, command: list[str]) -> None:
        self._coordinator, self._was_killed = site.start(*command), False
        self._starts += 1

    def _kill_coordinator(self) -> bool:
        if self._coordinator is None or self._coordinator.poll() is not None:
            return False
        self._coordinator.kill()
        self._was_killed = self._coordinator.wait() != 0  # it may have ended before
        return self._was_killed

    # Checks

    def _check_sink(self, site: Site, name: str, serial: Path, command: list[str] | None = None) -> None:
        """Compare a sink with that of serial, and check that one more run has nothing to do."""
        sink = Path(site.view, name)
        self._inspect(sink)
        self._problems += [f"{name}: {problem}" for problem in compare(sink, serial)]
        if command and not self._problems:
            before = {path: path.stat().st_mtime_ns for path in sink.rglob("*")}
            code = site.start(*command).wait()
            if code != 0 or {path: path.stat().st_mtime_ns for path in sink.rglob("*")} != before:
                self._problems.append(f"{name}: one more run was not a no-op: {_last_words(site)}")
        shutil.rmtree(sink)

    def _left_over(self) -> Iterator[str]:
        """Processes and shared memory that remain after the end. The processes are killed."""
        until = time.monotonic() + END_TIMEOUT
        while (left := self._processes.members()) and time.monotonic() < until:
            time.sleep(TICK)
        for process in left.values():
            yield f"a process is left: {process.pid} {process.words[:200]}"
        yield from left_in_memory(self._processes.shared)

    def _open_site(self, disk: int) -> Site:
        site = Site(os.path.join(self._folder, "site"), self._environment(), disk)
        if "cut" in self._chaos.rates:
            try:
                site.start_behind_proxies(self._chaos.engine, self._chaos.jobs, self._chaos.source)
            except BaseException:
                site.close()
                raise
        return site

    def _command(self, site: Site, name: str, engine: list[str] | None = None) -> list[str]:
        """The command line of a run into the sink with this name."""
        if engine is None:
            engine = ["--engine", self._chaos.engine, *(site.flags or ["--jobs", str(self._chaos.jobs)])]
        places = [self._chaos.source, os.path.join(site.sinks, name)]
        state = ["--ledger", os.path.join(site.folder, f"{name}.db"), "--quiet"]
        return ["run", self._chaos.pipeline, *places, *engine, *state, *self._chaos.flags]

    def _environment(self) -> dict[str, str]:
        temporary = os.path.join(self._folder, "tmp")
        os.makedirs(temporary, exist_ok=True)
        outside = {name: value for name, value in os.environ.items() if name != "IMAGELOOM_CONNECT"}
        return {**outside, MARK: self._mark, "TMPDIR": temporary}


def _last_words(site: Site) -> str:
    """The last lines of the output of the site's programs."""
    said = Path(site.folder, "log").read_text(errors="replace").strip().splitlines()
    return " / ".join(said[-3:]) or "it printed nothing"
