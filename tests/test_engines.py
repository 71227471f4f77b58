"""The engines keep their contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from imageloom.engines import Engine, Settings, open_engine
from imageloom.engines.nodes.config import Credentials, NodeConfig
from imageloom.engines.nodes.node import WAITING_CALLS, Node
from imageloom.engines.nodes.rpc import NODE, Service
from imageloom.testing.engine_faults import EngineFaults, Refusal, Stage
from imageloom.testing.engines import EngineCore, EngineTests
from imageloom.worker.perform import results

HUNG = "test_a_hung_item_is_ended_at_its_time_out"
KILLED = "test_a_killed_worker_costs_only_what_it_had_in_hand"
THREE = "test_three_kills"
TOLD = "test_results_come_item_by_item"


class Fault(NamedTuple):
    """Why an engine fails a test."""

    reason: str
    always: bool = True
    """It fails each time: whoever mends it must remove its line. Else it fails by chance."""


KNOWN_FAULTS: dict[str, dict[str, Fault]] = {
    "dask": {
        THREE: Fault("Dask runs calls of a dead worker again: begun more often than charged", always=False),
    },
    "mpi": {
        THREE: Fault("a result that the first rank had not passed on is lost with the job", always=False),
    },
    "zeromq": {
        THREE: Fault("a result that its worker had sent may be lost with the worker", always=False),
    },
}
"""By engine: the tests that it fails, by name with or without the parameters."""


@pytest.fixture(autouse=True)
def _known_fault(request: pytest.FixtureRequest) -> None:
    faults = KNOWN_FAULTS.get(request.cls.engine, {})
    name = request.node.name
    if fault := faults.get(name) or faults.get(name.partition("[")[0]):
        always = fault.always and not issubclass(request.cls, TwoThreads)
        request.applymarker(pytest.mark.xfail(strict=always, reason=fault.reason))


class TestSerial(EngineTests):
    engine = "serial"
    settings = Settings(jobs=1)


class TestThreads(EngineTests):
    engine = "threads"


class TestThreadsThatWaitForStores(EngineTests):
    engine = "threads"
    settings = Settings(jobs=2, waits=True, in_flight=2)


class TestProcesses(EngineTests):
    engine = "processes"


class TestPipeline(EngineTests):
    engine = "pipeline"
    processes = 1
    in_hand = 2


class TestZeromq(EngineTests):
    engine = "zeromq"


class TestRedis(EngineTests):
    engine = "redis"


class TestMpi(EngineTests):
    engine = "mpi"


class TestDask(EngineCore, EngineFaults):
    engine = "dask"
    stray_threads = "Dask-Offload"


@pytest.mark.long
class TestDaskInFull(EngineTests):
    engine = "dask"
    stray_threads = "Dask-Offload"


class TwoThreads(EngineTests):
    """Two worker processes with two threads in each."""

    settings: ClassVar[Settings] = Settings(jobs=2, threads=2)
    in_hand = 2


@pytest.mark.long
class TestMpiWithThreads(TwoThreads):
    engine = "mpi"


@pytest.mark.long
class TestDaskWithThreads(TwoThreads):
    engine = "dask"
    stray_threads = "Dask-Offload"


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray does not wait for the servers that it ends
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestRay(EngineTests):
    engine = "ray"
    stray_files = 8  # logs of its first session, events of its threads

    @pytest.fixture(autouse=True)
    def _ray(self) -> None:
        pytest.importorskip("ray", reason="ray is large, and no part of the extra dev")


class TestNodes(EngineTests):
    engine = "nodes"

    @contextmanager
    def one_that_refuses(self, why: Refusal, stage: Stage, folder: Path) -> Iterator[Engine]:
        folder.mkdir()
        refusing = {
            "busy": NodeConfig(limit=1, acceptance="optional", load=1.0),
            "elsewhere": NodeConfig(limit=1, roots=(str(folder),)),
        }
        with ExitStack() as stack:
            addresses = []
            for config in (refusing[why], NodeConfig(limit=1)):
                node = Node(lambda task, _: results(task), config)
                service = Service(node, NODE, "127.0.0.1:0", Credentials(), WAITING_CALLS)
                stack.callback(service.close, None)
                addresses.append(f"127.0.0.1:{service.port}")
            yield stack.enter_context(closing(open_engine("nodes", Settings(connect=",".join(addresses)))))
