"""Fuzzing: changed inputs for all parsers of data that comes from elsewhere.

    python -m imageloom.testing.fuzzing --seconds 60
    python -m imageloom.testing.fuzzing header-png xmp --seconds 600

A target is a function of bytes. It may raise only errors of known classes, within limits of time and memory. The
targets are listed in `targets`: readers of files (`images`), other parsers (`texts`) and messages (`wires`).
"""
