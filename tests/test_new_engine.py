"""An engine written as CONTRIBUTING.md says: its workers are plain subprocesses."""

import subprocess
import sys
from multiprocessing import Pipe

from imageloom.engines import ENGINES, Capabilities, Engine, Settings
from imageloom.scheduling.engine import TransportEngine
from imageloom.scheduling.pipes import PipeTransport
from imageloom.scheduling.protocol import End
from imageloom.scheduling.rules import Rules
from imageloom.testing.engines import EngineTests

WORKER = """import sys; from multiprocessing.connection import Connection; from imageloom.worker import process
process.serve(Connection(int(sys.argv[1])), threads=1, memory=0, in_flight=1)"""


class SubprocessTransport(PipeTransport):
    def __init__(self) -> None:
        super().__init__()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        ours, theirs = Pipe()
        file = theirs.fileno()
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(file)], pass_fds=[file])
        theirs.close()
        self.processes[str(process.pid)] = process
        self.add(str(process.pid), ours)

    def end(self, command: End) -> None:
        self.remove(command.worker)
        self.processes[command.worker].kill()

    def cause(self, worker: str) -> str:
        return f"exit code {self.processes[worker].wait()}"

    def close(self, patience: float) -> None:
        super().close(patience)
        for process in self.processes.values():
            process.wait(patience)


class Subprocesses(TransportEngine, Engine):
    capabilities = Capabilities(reports_results=True, ends_items=True, survives_death=True)

    def __init__(self, settings: Settings) -> None:
        rules = Rules(timeout=settings.timeout, jobs=settings.jobs)
        super().__init__("subprocesses", SubprocessTransport(), rules)


ENGINES.add("subprocesses", f"{__name__}:Subprocesses")


class TestSubprocesses(EngineTests):
    engine = "subprocesses"
