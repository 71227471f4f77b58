"""Simulation of whole runs: the driver, the ledger and the scheduler are real; time, workers and network are
simulated.

A seed determines one history: the rules of the engine, and the faults of items, workers, messages and the driver
with their times. Everything runs in one thread, so the same seed gives the same history. The modules `checks` and
`driver_checks` check invariants, called laws, in every history.
"""
