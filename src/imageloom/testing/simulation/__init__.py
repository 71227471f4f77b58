"""Histories of whole runs in simulated time: real driver, ledger and scheduler; workers and network simulated.

One seed draws one history: the rules of the engine, and what goes wrong with items, workers, messages and the
driver, and when. Everything runs in one thread, and the same seed gives the same history. The modules `checks` and
`driver_checks` hold the laws that every history must keep to.
"""
