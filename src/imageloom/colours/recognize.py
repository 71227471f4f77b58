"""Whether a profile is sRGB, by its values: names and descriptions differ and may be wrong."""

from __future__ import annotations

import numpy as np

from imageloom.colours.icc import Profile, Values, encoded, linear_srgb

_TOLERANCE = 1.5
"""Largest difference of a result, in levels of 8 bits, at which a profile is sRGB: programs write its curve as
tables and parameters of different precision."""
_GRID = np.linspace(0, 255, 9)


def is_srgb(profile: Profile) -> bool:
    """Whether the conversion to sRGB changes no value by more than `_TOLERANCE`."""
    if profile.space not in ("RGB", "GRAY"):
        return False
    if not profile.curves:
        return _is_unchanged(profile)
    numbers = np.linspace(0, 1, 256) if profile.space == "GRAY" else _grid() / 255
    found = encoded(linear_srgb(profile, numbers))
    return bool(np.abs(found - numbers).max() * 255 <= _TOLERANCE)


def _grid() -> Values:
    return np.stack(np.meshgrid(_GRID, _GRID, _GRID), axis=-1).reshape(-1, 3)


def _is_unchanged(profile: Profile) -> bool:
    """The same for a profile made of tables, by its conversion."""
    from imageloom.colours import littlecms  # such profiles are rare, and the library is large

    before = np.rint(_grid()).astype(np.uint8)[None]
    if profile.space == "GRAY":
        before = np.arange(256, dtype=np.uint8)[None]
    try:
        after = littlecms.converted(before, profile.data)
    except ValueError:
        return True  # it cannot be used
    return bool(np.abs(after.astype(int) - before).max() <= _TOLERANCE)
