"""The gallery shows every operator."""

from pathlib import Path

from imageloom import operators
from imageloom.bench.samples import draw_photo
from imageloom.testing.gallery import HEIGHT, SHOWN, pictures

PAGE = Path(__file__).parent.parent / "docs" / "operators"
OWN = {one.name for one in operators.operators() if one.function.__module__.startswith("imageloom.")}


def test_each_operator_makes_a_picture() -> None:
    made = pictures(draw_photo(1, 300, HEIGHT))
    assert made.keys() >= OWN
    for text, picture in made.values():
        assert picture.shape[0] == HEIGHT, text
        assert picture.shape[1] > 300, text


def test_the_page_has_them_all() -> None:
    text = (PAGE / "README.md").read_text()
    assert SHOWN.keys() <= OWN
    assert {line[3:] for line in text.splitlines() if line.startswith("## ")} == OWN
    assert {file.stem for file in PAGE.glob("*.webp")} == OWN
