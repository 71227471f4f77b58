"""Each thing in a file is kept, or reported as dropped, or the file is refused: for every cell of the table of
formats and things, through resize, crop, rotation, grayscale and every format. Read by Pillow."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cells import CELLS, STILL, WAYS, Cell, picture, wrong
from cells_newer import BOXES, RENDERED
from imageloom import codecs
from imageloom.codecs import table
from imageloom.codecs.metadata import things
from imageloom.errors import UnsupportedImage

PAGE = Path(__file__).parent.parent / "docs" / "formats.md"
NOT_YET = {
    ("tiff", "IPTC"),
    ("tiff", "density"),
    ("tiff", "georeference"),
    ("tiff", "private metadata"),
    ("tiff", "text"),
}
"""Cells of which something is still lost in silence."""
RIGHT = [cell for cell in CELLS if (cell.format, cell.thing) not in NOT_YET]


@pytest.mark.parametrize(("pipeline", "options"), WAYS, ids=str)
def test_each_thing_is_kept_or_reported(pipeline: str, options: dict[str, Any], tmp_path: Path) -> None:
    assert wrong(RIGHT, tmp_path, pipeline, **options) == []


@pytest.mark.parametrize(("pipeline", "options"), WAYS, ids=str)
def test_each_thing_in_files_of_boxes(pipeline: str, options: dict[str, Any], tmp_path: Path) -> None:
    assert wrong(BOXES, tmp_path, pipeline, **options) == []


@pytest.mark.parametrize("options", [{}, pytest.param({"format": "jxl"}, marks=pytest.mark.long)], ids=str)
def test_each_thing_in_rendered_files(options: dict[str, Any], tmp_path: Path) -> None:
    assert wrong(RENDERED, tmp_path, STILL, **options) == []


@pytest.mark.parametrize("cell", [*RIGHT, *BOXES, *RENDERED], ids=lambda cell: cell.name)
def test_the_table_has_what_readers_find(cell: Cell) -> None:
    data = cell.make(picture())
    try:
        header = codecs.header_of(data)
        codecs.decode(data, header)
    except UnsupportedImage:
        return
    metadata = codecs.read_metadata(data, header.format)
    found = things(metadata).union(metadata.found)
    assert cell.thing in found or (cell.thing == "pages" and header.pages > 1)
    assert found <= table.reads(header.format)


STEPS = (
    "resize 50%",
    "resize 60x30",
    "crop 8x6",
    "rotate 90",
    "rotate 180",
    "flip",
    "grayscale",
    "gaussian_blur 1",
    "invert",
)
FORMATS = (None, "jpeg", "png", "webp", "tiff", "avif", "bmp", "pnm", "heif", "jxl", "jp2")


def check_drawn(
    cell: Cell, size: tuple[int, int], mode: str, steps: tuple[str, ...], format: str | None, tile: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        drawn = picture(*size, mode)
        found = wrong([cell], Path(folder), " | ".join(steps), drawn, format=format, tile=tile)
        assert found == []


drawn = given(
    cell=st.sampled_from(RIGHT),
    size=st.tuples(st.integers(64, 90), st.integers(64, 90)),
    mode=st.sampled_from(("RGB", "L")),
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=3).map(tuple),
    format=st.sampled_from(FORMATS),
    tile=st.sampled_from(("never", "always")),
)
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=_SLOW)
@drawn
def test_drawn_files(**case: Any) -> None:
    check_drawn(**case)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=5000, deadline=None, suppress_health_check=_SLOW)
@drawn
def test_many_drawn_files(**case: Any) -> None:
    check_drawn(**case)


def test_the_page_of_formats_is_up_to_date() -> None:
    text = "".join(f"{line}\n" for line in table.markdown())
    assert PAGE.read_text() == text, "run: python -m imageloom.codecs.table > docs/formats.md"


def test_each_format_has_a_cell() -> None:
    cells = (*CELLS, *BOXES, *RENDERED)
    assert {cell.format for cell in cells} == {
        format for format in codecs.formats() if codecs.is_read(format)
    }
    names = [cell.name for cell in cells]
    assert all(one != other for one, other in itertools.combinations(names, 2))
