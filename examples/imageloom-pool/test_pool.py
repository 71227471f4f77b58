from imageloom.testing.engines import EngineCore


class TestPool(EngineCore):
    engine = "pool"
