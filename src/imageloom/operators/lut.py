"""Tables of colours: .cube files and HALD pictures."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from imageloom.errors import OperatorRefused
from imageloom.model import Frame, Pixels
from imageloom.operators.named import Digest, File, loaded
from imageloom.operators.pictures import decoded
from imageloom.operators.registry import operator
from imageloom.operators.values import in_bands, in_range, top_of

MOST_SIDE = 144
"""Maximum number of entries along each axis of a table of three dimensions: that of a HALD picture of level 12."""
MOST_ENTRIES = 65_536
"""Maximum number of entries of a table of one dimension."""
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")


class Table(NamedTuple):
    """A table of colours."""

    entries: NDArray[np.float32]
    """(n, 3): a curve for each channel; or (n, n, n, 3), indexed by blue, green and red."""
    low: NDArray[np.float32]
    """The R, G and B of the first entry; black for most tables."""
    high: NDArray[np.float32]


def table_of(data: bytes) -> Table:
    """The table in a file.

    Raises:
        OperatorRefused: it is neither a .cube file nor a HALD picture, or is damaged.
    """
    return _from_hald(data) if data.startswith(_PICTURES) else _from_cube(data)


def _from_hald(data: bytes) -> Table:
    """A picture with all colours, red first (E. Eskelinen's Hald CLUT): level**3 pixels wide and high."""
    pixels = decoded(data)
    height, width = pixels.shape[:2]
    level = round(width ** (1 / 3))
    if height != width or level**3 != width or level < 2 or pixels.ndim == 2:
        raise OperatorRefused(
            f"the picture of {width}x{height} is no HALD table: it must have colours, and 8, 27, 64, 125, ... "
            "pixels on each side"
        )
    side = level * level
    entries = pixels[..., :3].astype(np.float32) / np.float32(top_of(pixels.dtype))
    return Table(
        np.ascontiguousarray(entries).reshape(side, side, side, 3),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
    )


def _from_cube(data: bytes) -> Table:
    """Adobe's Cube LUT Specification 1.0, and the words of DaVinci Resolve for the range of the input."""
    side, is_curve, start = 0, False, 0
    low: NDArray[np.float64] = np.zeros(3)
    high: NDArray[np.float64] = np.ones(3)
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    try:
        for start, line in enumerate(lines):  # noqa: B007 - where the entries begin
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0][0] in "+-.0123456789":
                break
            if words[0] in ("LUT_1D_SIZE", "LUT_3D_SIZE"):
                side, is_curve = int(words[1]), words[0] == "LUT_1D_SIZE"
            elif words[0] == "DOMAIN_MIN":
                low = np.array(words[1:4], np.float64)
            elif words[0] == "DOMAIN_MAX":
                high = np.array(words[1:4], np.float64)
            elif words[0] in ("LUT_1D_INPUT_RANGE", "LUT_3D_INPUT_RANGE"):
                low, high = np.full(3, float(words[1])), np.full(3, float(words[2]))
    except (ValueError, IndexError):
        raise OperatorRefused(f"the .cube file is damaged in line {start + 1}") from None
    if not 2 <= side <= (MOST_ENTRIES if is_curve else MOST_SIDE):
        raise OperatorRefused(
            "it is neither a HALD picture nor a .cube file with LUT_3D_SIZE from 2 to "
            f"{MOST_SIDE} or LUT_1D_SIZE from 2 to {MOST_ENTRIES:,}"
        )
    text = " ".join(line for line in lines[start:] if not line.lstrip().startswith("#"))
    count = 3 * (side if is_curve else side**3)
    try:
        entries = np.array(text.split(), np.float32)
    except ValueError:
        raise OperatorRefused("the .cube file is damaged: an entry is not a number") from None
    if len(entries) != count or not np.isfinite(entries).all():
        raise OperatorRefused(f"the .cube file has {len(entries):,} numbers for {count:,}")
    if (
        low.shape != (3,)
        or high.shape != (3,)
        or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all()
    ):
        raise OperatorRefused("the .cube file has no valid range of its input")
    shape = (side, 3) if is_curve else (side, side, side, 3)
    return Table(entries.reshape(shape), low.astype(np.float32), high.astype(np.float32))


def _colour(frame: Frame, **_: object) -> str | None:
    return None if frame.channels > 2 else "the image is gray, and a table is of colours"


@operator(
    "point",
    ranged=True,
    refuse=_colour,
    file="file",
    examples=("lut warm.cube", "lut warm.cube amount=0.5"),
)
def lut(
    image: Pixels,
    *,
    file: File,
    amount: Annotated[float, Meta(ge=0, le=1)] = 1.0,
    digest: Digest = "",
) -> Pixels:
    """Look colours up in a file: a .cube file of one or three dimensions, or a HALD picture (PNG).

    Between the entries, the result is interpolated linearly along each axis. amount is the share of the result,
    from 0 to 1; the rest is the image. Values are used as they are: the table must be for the image's colours.

    A run remembers the content of the file: if it is edited, outputs are made again.
    """
    table = loaded(file, digest, table_of)
    top = np.float32(top_of(image.dtype))

    def look_up(pixels: Pixels) -> Pixels:
        values: NDArray[Any] = pixels.astype(np.float32) / top
        found = _curves(values, table) if table.entries.ndim == 2 else _cubes(values, table)
        if amount < 1:
            found = values + (found - values) * np.float32(amount)
        return in_range(found * top, image.dtype)

    return in_bands(look_up, image)


def _places(values: NDArray[np.float32], table: Table) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The entry before each value, and the distance from it."""
    side = len(table.entries)
    places = (values - table.low) * (np.float32(side - 1) / (table.high - table.low))
    np.clip(places, 0, side - 1, out=places)
    before = np.minimum(places.astype(np.intp), side - 2)
    return before, places - before.astype(np.float32)


def _curves(values: NDArray[np.float32], table: Table) -> NDArray[np.float32]:
    before, rest = _places(values, table)
    channels = np.arange(3)
    low, high = table.entries[before, channels], table.entries[before + 1, channels]
    found: NDArray[np.float32] = low + (high - low) * rest
    return found


def _cubes(values: NDArray[np.float32], table: Table) -> NDArray[np.float32]:
    """Interpolated between the eight entries around each colour."""
    before, rest = _places(values, table)
    side = len(table.entries)
    first = (before[..., 2] * side + before[..., 1]) * side + before[..., 0]
    entries = table.entries.reshape(-1, 3)
    red, green, blue = (rest[..., channel, None] for channel in range(3))

    def along_red(offset: int) -> NDArray[np.float32]:
        low, high = entries.take(first + offset, axis=0), entries.take(first + offset + 1, axis=0)
        mixed: NDArray[np.float32] = low + (high - low) * red
        return mixed

    def along_green(offset: int) -> NDArray[np.float32]:
        low, high = along_red(offset), along_red(offset + side)
        return low + (high - low) * green

    low, high = along_green(0), along_green(side * side)
    return low + (high - low) * blue
