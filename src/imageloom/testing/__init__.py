"""Conformance tests that ship with imageloom, so that others can run them over what they add.

They need the packages hypothesis and pytest.
"""
