"""The engines keep their contract."""

from __future__ import annotations

from imageloom.testing.engines import EngineTests


class TestSerial(EngineTests):
    engine = "serial"
    workers = 1


class TestThreads(EngineTests):
    engine = "threads"


class TestProcesses(EngineTests):
    engine = "processes"
    shares_operators = False


class TestNodes(EngineTests):
    engine = "nodes"
    shares_operators = False
