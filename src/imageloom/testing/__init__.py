"""Conformance tests for extensions: one suite each for operators, stores and engines.

They need the packages pytest and hypothesis.
"""
