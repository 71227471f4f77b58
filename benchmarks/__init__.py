"""Benchmarks: whole programs, in alternating runs, as ratios of one run."""
