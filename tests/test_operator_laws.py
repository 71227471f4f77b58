"""The laws of operators over everything that is registered."""

from imageloom.testing.operators import OperatorTests


class TestOperators(OperatorTests):
    pass
