"""Conditions of outputs, and fields of an item in the names of outputs and in texts of steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from imageloom import codecs
from imageloom.codecs.exiftexts import texts
from imageloom.codecs.metadata import Metadata
from imageloom.driver.naming import check_template, output_names
from imageloom.errors import MissingField, PipelineError, UsageError
from imageloom.model import Encoding, Frame, Header, Output, Recipe, Step
from imageloom.recipes import fields, when
from imageloom.recipes.plan import make_plan
from imageloom.recipes.recipe import parse_output, read_recipe
from program import Run, contents, draw, names
from program import imageloom as command

WIDE = Header("jpeg", Frame(3000, 2000, 3))
OPERATORS = """
from typing import Annotated
import numpy as np
from imageloom import Pixels, operator
from imageloom.operators import TEMPLATE

@operator("point", examples=("stamp a",))
def stamp(image: Pixels, *, text: Annotated[str, TEMPLATE] = "") -> Pixels:
    return np.full_like(image, len(text))
"""


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("width > 2000", True),
        ("width>3000", False),
        ("width >= 3k and height == 2000", True),
        ("pixels < 6M", False),
        ("pixels <= 6M", True),
        ("format == jpg", True),
        ("format != jpeg or portrait", False),
        ("not portrait and not square", True),
        ("not (landscape or square)", False),
        ("portrait or landscape and width < 10", False),
        ("(portrait or landscape) and channels == 3", True),
        ("alpha or gray or lossless", False),
        ("bits == 8 and pages == 1", True),
    ],
)
def test_conditions(condition: str, expected: bool) -> None:
    assert when.holds(condition, WIDE) is expected


def test_conditions_are_about_the_upright_image() -> None:
    turned = Header("jpeg", Frame(3000, 2000, 3), orientation=6)
    assert when.holds("portrait and width == 2000", turned)


@pytest.mark.parametrize(
    ("condition", "place", "hint"),
    [
        ("width > ", 8, "compared with a number"),
        ("wdth > 2", 1, "did you mean width"),
        ("width = 2", 7, "write =="),
        ("(portrait", 10, r"'\)' is missing"),
        ("portrait landscape", 10, "joined by and, or"),
        ("format > png", 8, "one of == !="),
        ("format == tga", 11, "there is no format 'tga'"),
        ("portrait and", 13, "a test is missing"),
        ("width > 5 $", 11, "'\\$' is not expected"),
    ],
)
def test_errors_of_conditions_name_the_position(condition: str, place: int, hint: str) -> None:
    with pytest.raises(PipelineError, match=f"at character {place}: .*{hint}"):
        when.parsed(condition)


def test_a_condition_stands_before_the_steps() -> None:
    assert read_recipe("when width > 20 | flip").outputs == (Output((Step("flip"),), when="width > 20"),)
    assert parse_output("big=when portrait | flip") == Output((Step("flip"),), "big", when="portrait")
    for text in ("when portrait", "when portrait |", "when portrat | flip"):
        with pytest.raises(PipelineError):
            read_recipe(text)


@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_outputs_are_made_where_their_conditions_hold(tmp_path: Path, engine: str) -> None:
    draw(tmp_path / "in/wide.png", 1, 60, 40)
    draw(tmp_path / "in/high.png", 2, 40, 60)
    draw(tmp_path / "in/even.png", 3, 50, 50)
    recipe = Recipe(
        (
            Output((Step("flip"),), "w", when="landscape"),
            Output((Step("flip"),), "h", when="portrait"),
            Output((Step("flip"),), "big", when="not square and width >= 60"),
        )
    )
    for numbers, skipped in (((3, 0, 0), 0), ((1, 0, 2), 2)):
        ran = Run(recipe, tmp_path / "in", tmp_path / "out", engine=engine, ledger=tmp_path / "l.db")  # type: ignore[arg-type]
        assert ran.numbers == numbers
        assert len(ran.skipped) == skipped
        assert sorted(contents(tmp_path / "out")) == ["big/wide.png", "h/high.png", "w/wide.png"]
    draw(tmp_path / "in/wide.png", 1, 50, 40)
    (tmp_path / "out/h/high.png").unlink()
    again = Run(recipe, tmp_path / "in", tmp_path / "out", engine=engine, ledger=tmp_path / "l.db")  # type: ignore[arg-type]
    assert again.done == ["even.png", "high.png", "wide.png"]


def exif_of(tags: dict[int, object]) -> bytes:
    block = Image.Exif()
    block.update(tags)
    return block.tobytes().removeprefix(b"Exif\0\0")


def test_texts_of_exif() -> None:
    assert texts(b"") == texts(b"II*\0\xff\xff\xff\xff") == {}
    block = exif_of(
        {
            271: "Canon \x07 Inc.  ",
            272: "",
            34665: {33434: IFDRational(4, 1000), 33437: IFDRational(28, 10), 34855: 200},
        }
    )
    assert texts(block) == {
        "Make": "Canon Inc.",
        "ExposureTime": "1/250",
        "FNumber": "2.8",
        "ISO": "200",
    }
    assert len(texts(exif_of({270: "x" * 5000}))["ImageDescription"]) == 200


NAMES = [
    ("{stem}-{width}x{height}.{ext}", "b-30x20.png"),
    ("{dir}/{format}/{stem}.{ext}", "a/png/b.png"),
    ("{exif.DateTimeOriginal:%Y/%m}/{stem}.{ext}", "2024/05/b.png"),
    ("{exif.DateTimeOriginal}/{stem}.{ext}", "2024-05-17 10-30-05/b.png"),
    ("{exif.Make}/{stem}.{ext}", "-..-etc/b.png"),
    ("{exif.Model:-no camera}/{stem}.{ext}", "no camera/b.png"),
    ("{exif.Artist:-}x/{stem}.{ext}", "x/b.png"),
    ("{{{stem}}}.{ext}", "{b}.png"),
]
VALUES = {"exif.DateTimeOriginal": "2024:05:17 10:30:05", "exif.Make": "../../etc"}


@pytest.mark.parametrize(("template", "expected"), NAMES)
def test_names(template: str, expected: str) -> None:
    header = Header("jpeg", Frame(60, 40, 3))
    recipe = Recipe((Output((Step("resize", {"size": "50%"}),), format="png", name=template),))
    (name,) = output_names("a/b.JPG", header, recipe, "", VALUES)
    assert name == expected


def test_a_missing_field_is_an_error_of_the_item(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png")
    ran = Run(
        "flip", tmp_path / "in", tmp_path / "out", name="{exif.Model}/{stem}.{ext}", ledger=tmp_path / "l"
    )
    assert ran.failed == {"a.png": "MissingField"}
    assert "{exif.Model:-none}" in ran.reason("a.png")


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("{stm}.{ext}", "at character 1: unknown field {stm} .did you mean {stem}"),
        ("{stem}{exif.Modl}", "at character 7: .*did you mean {exif.Model}"),
        ("{stem", "at character 1: write {{"),
        ("{stem!r}", "unknown field {stem!r}"),
        ("{stem:>9}", "after {stem comes ':-'"),
        ("{stem:%Y}", "stem is no date"),
        ("{stem}{exif.DateTime:%Q}", "%Q is none of"),
        ("fixed.{ext}", "{stem} is missing"),
        ("../{stem}.{ext}", "outputs must be inside the sink"),
    ],
)
def test_wrong_templates(template: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        check_template(template)


def test_two_outputs_of_one_name_fail_the_item(tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png")
    recipe = Recipe((Output((), name="{stem}.{ext}", when="width > 1"), Output((), name="{stem}.{ext}")))
    ran = Run(recipe, tmp_path / "in", tmp_path / "out", ledger=tmp_path / "l")  # type: ignore[arg-type]
    assert (ran.failed, contents(tmp_path / "out")) == ({"a.png": "DuplicateOutput"}, {})


def test_exif_of_a_file_in_names_and_steps(tmp_path: Path) -> None:
    """The fields are filled in while planning; the operator gets a plain text."""
    (tmp_path / "ops.py").write_text(OPERATORS)
    block = exif_of({271: "../Canon", 306: "2024:05:17 10:30:05"})
    photo = codecs.encode("jpeg", np.full((20, 30, 3), 9, np.uint8), Encoding(90), Metadata(block))
    (tmp_path / "in").mkdir()
    assert isinstance(photo, bytes)
    (tmp_path / "in/a.jpg").write_bytes(photo)
    ran = command(
        "run", "stamp '{stem} {exif.DateTime:%Y} {width} {exif.Model:-?}'", "in", "out", "--operators", "ops.py",
        "--name", "{exif.Make}/{exif.DateTime:%d}-{stem}.{ext}", "--format", "png", "--ledger", "l.db", "--engine",
        "processes", "-j", "1", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert names(tmp_path / "out") == ["-Canon", "-Canon/17-a.png"]
    data = (tmp_path / "out/-Canon/17-a.png").read_bytes()
    assert (codecs.decode(data, codecs.header_of(data)) == len("a 2024 30 ?")).all()
    ran = command("run", "stamp {stm}", "in", "out", "--operators", "ops.py", cwd=tmp_path)
    assert (ran.returncode, "unknown field {stm} (did you mean {stem}?)" in ran.stderr) == (2, True)


def test_a_plan_needs_the_fields_in_the_header() -> None:
    with pytest.raises(MissingField):
        fields.filled("{stem}", {})
    assert fields.filled("{width} {stem}", {"stem": "a", "width": "3"}) == "3 a"
    assert make_plan(WIDE, Recipe((Output((), when="portrait"),))).outputs == ()
