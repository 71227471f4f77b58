"""Builds ICC profiles for colours that a file states by codes or numbers (ICC.1:2022; ITU-T H.273)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ADOBE_RGB = "Adobe RGB"
Point = tuple[float, float]
_D65: Point = (0.3127, 0.3290)
_C: Point = (0.310, 0.316)
PRIMARIES: dict[int, tuple[Point, Point, Point, Point]] = {
    1: (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    4: (_C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: (_C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""White, red, green and blue as x and y, by the code of colour primaries."""
_ADOBE = (_D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
TRANSFERS: dict[int, tuple[float, ...]] = {
    1: _BT709_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: _BT709_CURVE,
    8: (1.0,),
    13: _SRGB_CURVE,
    14: _BT709_CURVE,
    15: _BT709_CURVE,
}
"""Parameters of the curve to linear light, by the code of transfer characteristics: g, or g, a, b, c, d of ICC's
parametric type 3. The function of BT.709 is inverted, as browsers do."""
_STEPS = 1024
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
Matrix = NDArray[np.float64]


@lru_cache(maxsize=64)
def built(text: str, is_gray: bool) -> bytes:
    """The profile for a text of `colours`, of gray or RGB pixels; empty if there is none: HDR, or no triangle."""
    kind, *words = text.split()
    values = [int(word) for word in words if word.isdigit()]
    points: Sequence[Point] = _ADOBE
    curve: tuple[float, ...] = (2.19921875,)
    if kind == "cicp":
        if values[1] not in TRANSFERS:
            return b""
        points, curve = PRIMARIES[values[0]], TRANSFERS[values[1]]
    elif kind == "gamma":
        points, curve = PRIMARIES[1], (100_000 / values[0],) if values[0] else _SRGB_CURVE
        if len(values) == 9:
            pairs = [value / 100_000 for value in values[1:]]
            points = tuple(zip(pairs[::2], pairs[1::2], strict=True))
    if not 0.01 < curve[0] < 100:
        return b""
    if is_gray:
        return _profile(b"GRAY", _curve(curve), None)
    columns = _columns(points)
    return b"" if columns is None else _profile(b"RGB ", _curve(curve), columns)


def _columns(points: Sequence[Point]) -> Matrix | None:
    """The matrix of linear RGB to XYZ of D50; None if the points are no triangle around the white."""
    if min(y for _, y in points) <= 0:
        return None
    white, *corners = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in points)
    matrix = np.stack(corners, axis=1)
    if abs(np.linalg.det(matrix)) < 1e-6:
        return None
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted: Matrix = np.linalg.solve(_BRADFORD, cones[:, None] * (_BRADFORD @ matrix))
    return adapted if np.isfinite(adapted).all() and np.abs(adapted).max() < 100 else None


def _profile(space: bytes, curve: bytes, columns: Matrix | None) -> bytes:
    """A profile of version 2.4, which all programs read, without a date: the same colours give the same bytes."""
    name = b"imageloom\0"
    description = b"desc" + bytes(4) + len(name).to_bytes(4) + name + bytes(78)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + name, b"wtpt": _xyz(_D50)}
    if columns is None:
        tags[b"kTRC"] = curve
    else:
        tags |= {name: _xyz(columns[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    at = 132 + 12 * len(tags)
    table, body, places = [], bytearray(), dict[bytes, int]()
    for tag, data in tags.items():
        if data not in places:
            places[data] = at + len(body)
            body += data + bytes(-len(data) % 4)
        table.append(struct.pack(">4sII", tag, places[data], len(data)))
    head = struct.pack(
        ">I4sI4s4s4s12s4s24sI12s48s",
        at + len(body),
        bytes(4),
        0x02400000,
        b"mntr",
        space,
        b"XYZ ",
        bytes(12),
        b"acsp",
        bytes(24),
        0,
        _xyz(_D50)[8:],
        bytes(48),
    )
    return head + struct.pack(">I", len(tags)) + b"".join(table) + bytes(body)


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * float(value)) for value in values))


def _curve(parameters: tuple[float, ...]) -> bytes:
    """An exponent if it has enough bits, otherwise a table."""
    steps = 256 * parameters[0]
    if len(parameters) == 1 and steps == int(steps):
        return b"curv" + bytes(4) + struct.pack(">IH", 1, int(steps))
    x = np.arange(_STEPS) / (_STEPS - 1)
    if len(parameters) == 1:
        light = x ** parameters[0]
    else:
        g, a, b, c, d = parameters
        light = np.where(x >= d, (a * x + b) ** g, c * x)
    return b"curv" + bytes(4) + _STEPS.to_bytes(4) + np.rint(65535 * light).astype(">u2").tobytes()
