"""Tests that others can run over what they add: one conformance suite for each contract. They need pytest."""
