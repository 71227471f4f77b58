"""The engines keep their contract."""

from __future__ import annotations

import pytest

from imageloom.engines import Engine, Settings, open_engine
from imageloom.testing.engines import EngineCore, EngineTests


class TestSerial(EngineTests):
    engine = "serial"
    workers = 1


class TestThreads(EngineTests):
    engine = "threads"


class TestThreadsThatWaitForStores(EngineTests):
    engine = "threads"

    def open_engine(self) -> Engine:
        return open_engine(self.engine, Settings(jobs=2, waits=True, in_flight=2))


class TestProcesses(EngineTests):
    engine = "processes"
    shares_operators = False


class TestPipeline(EngineTests):
    engine = "pipeline"


class TestZeromq(EngineTests):
    engine = "zeromq"


class TestRedis(EngineTests):
    engine = "redis"


class TestMpi(EngineTests):
    engine = "mpi"


class TestDask(EngineCore):
    engine = "dask"
    stray_threads = "Dask-Offload"


@pytest.mark.long
class TestDaskInFull(EngineTests):
    engine = "dask"
    stray_threads = "Dask-Offload"


class TwoThreads(EngineTests):
    """Two worker processes with two threads in each."""

    def open_engine(self) -> Engine:
        return open_engine(self.engine, Settings(jobs=2, threads=2))


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
    shares_operators = False
