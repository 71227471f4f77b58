"""Real servers on loopback for tests and benchmarks: object stores, and a proxy that breaks connections."""
