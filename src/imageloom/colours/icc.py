"""ICC profiles: their curves and matrices (ICC.1:2022, clauses 7 to 10)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_SPACES = {b"RGB ": "RGB", b"GRAY": "GRAY", b"CMYK": "CMYK", b"Lab ": "Lab"}
_D50 = (0.9642, 1.0, 0.8249)
_MOST_TAGS = 1024
_SRGB_MATRIX = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
"""Linear sRGB to XYZ of D50: the matrix of IEC 61966-2-1, adapted by Bradford's method."""
_PARAMETERS = (1, 3, 4, 5, 7)
"""The number of parameters by the type of a parametric curve."""


class Curve(NamedTuple):
    """A tone curve: from numbers of 0 to 1 to linear light (or, in a gray profile of Lab, to lightness)."""

    table: tuple[float, ...] = ()
    """Values at equal distances; empty for a formula."""
    kind: int = 0
    """The type of the parametric curve."""
    values: tuple[float, ...] = (1.0,)

    def __call__(self, x: Values) -> Values:
        if self.table:
            return np.interp(x, np.linspace(0, 1, len(self.table)), self.table)
        g, a, b, c, d, e, f = _padded(self.kind, self.values)
        bent = np.maximum(a * x + b, 0) ** g + e
        return np.clip(np.where(x >= d, bent, c * x + f), 0, 1)


def _padded(kind: int, values: tuple[float, ...]) -> tuple[float, ...]:
    """The parameters of the most general type, 4, for the same curve (ICC.1:2022, table 68)."""
    g, a, b, c, d, e, f = (*values, *[0.0] * (7 - len(values)))
    if kind == 0:
        return g, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if kind == 1:
        return g, a, b, 0.0, -b / a if a else 0.0, 0.0, 0.0
    if kind == 2:
        return g, a, b, 0.0, -b / a if a else 0.0, c, c
    return g, a, b, c, d, e, f


class Profile(NamedTuple):
    """What a profile contains."""

    data: bytes
    space: str
    """RGB, GRAY, CMYK or Lab."""
    is_lab: bool
    """Colours are converted to Lab, not XYZ."""
    curves: tuple[Curve, ...] = ()
    """One for each channel; empty if the profile is made of tables of colours."""
    matrix: tuple[tuple[float, ...], ...] = ()
    """Linear RGB to XYZ, in rows; empty for gray."""


@lru_cache(maxsize=64)
def parse(data: bytes) -> Profile | None:
    """The contents of a profile; None if it is damaged or of other colours."""
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError, KeyError):
        return None


def _parse(data: bytes) -> Profile:
    space, is_lab = _SPACES[data[16:20]], data[20:24] == b"Lab "
    if data[36:40] != b"acsp":
        raise ValueError("it has no signature")
    (count,) = struct.unpack_from(">I", data, 128)
    if count > _MOST_TAGS:
        raise ValueError("it has too many tags")
    tags: dict[bytes, bytes] = {}
    for i in range(count):
        name, at, size = struct.unpack_from(">4sII", data, 132 + 12 * i)
        tags[name] = data[at : at + size]
    if any(name in tags for name in (b"A2B0", b"A2B1", b"D2B1")) or space not in ("RGB", "GRAY"):
        return Profile(data, space, is_lab)
    if space == "GRAY":
        return Profile(data, space, is_lab, (_curve(tags[b"kTRC"]),))
    columns = [_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
    return Profile(data, space, is_lab, curves, tuple(zip(*columns, strict=True)))


def _xyz(tag: bytes) -> tuple[float, ...]:
    return tuple(value / 65536 for value in struct.unpack_from(">3i", tag, 8))


def _curve(tag: bytes) -> Curve:
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        values = struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)
        return Curve(kind=kind, values=tuple(value / 65536 for value in values))
    if tag[:4] != b"curv":
        raise ValueError("a curve is of an unknown type")
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return Curve()
    numbers = struct.unpack_from(f">{count}H", tag, 12)
    return Curve(values=(numbers[0] / 256,)) if count == 1 else Curve(tuple(n / 65535 for n in numbers))


def linear_srgb(profile: Profile, numbers: Values) -> Values:
    """The linear light in sRGB's primaries, from 0 to 1, of numbers from 0 to 1: gray (...), or RGB (..., 3)."""
    if profile.space == "GRAY":
        light = profile.curves[0](numbers)
        return _luminance(light) if profile.is_lab else light
    if numbers.ndim < 2 or numbers.shape[-1] != 3:
        numbers = np.stack([numbers] * 3, axis=-1)
        gray: Values = linear_srgb(profile, numbers)[..., 1]
        return gray
    return mixed([curve(numbers[..., i]) for i, curve in enumerate(profile.curves)], to_srgb_matrix(profile))


def mixed(light: list[Values], matrix: Values) -> Values:
    """Channels of linear light multiplied by a matrix, and clipped.

    Channel by channel: the result of a matrix product may depend on the position of a pixel in its array.
    """
    r, g, b = light
    rows = [r * m[0] + g * m[1] + b * m[2] for m in matrix]
    clipped: Values = np.clip(np.stack(rows, axis=-1), 0, 1)
    return clipped


def to_srgb_matrix(profile: Profile) -> Values:
    """Linear RGB to linear sRGB."""
    matrix: Values = np.linalg.solve(_SRGB_MATRIX, np.array(profile.matrix))
    return matrix


def srgb_of_lab(lightness: Values, a: Values, b: Values) -> Values:
    """The linear light in sRGB's primaries, from 0 to 1, of CIELab with the white D50 (CIE 15)."""
    y = (lightness + 16) / 116
    xyz = [white * _cube(root) for white, root in zip(_D50, (y + a / 500, y, y - b / 200), strict=True)]
    return mixed(xyz, np.linalg.inv(_SRGB_MATRIX))


def _cube(root: Values) -> Values:
    light: Values = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 3 * (6 / 29) ** 2)
    return light


def _luminance(lightness: Values) -> Values:
    """The luminance Y, 0 to 1, of a lightness L*, 0 to 1 (CIE 15)."""
    return _cube((100 * lightness + 16) / 116)


def encoded(light: Values) -> Values:
    """The numbers of sRGB, 0 to 1, for linear light (IEC 61966-2-1)."""
    numbers: Values = np.where(
        light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055
    )
    return numbers
