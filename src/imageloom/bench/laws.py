"""The two laws of speed-up, as figures of measured times."""

from __future__ import annotations

from collections.abc import Mapping


def amdahl(serial: float, workers: float) -> float:
    """The speed-up on so many workers of work of which a part is serial.

    G. Amdahl, "Validity of the single processor approach to achieving large scale computing capabilities",
    AFIPS 1967.
    """
    return 1 / (serial + (1 - serial) / workers)


def fit(seconds: Mapping[int, float]) -> float | None:
    """The serial part that suits times by workers best, by least squares; None without a time for one worker, or
    for that one alone. Below 0 where it went better than the law allows.

    Times in parts of the one for one worker are, by the law, 1/n + serial * (1 - 1/n): a line through 0.
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
    """The serial part that one measured speed-up shows; None for one worker.

    A. Karp and H. Flatt, "Measuring parallel processor performance", CACM 33(5), 1990.
    """
    if workers < 2:
        return None
    return (1 / speedup - 1 / workers) / (1 - 1 / workers)
