"""Amdahl's law, and the metric of Karp and Flatt, for measured times."""

from __future__ import annotations

from collections.abc import Mapping


def amdahl(serial: float, workers: float) -> float:
    """The speed-up with a number of workers if a fraction of the work is serial.

    G. Amdahl, "Validity of the single processor approach to achieving large scale computing capabilities",
    AFIPS 1967.
    """
    return 1 / (serial + (1 - serial) / workers)


def fit(seconds: Mapping[int, float]) -> float | None:
    """Fit the serial fraction to times by number of workers, by least squares. None without a time for one worker,
    or with only that time. Negative if the times are better than the law allows.

    By the law, the time with n workers divided by that with one is 1/n + serial * (1 - 1/n).
    """
    if 1 not in seconds or len(seconds) < 2:
        return None
    above = below = 0.0
    for workers, time in seconds.items():
        x = 1 - 1 / workers
        above += x * (time / seconds[1] - 1 / workers)
        below += x * x
    return above / below


def karp_flatt(speedup: float, workers: int) -> float | None:
    """The serial fraction that follows from one measured speed-up; None for one worker.

    A. Karp and H. Flatt, "Measuring parallel processor performance", CACM 33(5), 1990.
    """
    if workers < 2:
        return None
    return (1 / speedup - 1 / workers) / (1 - 1 / workers)
