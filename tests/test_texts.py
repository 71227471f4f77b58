"""Texts over images: drawn, ordered and joined as they are written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from imageloom import Pipeline
from imageloom.bench.samples import draw_photo
from imageloom.errors import OperatorRefused, PipelineError
from imageloom.model import Pixels, Step
from imageloom.operators.texts import FONT
from imageloom.recipes.pipeline import to_text

BLACK = np.zeros((80, 300), np.uint8)


def drawn(text: str, **options: object) -> Pixels:
    """The text in white on black."""
    return Pipeline().then("text", text, **{"gravity": "northwest", "margin": 4, "size": 30, **options})(
        BLACK
    )


def columns(image: Pixels) -> list[Pixels]:
    """The parts of a text between empty columns."""
    used = np.flatnonzero(np.diff(np.concatenate(([0], image.any(axis=0).astype(int), [0]))))
    return [image[:, start:stop] for start, stop in zip(used[::2], used[1::2], strict=True)]


@pytest.mark.parametrize("letter", ["H", "g", "Ж", "Ω", "@"])
def test_a_letter_is_that_of_freetype(letter: str) -> None:
    """As Pillow draws it without shaping."""
    font = ImageFont.truetype(str(FONT), 30, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("L", (300, 80))
    box = ImageDraw.Draw(canvas).textbbox((0, 0), letter, font)
    ImageDraw.Draw(canvas).text((4 - box[0], 4 - box[1]), letter, 255, font)
    made = drawn(letter).astype(int)
    assert (np.abs(made - np.asarray(canvas)) <= 2).mean() >= 0.999


@pytest.mark.parametrize("size", [10, 30])
@pytest.mark.parametrize("photo", [draw_photo(1, 120, 90), draw_photo(1, 120, 90)[..., 0].copy()])
def test_a_color_with_alpha_is_mixed(photo: Pixels, size: int) -> None:
    made = Pipeline(f"text X size={size} color=#ff000080 gravity=center")(photo)
    opaque = Pipeline(f"text X size={size} color=#ff0000 gravity=center")(photo)
    mixed = photo + (opaque.astype(float) - photo) * 128 / 255
    assert np.abs(made - mixed).max() <= 1


def test_gravities_and_margins() -> None:
    for gravity, rows, places in (
        ("northwest", slice(9, 10), slice(9, 10)),
        ("southeast", slice(70, 71), slice(290, 291)),
    ):
        made = drawn("█", gravity=gravity, margin=9)
        assert made[rows, places].min() > 0, gravity
        assert not made[:9].any()
        assert not made[-9:].any()


def test_hebrew_is_set_from_right_to_left() -> None:
    """The first letter is the rightmost one; digits in it stay from left to right."""
    alef, bet = "א", "ב"
    made = columns(drawn(alef + bet, size=40))
    alone = [columns(drawn(letter, size=40))[0] for letter in (bet, alef)]
    assert len(made) == 2
    for one, expected in zip(made, alone, strict=True):
        assert abs(one.shape[1] - expected.shape[1]) <= 1
        assert abs(int(one.sum()) - int(expected.sum())) < 0.05 * expected.sum()


def test_arabic_letters_are_joined() -> None:
    """Four letters of one word touch; with non-joiners between them they do not."""
    joined, apart = "محمد", "\u200c".join("محمد")
    assert len(columns(drawn(joined, size=40))) < len(columns(drawn(apart, size=40)))


def test_marks_are_placed_on_their_letters() -> None:
    composed, decomposed = drawn("é"), drawn("e\u0301")
    assert abs(int(composed.sum()) - int(decomposed.sum())) < 0.1 * composed.sum()


def test_lines() -> None:
    one, two = drawn("Ab", size=16), drawn("Ab\\nAb", size=16)
    assert np.count_nonzero(two.any(axis=1)) == 2 * np.count_nonzero(one.any(axis=1))


def test_a_size_in_percent_is_of_the_shorter_side() -> None:
    np.testing.assert_array_equal(drawn("Ab", size="25%"), drawn("Ab", size=20))


@pytest.mark.parametrize(
    "text",
    [
        "2024",
        "true",
        "1e5",
        "a=b",
        "|",
        "a | b",
        "it's",
        '"q"',
        "  ",
        "a\\nb",
        "\n",
        "=",
        "-",
        "none",
        "\u202e",
        "🎉",
        "\0",
    ],
)
def test_any_text_survives_all_forms_and_is_drawn(text: str) -> None:
    step = Step("text", {"text": text})
    assert Pipeline.parse(to_text([step])).steps == (step,)
    assert Pipeline.from_yaml(Pipeline([step]).to_yaml()).steps == (step,)
    assert Pipeline([step])(BLACK).shape == BLACK.shape


def test_sizes_larger_than_the_image_are_cut() -> None:
    sizes = [np.count_nonzero(drawn("W", size=size)) for size in (30, 300, 1000)]
    assert all(a < b for a, b in pairwise(sizes[:2]))
    with pytest.raises(OperatorRefused, match="it is too large"):
        drawn("W" * 1000, size=1000)


@pytest.mark.parametrize("content", [b"", b"no font", bytes(5000), FONT.read_bytes()[:2000]])
def test_what_is_no_font_is_refused(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "a.ttf").write_bytes(content)
    with pytest.raises(OperatorRefused, match="font cannot be used"):
        Pipeline(f"text Ab font={file}")(BLACK)


def test_a_named_font_is_used(tmp_path: Path) -> None:
    (file := tmp_path / "mine.ttf").write_bytes(FONT.read_bytes())
    np.testing.assert_array_equal(drawn("Ab", font=str(file)), drawn("Ab"))


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        ("text ''", "text: text"),
        ("text", "text is missing"),
        (f"text {'x' * 1001}", "text: text"),
        ("text a size=0", "text: size"),
        ("text a size=2001", "text: size"),
        ("text a color=red", "text: color"),
        (f"text a digest={'0' * 64}", "no font is named"),
    ],
)
def test_mistakes_are_named(pipeline: str, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        Pipeline(pipeline)


def test_a_text_that_is_not_unicode_is_refused() -> None:
    """As the command line has it for bytes that are not UTF-8."""
    with pytest.raises(PipelineError, match="text: a value is not valid UTF-8"):
        Pipeline.parse("text 'a\udca9b'")
