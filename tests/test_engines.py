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


class TestRedis(EngineTests):
    engine = "redis"


class TestZeromq(EngineTests):
    engine = "zeromq"
