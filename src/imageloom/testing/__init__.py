"""Conformance tests, one suite for each contract, so that others can run them over what they add.

They need the packages pytest and hypothesis.
"""
